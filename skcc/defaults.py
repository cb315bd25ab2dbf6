"""Every "auto", in one place: what follows from the data and the machine.

The numbers are measured; `docs/log.md` has the tables.
"""

import math

import torch

from skcc.data import Store

LEARNING_RATE = 3e-3
"""Peak of the one-cycle schedule."""


def image_side(short_side: int, device: torch.device) -> int:
    """Short side of the views of images with this short side.

    On a CPU small views buy many more steps for the same time, and those count for more.

    Parameters
    ----------
    short_side : int
        Of the stored images, in pixels.

    device : torch.device
        Where training runs.

    Returns
    -------
    side : int
        Never larger than the images.
    """
    if device.type != "cpu":
        return min(short_side, 224)
    return min(short_side, 16) if short_side <= 32 else min(short_side // 2, 20)


def stored_side(short_side: int, view_side: int) -> int:
    """Side at which image files are kept, so that crops still have detail.

    Parameters
    ----------
    short_side : int
        Median short side of the files, in pixels.

    view_side : int
        Short side of the views.

    Returns
    -------
    side : int
        Up to twice that of the views.
    """
    return min(short_side, 2 * view_side)


def backbone_name(shape: tuple[int, ...], device: torch.device) -> str:
    """Name of the network for samples of this shape.

    Parameters
    ----------
    shape : tuple of int
        Of one sample.

    device : torch.device
        Where training runs.

    Returns
    -------
    name : str
        A key of `skcc.backbones.BACKBONES`.
    """
    if len(shape) == 1:
        return "mlp"
    return "conv4" if device.type == "cpu" else "resnet18"


def augmentation_name(store: Store) -> str:
    """Name of the augmentation for these samples.

    Parameters
    ----------
    store : Store
        The samples.

    Returns
    -------
    name : str
        A key of `skcc.augment.AUGMENTATIONS`. Images of three or four channels are taken for
        natural ones, unless the first 256 have no colour in them.
    """
    if len(store.shape) == 1:
        return "vector"
    if store.shape[-1] not in (3, 4):
        return "gray"
    some = store.samples[:256, :, :, :3]
    return "gray" if bool((some == some[..., :1]).all()) else "natural"


def batch_size(n: int, n_clusters: int) -> int:
    """Samples per step.

    Parameters
    ----------
    n : int
        Number of samples.

    n_clusters : int
        Number of clusters; a column of the assignments should have several members in a batch.

    Returns
    -------
    size : int
        At most `n`.
    """
    return min(n, max(256, 8 * n_clusters))


def max_epochs(n: int, size: int) -> int:
    """Passes over the samples, by a budget of optimizer steps.

    Parameters
    ----------
    n : int
        Number of samples.

    size : int
        Samples per step.

    Returns
    -------
    epochs : int
        As many as the budget buys, but at least 12.
    """
    return max(12, round(500 / math.ceil(n / size)))
