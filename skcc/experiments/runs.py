"""Runs on data sets with known classes: fit a method, and make a record of the result."""

import contextlib
import platform
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL
import sklearn
import torch
from sklearn.utils import Bunch

import skcc
from skcc import fitting
from skcc.exceptions import TrainingInterruptedWarning
from skcc.experiments.classical import CLASSICAL, cluster, pixels
from skcc.experiments.recipes import make_estimator
from skcc.experiments.records import OTHER_READOUTS
from skcc.metrics import clustering_scores
from skcc.training.settings import steps_per_epoch


def run(method: str, bunch: Bunch, parameters: dict) -> dict:
    """Fit a method on a data set and measure it.

    Parameters
    ----------
    method : str
        A key of `METHODS` or `CLASSICAL`.

    bunch : Bunch
        A data set as returned by `skcc.datasets.load`.

    parameters : dict of str to object
        Parameters of the estimator; classical methods use ``n_clusters`` and ``random_state``
        only. ``n_clusters`` is the number of classes unless given.

    Returns
    -------
    record : dict
        Plain values: method, data set, parameters, number of images; ``acc``, ``nmi`` and ``ari``
        of the labels and, under the names of other read-outs, of what they make of the same
        features; number of clusters that are not empty, epochs of all phases that were trained and
        that were planned, seconds of `fit`, images that passed through a network in training,
        device, commit, versions.

    Raises
    ------
    ValueError
        If the method or a parameter is unknown, or a classical method has no ``n_clusters``.
    """
    if bunch.target is not None:
        parameters = {"n_clusters": len(np.unique(bunch.target)), **parameters}
    fit = _fit_classical if method in CLASSICAL else _fit_deep
    labels, results = fit(method, bunch, parameters)
    return {
        "method": method,
        "dataset": bunch.name,
        "parameters": parameters,
        "n": len(labels),
        **clustering_scores(bunch.target, labels),
        "clusters": len(np.unique(labels)),
        **results,
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "versions": versions(),
    }


def _fit_classical(method, bunch, parameters):
    """Cluster pixels by a classical method; return labels and results."""
    if "n_clusters" not in parameters:
        raise ValueError(f"{method} needs n_clusters, since {bunch.name} has no classes")
    started = time.perf_counter()
    X = pixels(bunch.images)
    n_clusters, random_state = parameters["n_clusters"], parameters.get("random_state")
    labels, steps = cluster(method, X, n_clusters, random_state)
    return labels, {
        "settings": {"pipeline": steps},
        "kmeans": None,
        "seconds": round(time.perf_counter() - started, 2),
        "image_forwards": 0,
        "device": "cpu",
    }


def _fit_deep(method, bunch, parameters):
    """Fit an estimator of this package; return labels and results."""
    estimator = make_estimator(method, parameters)
    started = time.perf_counter()
    with no_partial_result():
        estimator.fit(bunch.images, unlabeled=bunch.unlabeled)
    seconds = time.perf_counter() - started
    n = len(estimator.labels_)
    return estimator.labels_, {
        "settings": estimator.settings_,
        **_scores_by_other_readouts(estimator, bunch),
        "score": estimator.score(bunch.images),
        "epochs": estimator.n_iter_,
        "planned_epochs": estimator._planned_epochs(),
        "seconds": round(seconds, 2),
        "image_forwards": _count_forwards(estimator, n, bunch.unlabeled),
        "images_per_second": round(n * estimator.n_iter_ / seconds, 1),
        "device": estimator.settings_["device"],
    }


def _scores_by_other_readouts(estimator, bunch):
    """Scores of the same features by each read-out but that of the estimator; None without one."""
    scores = dict.fromkeys(OTHER_READOUTS)
    if bunch.target is None:
        return scores
    used = "kmeans" if "cluster_centers_" in vars(estimator) else estimator.readout
    for readout in {*OTHER_READOUTS} - {used}:
        labels = fitting.labels_by(estimator, bunch.images, readout)
        if labels is not None:
            scores[readout] = clustering_scores(bunch.target, labels)
    return scores


@contextlib.contextmanager
def no_partial_result() -> Iterator[None]:
    """Let Ctrl-C in this context end `fit` without a result, so that there is no record of it.

    Raises
    ------
    KeyboardInterrupt
        If training was interrupted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingInterruptedWarning)
        try:
            yield
        except TrainingInterruptedWarning as interrupt:
            raise KeyboardInterrupt(
                "interrupted; where there is a checkpoint, the same command goes on from it"
            ) from interrupt


def _count_forwards(estimator, n, unlabeled):
    """Count the images that passed through a network in training: all views, in whole batches."""
    sizes = [n] if unlabeled is None else [n, len(unlabeled)]
    steps = [steps_per_epoch(size, estimator.settings_["batch_size"]) for size in sizes]
    n_per_epoch = sum(size // s * s for size, s in zip(sizes, steps, strict=True))
    n_views = max(1, estimator._objective().n_views)  # 0 stands for the plain image
    return n_views * n_per_epoch * estimator.n_iter_


def commit() -> str | None:
    """Return the git commit of the checkout that this package is in.

    Returns
    -------
    commit : str or None
        Twelve hexadecimal digits, followed by "+" if tracked files of the package have changed.
        None if the package is in no checkout of its own.
    """
    package, program = Path(skcc.__file__).parent, shutil.which("git")
    if program is None:
        return None

    def git(*arguments):
        result = subprocess.run(  # nosec B603 # no shell, and constant arguments
            [program, "-C", package, *arguments], capture_output=True, text=True, check=True
        )
        return result.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails in another project's checkout
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> dict[str, str]:
    """Return the versions that measurements depend on.

    Returns
    -------
    versions : dict of str to str
        Versions of Python, of this package and of those that it computes with.
    """
    return {
        "python": platform.python_version(),
        "skcc": skcc.__version__,
        **{m.__name__: m.__version__ for m in (torch, sklearn, np, PIL)},
    }
