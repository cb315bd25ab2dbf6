"""The papers' own settings of the estimators."""

import skcc
from skcc.experiments.classical import CLASSICAL
from skcc.methods import METHODS
from skcc.validation import check_known


def _contrastive(n_clusters, augment):
    return {
        "n_clusters": n_clusters,
        "backbone": "resnet34-image",
        "augment": augment,
        "image_size": 224,
        "n_heads": 1,
        "readout": "head",
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
        "readout": "head",
        "instance_temperature": 1.0,
        "momentum": 0.999,
        "instance_queue": round(16384 / batch_size),
        "prior_weight": 1.0,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": 1e-3,
        "schedule": "constant",
    }


def _iic(n_clusters, n_overclusters, image_size, repeats):
    return {
        "n_clusters": n_clusters,
        "n_overclusters": n_overclusters,
        "n_heads": 5,
        "backbone": "resnet34-small",
        "augment": "natural-moco",
        "image_size": image_size,
        "repeats": repeats,
        "warm_up": 0.0,
        "alternate": (1, 2),
        "marginal_weight": 1.0,
        "max_epochs": 6000,
        "batch_size": 220,
        "learning_rate": 1e-4,
        "readout": "head",
        "schedule": "constant",
    }


def _pica(n_clusters, image_size=32):
    return {
        "n_clusters": n_clusters,
        "n_overclusters": 7 * n_clusters,
        "backbone": "resnet34-small" if image_size <= 32 else "resnet34",
        "augment": "natural-moco",
        "image_size": image_size,
        "n_heads": 1,
        "repeats": 3,
        "warm_up": 0.0,
        "alternate": (1, 1),
        "max_epochs": 400,
        "batch_size": 256,
        "learning_rate": 1e-4,
        "readout": "head",
        "schedule": "constant",
    }


def _adc(n_clusters, image_size, max_epochs):
    return {
        "n_clusters": n_clusters,
        "backbone": "conv4",
        "augment": "natural-moco",
        "image_size": image_size,
        "repeats": 3,
        "warm_up": 0.0,
        "max_epochs": max_epochs,
        "batch_size": 100,
        "learning_rate": 2e-4,
        "readout": "head",
        "schedule": "constant",
    }


def _pairwise(n_clusters, image_size, **changes):
    return {
        "n_clusters": n_clusters,
        "backbone": "resnet18-small" if image_size <= 32 else "resnet18",
        "augment": "natural-moco",
        "image_size": image_size,
        "n_heads": 1,
        "n_subclusters": None,
        "max_epochs": 1000,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "readout": "head",
        "schedule": "constant",
        **changes,
    }


def _reconstruction(max_epochs, **changes):
    """Settings of the autoencoders of 32 x 32 colour images."""
    return {
        "n_clusters": 10,
        "image_size": 32,
        "max_epochs": max_epochs,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "readout": "kmeans",
        "schedule": "constant",
    } | changes


