"""Estimators by the names of their methods, and the papers' own settings."""

import skcc
from skcc.experiments.classical import CLASSICAL

METHODS = {
    "contrastive": "ContrastiveClustering",
    "twin": "TwinContrastClustering",
    "autoencoder": "AutoencoderClustering",
    "denoising": "DenoisingAutoencoderClustering",
    "variational": "VariationalAutoencoderClustering",
    "deconvolutional": "DeconvolutionalClustering",
    "dcgan": "DCGANClustering",
    "dec": "DEC",
}


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
    # Contrastive Clustering (AAAI 2021), section 4 and the authors' code: Adam without weight
    # decay; jitter strength 0.5 ("natural") or 1.0 ("-strong"); "-blur" for ImageNet-10 and
    # ImageNet-Dogs only. STL-10 was trained on its 100,000 unlabelled images, too.
    ("contrastive", "cifar10"): _contrastive(10, "natural"),
    ("contrastive", "cifar100"): _contrastive(20, "natural"),
    ("contrastive", "stl10"): _contrastive(10, "natural-strong"),
    ("contrastive", "imagenet10"): _contrastive(10, "natural-strong-blur"),
    ("contrastive", "imagenet-dogs"): _contrastive(15, "natural-strong-blur"),
    ("contrastive", "tiny-imagenet"): _contrastive(200, "natural"),
    # Twin-Contrast Clustering (NeurIPS 2021), for the five data sets of the paper. Its settings are
    # not published. These come from earlier code of its first author, and from MiCE, whose recipe
    # that code follows. Batch size and image size for ImageNet are guesses; the rest are our
    # defaults.
    ("twin", "cifar10"): _twin(10, "resnet34-small", 32),
    ("twin", "cifar100"): _twin(20, "resnet34-small", 32),
    ("twin", "stl10"): _twin(10, "resnet34-image", 96, max_epochs=3000),
    ("twin", "imagenet10"): _twin(10, "resnet34-image", 96),
    ("twin", "imagenet-dogs"): _twin(15, "resnet34-image", 96),
}


def recipe(name: str | None, method: str, dataset: str) -> dict:
    """Return the settings of a method for a data set.

    Parameters
    ----------
    name : {"paper"} or None
        None stands for no settings.

    method : str
        A key of `METHODS` or of `skcc.experiments.classical.CLASSICAL`; classical methods have no
        settings.

    dataset : str
        Name of the data set.

    Returns
    -------
    parameters : dict of str to object
        Parameters of the estimator.

    Raises
    ------
    ValueError
        If the paper has no settings for this method and data set.
    """
    if name is None or method in CLASSICAL:
        return {}
    if (method, dataset) not in RECIPES:
        raise ValueError(f"the paper has no settings for {method} on {dataset}")
    return dict(RECIPES[method, dataset])


def make_estimator(method: str, parameters: dict):
    """Make an estimator by the name of its method.

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
        If the method is unknown, or has no such parameter; the message lists the known ones.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; there are {', '.join(sorted(METHODS))}")
    return getattr(skcc, METHODS[method])().set_params(**parameters)
