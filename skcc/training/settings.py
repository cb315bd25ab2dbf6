"""Every "auto": settings that follow from the data and the machine.

The numbers are measured; `docs/log.md` has the tables.
"""

import math

import torch
from torch import nn

from skcc.data import Store

LEARNING_RATE = 3e-3  # peak of the one-cycle schedule

# Parameters that decide where, how fast and how talkatively an estimator computes, and not what it
# learns. They do not count when a checkpoint, a record or a finished run is compared.
RUNTIME_PARAMETERS = frozenset({
    "cache_dir", "checkpoint_dir", "cuda_graphs", "device", "max_seconds", "n_jobs", "on_error",
    "precision", "verbose",
})  # fmt: skip
_TRAINING = ("max_epochs", "batch_size", "learning_rate", "weight_decay", "schedule")


def resolve_settings(estimator, store: Store, device: torch.device) -> dict[str, object]:
    """Resolve every "auto" of an estimator.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Its parameters are checked already.

    store : Store
        The training samples.

    device : torch.device
        Where training runs.

    Returns
    -------
    settings : dict of str to object
        Plain values; the attribute `settings_` of a fitted estimator.
    """
    n, shape = len(store), store.shape
    chosen = {name: getattr(estimator, name) for name in ("backbone", "augment", *_TRAINING)}
    if estimator.backbone == "auto":
        chosen["backbone"] = backbone_name(shape, device)
    elif isinstance(estimator.backbone, nn.Module):
        chosen["backbone"] = type(estimator.backbone).__name__
    if estimator.augment == "auto":
        chosen["augment"] = augmentation_name(store)
    elif callable(estimator.augment):
        chosen["augment"] = getattr(
            estimator.augment, "__name__", type(estimator.augment).__name__
        )
    if estimator.batch_size == "auto":
        chosen["batch_size"] = batch_size(n, estimator.n_clusters)
    chosen["batch_size"] = min(n, chosen["batch_size"])
    if estimator.max_epochs == "auto":
        chosen["max_epochs"] = max_epochs(n, chosen["batch_size"])
    if estimator.learning_rate == "auto":
        chosen["learning_rate"] = LEARNING_RATE
    precision = str(resolve_precision(estimator.precision, device))
    return chosen | {
        "max_epochs": int(chosen["max_epochs"]),  # may be numbers of NumPy
        "batch_size": int(chosen["batch_size"]),
        "learning_rate": float(chosen["learning_rate"]),
        "weight_decay": float(chosen["weight_decay"]),
        "image_size": view_size(shape, estimator.image_size, device),
        "device": str(device),
        "precision": precision.removeprefix("torch."),
    }


def view_size(
    shape: tuple[int, ...], image_size: int | None, device: torch.device
) -> tuple[int, int] | None:
    """Height and width of the views.

    Parameters
    ----------
    shape : tuple of int
        Shape of a stored sample.

    image_size : int or None
        Short side that the user wants.

    device : torch.device
        Where training runs.

    Returns
    -------
    size : tuple of (int, int) or None
        None for vectors.
    """
    if len(shape) == 1:
        return None
    short = min(shape[:2])
    side = image_size or image_side(short, device)
    return tuple(max(1, round(s * side / short)) for s in shape[:2])


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


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first of CUDA, MPS and CPU that is there.

    Returns
    -------
    device : torch.device
        With an index where the kind has several.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here: {str(error).splitlines()[0]}. Wanted "
            "'auto', 'cpu', or an accelerator that this torch can use, such as 'cuda' or 'mps'."
        ) from error


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type in which networks compute on a device.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        "auto" is bfloat16 on CUDA devices that have it, float32 elsewhere.

    device : torch.device
        Where.

    Returns
    -------
    dtype : torch.dtype
        Either torch.float32 or torch.bfloat16.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Optimizer steps per epoch.

    Parameters
    ----------
    n : int
        Number of samples.

    batch_size : int
        Most samples per step, but for a batch of three that cannot be cut.

    Returns
    -------
    steps : int
        An epoch is cut into this many equal batches; never zero, never so many that a batch
        would be a single sample, which has nothing to be contrasted with.
    """
    return min(math.ceil(n / batch_size), max(1, n // 2))