_RECIPES: dict[tuple[str, str], dict] = {
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
    # Invariant Information Clustering (ICCV 2019) and PICA (CVPR 2020), by their authors' code: an
    # epoch of the auxiliary heads, then two or one of the others. Their networks see the edges of a
    # gray image. The views are the nearest of ours: theirs are crops of a fixed size (IIC) and a
    # weaker change of hue.
    ("iic", "cifar10"): _iic(10, 70, 32, 3),
    ("iic", "cifar100"): _iic(20, 140, 32, 5),
    ("iic", "stl10"): _iic(10, 70, 64, 5),
    ("pica", "cifar10"): _pica(10),
    ("pica", "cifar100"): _pica(20),
    ("pica", "stl10"): _pica(10, 96),
    ("pica", "imagenet10"): _pica(10, 96),
    ("pica", "imagenet-dogs"): _pica(15, 96),
    # Associative Deep Clustering (GCPR 2018), by the authors' code: 200,000 steps, with a learning
    # rate that falls every 5,000.
    ("adc", "cifar10"): _adc(10, 32, 333),
    ("adc", "cifar100"): _adc(20, 32, 333),
    ("adc", "stl10"): _adc(10, 64, 1538),
    # Deep Adaptive Clustering (ICCV 2017) and DCCM (ICCV 2019), by the authors' code: batches of 32
    # and passes over the images. Their optimizer is RMSprop. The settings of Deep Discriminative
    # Clustering are not published; these are those of Deep Adaptive Clustering by the same authors.
    ("dac", "cifar10"): _pairwise(
        10, 32, pair_loss="cross-entropy", upper=0.99, lower=0.99, final=0.75
    ),
    ("dac", "stl10"): _pairwise(
        10, 96, pair_loss="cross-entropy", upper=0.99, lower=0.99, final=0.5
    ),
    ("ddc", "cifar10"): _pairwise(10, 32),
    ("ddc", "stl10"): _pairwise(10, 96),
    ("dccm", "cifar10"): _pairwise(
        10, 32, max_epochs=4000, learning_rate=1e-4, discriminator_width=512
    ),
    ("dccm", "cifar100"): _pairwise(
        20, 32, max_epochs=4000, learning_rate=1e-4, discriminator_width=512
    ),
    ("dccm", "stl10"): _pairwise(
        10, 96, max_epochs=4000, learning_rate=1e-4, discriminator_width=512
    ),
    # DeepCluster (ECCV 2018), the authors' code for ImageNet, but for the number of pseudo-labels,
    # which users of CIFAR-10 recommend. Theirs is AlexNet on edges, by SGD at 0.05.
    ("deepcluster", "cifar10"): {
        "n_clusters": 10,
        "n_pseudolabels": 100,
        "n_whitened": 256,
        "reassign_epochs": 1,
        "backbone": "resnet18-small",
        "augment": "natural-moco",
        "image_size": 32,
        "max_epochs": 200,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "weight_decay": 1e-5,
        "readout": "kmeans",
        "schedule": "constant",
    },
    # JULE (CVPR 2016), the authors' code: 20 epochs per period, batches of 100, no augmentation. Of
    # 10,000 images they have 3 periods, of which the last one, with the final clusters, is left out
    # here. Theirs is a network of one or two convolutions, by SGD at 0.01.
    ("jule", "cifar10"): {
        "n_clusters": 10,
        "unrolling_rate": 0.9,
        "min_share": 0.0,
        "backbone": "conv4",
        "augment": "none",
        "image_size": 32,
        "max_epochs": 40,
        "batch_size": 100,
        "learning_rate": 1e-3,
        "weight_decay": 5e-5,
        "readout": "head",
        "schedule": "constant",
    },
    # Neither networks nor settings of these rows of the table are published, so this is one recipe
    # each, of what is known from elsewhere. AE, DAE, VAE: a later re-implementation of DEC trains
    # its autoencoder by Adam at 1e-3 for 300 epochs; 10 numbers are its code; the noise of DAE is
    # unknown.
    ("autoencoder", "cifar10"): _reconstruction(300, code_dim=10),
    ("denoising", "cifar10"): _reconstruction(300, code_dim=10, corruption="masking"),
    ("variational", "cifar10"): _reconstruction(300, code_dim=10),
    # DEC (ICML 2016), the authors' code for MNIST: code of 10, batches of 256, 100,000 steps of
    # reconstruction, 365 epochs of MNIST, and at most 20,000 of self-training. Theirs is a
    # perceptron of 500, 500 and 2000 units, pre-trained layer by layer, by SGD with momentum.
    ("dec", "cifar10"): _reconstruction(73, pretraining_epochs=365, code_dim=10, readout="head"),
    # DCGAN (ICLR 2016): batches of 128, Adam at 2e-4, no smoothing, 4 x 4 cells. Epochs unknown.
    ("dcgan", "cifar10"): _reconstruction(
        100,
        batch_size=128,
        learning_rate=2e-4,
        label_smoothing=0.0,
        noise_dim=100,
        pooled_cells=4,
    ),
    # Deconvolutional networks (CVPR 2010): 9 and 45 maps, filters of 7 x 7 pixels, from memory.
    # There a map of the second layer sees one or two of the first. The rest are our defaults.
    ("deconvolutional", "cifar10"): {
        "n_clusters": 10,
        "image_size": 32,
        "n_maps": (9, 45),
        "filter_size": 7,
        "readout": "kmeans",
    },
}
# No paper has Muon; AdamW without weight decay is the Adam that most of them have.
RECIPES: dict[tuple[str, str], dict] = {
    key: {"optimizer": "adamw"} | settings for key, settings in _RECIPES.items()
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
    check_known("method", method, METHODS)
    estimator = getattr(skcc, METHODS[method])()
    for name in parameters:
        check_known("parameter", name, estimator.get_params(deep=False))
    return estimator.set_params(**parameters)
