"""Runs on data sets with known classes: recipes, rows of scikit-learn, and one record per run."""

import contextlib
import platform
import shutil
import subprocess
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import sklearn
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.decomposition import NMF, PCA
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch

import skcc
from skcc import data
from skcc.exceptions import TrainingInterruptedWarning
from skcc.experiments.recipes import make_estimator
from skcc.metrics import clustering_scores
from skcc.training.settings import steps_per_epoch

PIXELS = 32  # most on the short side of the images that classical methods see
_NEIGHBOURS = 10
_COMPONENTS = 50  # principal, in front of graphs of neighbours


# The settings of Contrastive Clustering (AAAI 2021), from the paper's section 4 and its authors'
# code: Adam without decay, jitter strength 0.5 ("natural") or 1.0 ("-strong"), "-blur" for
# ImageNet-10 and ImageNet-Dogs alone. STL-10 was trained on its 100,000 unlabelled images, too.


def pixels(images) -> np.ndarray:
    """Images as rows of a table.

    Parameters
    ----------
    images : array-like, tensor, str, Path or list
        As in the estimators' `fit`; files are brought to at most 32 pixels on the short side.

    Returns
    -------
    X : ndarray of shape (n_samples, height * width * channels)
        Float32, from 0 to 1.
    """
    store, _ = data.read(images, side=lambda short: min(short, PIXELS))
    return store.samples.flatten(1).numpy().astype(np.float32) / 255


def _k_means(n_clusters, random_state, rank):
    return [KMeans(n_clusters, n_init=10, random_state=random_state)]


def _spectral(n_clusters, random_state, rank):
    return [
        PCA(min(_COMPONENTS, rank), random_state=random_state),
        SpectralClustering(
            n_clusters,
            affinity="nearest_neighbors",
            n_neighbors=_NEIGHBOURS,
            assign_labels="cluster_qr",
            random_state=random_state,
        ),
    ]


def _agglomerative(n_clusters, random_state, rank):
    graph = partial(kneighbors_graph, n_neighbors=_NEIGHBOURS)
    return [
        PCA(min(_COMPONENTS, rank), random_state=random_state),
        AgglomerativeClustering(n_clusters, linkage="ward", connectivity=graph),
    ]


def _nmf(n_clusters, random_state, rank):
    return [
        NMF(n_clusters, init="nndsvda", max_iter=1000, random_state=random_state),
        *_k_means(n_clusters, random_state, rank),
    ]


# scikit-learn's rows of the papers' table, on pixels; of how many dimensions, is `rank`.
# `records.STANDS_FOR` says where the papers' were others.
CLASSICAL = {
    "agglomerative": _agglomerative,
    "kmeans": _k_means,
    "nmf": _nmf,
    "spectral": _spectral,
}


def run(method: str, bunch: Bunch, parameters: dict) -> dict:
    """Fit a method on a data set and measure it.

    Parameters
    ----------
    method : str
        A key of `METHODS` or `CLASSICAL`.

    bunch : Bunch
        A data set as `skcc.datasets.load` gives it.

    parameters : dict of str to object
        Parameters of the estimator; of a classical method ``n_clusters`` and ``random_state``
        alone. ``n_clusters`` is the number of classes unless given.

    Returns
    -------
    record : dict
        Plain values: method, data set, parameters, number of images; ``acc``, ``nmi`` and ``ari``
        of the labels and, under ``kmeans``, of k-means of the features; clusters used, seconds of
        `fit`, images that passed through a network in training, device, commit, versions.

    Raises
    ------
    ValueError
        If there is no such method or parameter, or a classical method has no ``n_clusters``.
    """
    if bunch.target is not None:
        parameters = {"n_clusters": len(np.unique(bunch.target)), **parameters}
    measure = _run_classical if method in CLASSICAL else _run_deep
    labels, measured = measure(method, bunch, parameters)
    return {
        "method": method,
        "dataset": bunch.name,
        "parameters": parameters,
        "n": len(labels),
        **clustering_scores(bunch.target, labels),
        "clusters": len(np.unique(labels)),
        **measured,
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "versions": versions(),
    }


def _run_classical(method, bunch, parameters):
    allowed = {"n_clusters", "random_state"}
    used = {name: value for name, value in parameters.items() if name in allowed}
    if "n_clusters" not in used:
        raise ValueError(f"{method} needs n_clusters, since {bunch.name} has no classes")
    started = time.perf_counter()
    X = pixels(bunch.images)
    steps = CLASSICAL[method](used["n_clusters"], used.get("random_state"), min(X.shape))
    labels = make_pipeline(*steps).fit_predict(X)
    return labels, {
        "settings": {"pipeline": " | ".join(type(step).__name__ for step in steps)},
        "kmeans": None,
        "seconds": round(time.perf_counter() - started, 2),
        "image_forwards": 0,
        "device": "cpu",
    }


def _run_deep(method, bunch, parameters):
    estimator = make_estimator(method, parameters)
    started = time.perf_counter()
    with no_partial_result():
        estimator.fit(bunch.images, unlabeled=bunch.unlabeled)
    seconds = time.perf_counter() - started
    n, k = len(estimator.labels_), estimator.n_clusters
    kmeans = None
    if bunch.target is not None and estimator.readout != "kmeans":
        features = normalize(estimator.transform(bunch.images))
        found = KMeans(k, n_init=10, random_state=0).fit_predict(features)
        kmeans = clustering_scores(bunch.target, found)
    return estimator.labels_, {
        "settings": estimator.settings_,
        "kmeans": kmeans,
        "score": estimator.score(bunch.images),
        "epochs": estimator.n_iter_,
        "seconds": round(seconds, 2),
        "image_forwards": _forwards(estimator, n, bunch.unlabeled),
        "images_per_second": round(n * estimator.n_iter_ / seconds, 1),
        "device": estimator.settings_["device"],
    }


@contextlib.contextmanager
def no_partial_result():
    """A block in which Ctrl-C ends `fit` without a result: no record is of half a training.

    Raises
    ------
    KeyboardInterrupt
        If training was interrupted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingInterruptedWarning)
        try:
            yield
        except TrainingInterruptedWarning as stop:
            raise KeyboardInterrupt(
                "interrupted; where there is a checkpoint, the same command goes on from it"
            ) from stop


def _forwards(estimator, n, unlabeled):
    """Images that passed through a network in training: two views of each, in whole batches."""
    sizes = [n] if unlabeled is None else [n, len(unlabeled)]
    steps = [steps_per_epoch(size, estimator.settings_["batch_size"]) for size in sizes]
    trained = sum(size // s * s for size, s in zip(sizes, steps, strict=True))
    return 2 * trained * estimator.n_iter_


def commit() -> str | None:
    """The commit that this package is a checkout of.

    Returns
    -------
    commit : str or None
        Twelve digits, with a + behind them if files of it have changed; None if it is none.
    """
    home, program = Path(skcc.__file__).parent, shutil.which("git")
    if program is None:
        return None

    def git(*arguments):
        done = subprocess.run(  # nosec B603 # no shell, and nothing of it is a stranger's
            [program, "-C", home, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not a package inside another's checkout
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """What measurements depend on.

    Returns
    -------
    versions : dict of str to str
        Of Python, this package and those it computes with.
    """
    return {
        "python": platform.python_version(),
        "skcc": skcc.__version__,
        **{m.__name__: m.__version__ for m in (torch, sklearn, np, PIL)},
    }
