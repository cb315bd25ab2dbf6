"""Runs on data sets with known classes: recipes, and one record per run."""

import platform
import time

import numpy as np
import PIL
import sklearn
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import skcc
from skcc.datasets import DATASETS
from skcc.metrics import clustering_accuracy

METHODS = {"contrastive": "ContrastiveClustering", "twin": "TwinContrastClustering"}


def _contrastive(n_clusters, augment):
    return {
        "n_clusters": n_clusters,
        "backbone": "resnet34-image",
        "augment": augment,
        "image_size": 224,
        "n_heads": 1,
        "max_epochs": 1000,
        "batch_size": 256,
        "learning_rate": 3e-4,
        "schedule": "constant",
        "precision": "fp32",
    }


def _twin(n_clusters, backbone, image_size, max_epochs=1000):
    batch_size = 32 * n_clusters
    return {
        "n_clusters": n_clusters,
        "backbone": backbone,
        "augment": "natural-moco",
        "image_size": image_size,
        "n_heads": 1,
        "instance_temperature": 1.0,
        "momentum": 0.999,
        "instance_queue": round(16384 / batch_size),
        "prior_weight": 1.0,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "schedule": "constant",
    }


# The settings of Contrastive Clustering (AAAI 2021), from the paper's section 4 and its authors'
# code: Adam without decay, jitter strength 0.5 ("natural") or 1.0 ("-strong"), "-blur" for
# ImageNet-10 and ImageNet-Dogs alone. STL-10 was trained on its 100,000 unlabelled images, too.
RECIPES: dict[tuple[str, str], dict] = {
    ("contrastive", "cifar10"): _contrastive(10, "natural"),
    ("contrastive", "cifar100"): _contrastive(20, "natural"),
    ("contrastive", "stl10"): _contrastive(10, "natural-strong"),
    ("contrastive", "imagenet10"): _contrastive(10, "natural-strong-blur"),
    ("contrastive", "imagenet-dogs"): _contrastive(15, "natural-strong-blur"),
    ("contrastive", "tiny-imagenet"): _contrastive(200, "natural"),
    # Twin-Contrast Clustering (NeurIPS 2021), on the five sets that it was reported for. Nobody has
    # published its settings: these are of its first author's earlier code and of MiCE, whose recipe
    # that follows. Batch and size of ImageNet's images are guesses; the rest is our default.
    ("twin", "cifar10"): _twin(10, "resnet34-small", 32),
    ("twin", "cifar100"): _twin(20, "resnet34-small", 32),
    ("twin", "stl10"): _twin(10, "resnet34-image", 96, max_epochs=3000),
    ("twin", "imagenet10"): _twin(10, "resnet34-image", 96),
    ("twin", "imagenet-dogs"): _twin(15, "resnet34-image", 96),
}


def make_estimator(method: str, parameters: dict):
    """An estimator by the name of its method.

    Parameters
    ----------
    method : str
        A key of `METHODS`.

    parameters : dict of str to object
        Parameters of the estimator.

    Returns
    -------
    estimator : BaseDeepClusterer
        Not fitted.

    Raises
    ------
    ValueError
        If there is no such method, or it has no such parameter; names those it has.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(sorted(METHODS))}")
    return getattr(skcc, METHODS[method])().set_params(**parameters)


def agreement(target, labels) -> dict[str, float | None]:
    """ACC, NMI and ARI of a clustering.

    Parameters
    ----------
    target : array-like of shape (n_samples,) or None
        Classes. Without them all three are None.

    labels : array-like of shape (n_samples,)
        Clusters.

    Returns
    -------
    scores : dict of str to float
        Keys "ACC", "NMI", "ARI".
    """
    if target is None:
        return dict.fromkeys(("ACC", "NMI", "ARI"))
    return {
        "ACC": clustering_accuracy(target, labels),
        "NMI": float(normalized_mutual_info_score(target, labels)),
        "ARI": float(adjusted_rand_score(target, labels)),
    }


def run(
    method: str, dataset: str, *, parameters: dict, root: str | None, download: bool = False
) -> dict:
    """Fit a method on a data set and measure it.

    Parameters
    ----------
    method : str
        A key of `METHODS`.

    dataset : str
        A key of `skcc.datasets.DATASETS`.

    parameters : dict of str to object
        Parameters of the estimator. ``n_clusters`` is the number of classes unless given.

    root : str or None
        Folder of the data set, for those that need one.

    download : bool, default=False
        Whether the data set may be downloaded.

    Returns
    -------
    record : dict
        Parameters, scores, clusters used, seconds of `fit`, images per second of training,
        device and versions; plain values.

    Raises
    ------
    ValueError
        If a name is unknown, or the data set needs a folder.
    """
    if dataset not in DATASETS:
        raise ValueError(f"no data set {dataset!r}; there are {', '.join(sorted(DATASETS))}")
    if root is None and dataset != "digits":
        raise ValueError(f"the data set {dataset!r} needs --root, the folder where it is")
    bunch = DATASETS[dataset](root, download=download)
    if bunch.target is not None:
        parameters = {"n_clusters": len(np.unique(bunch.target)), **parameters}
    estimator = make_estimator(method, parameters)
    started = time.perf_counter()
    estimator.fit(bunch.images)
    seconds = time.perf_counter() - started
    n = len(estimator.labels_)
    return {
        "method": method,
        "dataset": dataset,
        "parameters": parameters,
        "settings": estimator.settings_,
        "n": n,
        **agreement(bunch.target, estimator.labels_),
        "clusters": len(np.unique(estimator.labels_)),
        "score": estimator.score(bunch.images),
        "seconds": round(seconds, 2),
        "images_per_second": round(n * estimator.n_iter_ / seconds, 1),
        "device": estimator.settings_["device"],
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


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
