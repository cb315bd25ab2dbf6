"""Estimators by the names of their methods, and the papers' own settings."""

import skcc

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


def recipe(name: str | None, method: str, dataset: str) -> dict:
    """Settings by their name on the command line.

    Parameters
    ----------
    name : {"paper"} or None
        None are no settings at all.

    method : str
        A key of `METHODS`.

    dataset : str
        Name of the data set.

    Returns
    -------
    parameters : dict of str to object
        Of the estimator.

    Raises
    ------
    ValueError
        If the paper has none.
    """
    if name is None or method not in METHODS:
        return {}
    if (method, dataset) not in RECIPES:
        raise ValueError(f"the paper has no settings for {method} on {dataset}")
    return dict(RECIPES[method, dataset])


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
