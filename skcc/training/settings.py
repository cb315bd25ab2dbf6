"""Settings of training that are resolved from the data and the device ("auto").

The constants were chosen by experiments, which `docs/log.md` describes.
"""

import functools
import math

import torch
from torch import nn

from skcc.augment import AUGMENTATIONS, ImageAugmentation, VectorAugmentation
from skcc.backbones import BACKBONES
from skcc.data import SampleStore
from skcc.validation import plain

LEARNING_RATE = 3e-3  # peak of the one-cycle schedule

# Parameters that change where and how fast an estimator computes and what it prints, but not what
# it learns. They are ignored when checkpoints, records or finished runs are compared.
RUNTIME_PARAMETERS = frozenset({
    "cache_dir", "checkpoint_dir", "compile_step", "cuda_graphs", "device", "max_seconds", "n_jobs",
    "on_error", "precision", "verbose",
})  # fmt: skip


def resolve_settings(estimator, store: SampleStore, device: torch.device) -> dict[str, object]:
    """Resolve the parameters of an estimator that may be "auto".

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Its parameters are valid.

    store : SampleStore
        The training samples.

    device : torch.device
        Where training runs.

    Returns
    -------
    settings : dict of str to object
        Plain values; the attribute `settings_` of a fitted estimator.

    Raises
    ------
    ValueError
        If the backbone or the augmentation is for images and the samples are vectors, or the other
        way round.
    """
    _check_kind_of_samples("backbone", estimator.backbone, store.shape)
    _check_kind_of_samples("augment", estimator.augment, store.shape)
    n = len(store)
    size, epochs, rate = estimator.batch_size, estimator.max_epochs, estimator.learning_rate
    size = min(n, batch_size(n, estimator.n_clusters) if size == "auto" else size)
    optimizer = resolve_optimizer(estimator, store.shape, device)
    if epochs == "auto":
        is_trained = estimator._trains_on(tuple(store.shape))
        epochs = auto_epochs(estimator, n, size, optimizer) if is_trained else 0
    rate = (estimator._auto_learning_rate or LEARNING_RATE) if rate == "auto" else rate
    backbone = _resolve_backbone(estimator, store.shape, device) if epochs else "identity"
    precision = str(precision_of(estimator, backbone, device))
    # Numbers are converted, since they may be NumPy scalars.
    return {
        "backbone": backbone,
        "augment": _resolve_augment(estimator.augment, store),
        "max_epochs": int(epochs),
        "batch_size": int(size),
        "optimizer": optimizer,
        "learning_rate": float(rate),
        "weight_decay": float(estimator.weight_decay),
        "schedule": estimator.schedule,
        "image_size": view_size(store.shape, estimator.image_size, device),
        "device": str(device),
        "precision": precision.removeprefix("torch."),
    }


def _check_kind_of_samples(name, value, shape):
    """Raise ValueError if a backbone or augmentation is not for samples of this shape."""
    augmentation = AUGMENTATIONS.get(value) if isinstance(value, str) else value
    is_image, is_vector = len(shape) == 3, len(shape) == 1
    if is_image and (value == "mlp" or type(augmentation) is VectorAugmentation):
        raise ValueError(
            f"{name}={value!r} is for vectors, and X holds images of shape {tuple(shape)}; wanted "
            "'auto' or one for images"
        )
    if is_vector and (_is_image_network(value) or type(augmentation) is ImageAugmentation):
        raise ValueError(
            f"{name}={value!r} is for images, and X holds vectors of {shape[0]} features; wanted "
            f"{name}='auto', or image_shape=(height, width, channels) if they are rows of images"
        )


def _is_image_network(name):
    """Whether it is the name of a network of this package for images."""
    return isinstance(name, str) and name in BACKBONES and name != "mlp"


def _resolve_backbone(estimator, shape, device):
    """Name of the backbone; of a module, its class."""
    backbone = estimator.backbone
    if isinstance(backbone, nn.Module):
        return type(backbone).__name__
    if backbone != "auto":
        return backbone
    own = estimator._auto_image_backbone if len(shape) == 3 else None
    return own or backbone_name(shape, device)


def resolve_optimizer(estimator, shape: tuple[int, ...], device: torch.device) -> str:
    """Return the name of the optimizer; "auto" is Muon for methods that do as well with it.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Its parameters are valid.

    shape : tuple of int
        Shape of a stored sample.

    device : torch.device
        Where training runs.

    Returns
    -------
    name : str
        A key of `skcc.training.engine.OPTIMIZERS`.
    """
    if estimator.optimizer != "auto":
        return estimator.optimizer
    is_known = isinstance(estimator.backbone, str) and len(shape) == 3
    is_known &= device.type in ("cpu", "cuda")
    return estimator._auto_optimizer if is_known else "adamw"


def _resolve_augment(augment, store):
    """Name of the augmentation; of a callable, its own name or its class."""
    if callable(augment):
        return getattr(augment, "__name__", type(augment).__name__)
    return augmentation_name(store) if augment == "auto" else augment


def view_size(
    shape: tuple[int, ...], image_size: int | None, device: torch.device
) -> tuple[int, int] | None:
    """Return the height and width of the views.

    Parameters
    ----------
    shape : tuple of int
        Shape of a stored sample.

    image_size : int or None
        Short side of the views, in pixels; None means the default of `image_side`.

    device : torch.device
        Where training runs.

    Returns
    -------
    size : tuple of (int, int) or None
        In pixels; None for vectors.
    """
    if len(shape) == 1:
        return None
    short = min(shape[:2])
    side = image_size or image_side(short, device)
    return tuple(max(1, round(s * side / short)) for s in shape[:2])


def image_side(short_side: int, device: torch.device) -> int:
    """Return the default short side of the views.

    On a CPU it is small: more optimizer steps in the same time improve the clusters more than a
    higher resolution does.

    Parameters
    ----------
    short_side : int
        Short side of the stored images, in pixels.

    device : torch.device
        Where training runs.

    Returns
    -------
    side : int
        In pixels; at most `short_side`.
    """
    if device.type != "cpu":
        return min(short_side, 224)
    return min(short_side, 16) if short_side <= 32 else min(short_side // 2, 20)


def stored_side(short_side: int, view_side: int) -> int:
    """Return the side at which decoded image files are stored.

    It is larger than that of the views, so that crops keep their detail.

    Parameters
    ----------
    short_side : int
        Median short side of the files, in pixels.

    view_side : int
        Short side of the views, in pixels.

    Returns
    -------
    side : int
        In pixels; at most `short_side` and twice `view_side`.
    """
    return min(short_side, 2 * view_side)


def backbone_name(shape: tuple[int, ...], device: torch.device) -> str:
    """Return the name of the default backbone.

    Parameters
    ----------
    shape : tuple of int
        Shape of a stored sample.

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


def augmentation_name(store: SampleStore) -> str:
    """Return the name of the default augmentation.

    Images of three or four channels are colour images, unless the first 256 have equal channels.

    Parameters
    ----------
    store : SampleStore
        The samples.

    Returns
    -------
    name : str
        A key of `skcc.augment.AUGMENTATIONS`.
    """
    if len(store.shape) == 1:
        return "vector"
    if store.shape[-1] not in (3, 4):
        return "gray"
    colours = store.samples[:256, :, :, :3]
    return "gray" if bool((colours == colours[..., :1]).all()) else "natural-wide"


def batch_size(n: int, n_clusters: int) -> int:
    """Return the default number of samples per optimizer step.

    It grows with the number of clusters, so that each has several samples in a batch.

    Parameters
    ----------
    n : int
        Number of samples.

    n_clusters : int
        Number of clusters.

    Returns
    -------
    size : int
        At most `n`.
    """
    return min(n, max(256, 8 * n_clusters))


def auto_epochs(estimator, n: int, size: int, optimizer: str) -> int:
    """Return the number of epochs that an estimator takes by default.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Knows how many epochs of AdamW it takes, and what share of them of Muon.

    n : int
        Number of samples.

    size : int
        Samples per optimizer step.

    optimizer : str
        A key of `skcc.training.engine.OPTIMIZERS`.

    Returns
    -------
    epochs : int
        At least 1.
    """
    epochs = max(1, round(estimator._auto_epochs * max_epochs(n, size)))
    return math.ceil(estimator._muon_share * epochs) if optimizer == "muon" else epochs


def max_epochs(n: int, size: int) -> int:
    """Return the usual number of epochs of AdamW: about 500 steps, and at least 12 epochs.

    Parameters
    ----------
    n : int
        Number of samples.

    size : int
        Samples per optimizer step.

    Returns
    -------
    epochs : int
        Passes over the samples.
    """
    return max(12, round(500 / math.ceil(n / size)))


def resolve_device(device: str | torch.device) -> torch.device:
    """Resolve the parameter `device`.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first of CUDA, MPS and CPU that is available.

    Returns
    -------
    device : torch.device
        With an index, except for the CPU.

    Raises
    ------
    ValueError
        If the device is not available.
    """
    device = plain(device)
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except Exception as error:  # torch raises errors of many types
        raise ValueError(_unusable_device(device, f"{error}".partition("\n")[0])) from error


def check_device(device: str | torch.device) -> torch.device:
    """Resolve the parameter `device`, and check that it computes.

    Parameters
    ----------
    device : str or torch.device
        See `resolve_device`.

    Returns
    -------
    device : torch.device
        With an index, except for the CPU.

    Raises
    ------
    ValueError
        If the device is not available, or is "meta", which has shapes but no values.
    """
    resolved = resolve_device(device)
    if resolved.type == "meta":
        raise ValueError(_unusable_device(device, "its tensors have no values"))
    return resolved


def _unusable_device(device, reason):
    return (
        f"device={device!r} cannot be used here: {reason}. Expected 'auto', 'cpu', or an "
        "accelerator that this torch can use, such as 'cuda' or 'mps'."
    )


def precision_of(estimator, backbone: str, device: torch.device) -> torch.dtype:
    """Return the type in which the networks of an estimator compute.

    On a CPU, "auto" is bfloat16 on processors with AVX512-BF16 or AMX, for the image networks of
    this package, and for methods that declare `_bfloat16_on_cpus`, since their clusters were not
    found to be worse by it (docs/log.md, 2026-11-27).

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Its parameters are valid.

    backbone : str
        What `settings_` calls the network.

    device : torch.device
        Where the networks are.

    Returns
    -------
    dtype : torch.dtype
        Either torch.float32 or torch.bfloat16.
    """
    if plain(estimator.precision) == "auto" and device.type == "cpu":
        is_known = estimator._bfloat16_on_cpus and _is_image_network(backbone)
        return torch.bfloat16 if is_known and has_fast_bfloat16() else torch.float32
    return resolve_precision(estimator.precision, device)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Resolve the parameter `precision` of a network of any kind.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        "auto" is bfloat16 on CUDA devices that support it, float32 elsewhere.

    device : torch.device
        Device of the network.

    Returns
    -------
    dtype : torch.dtype
        Either torch.float32 or torch.bfloat16.
    """
    precision = plain(precision)
    if precision == "auto":
        has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if has_bf16 else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@functools.cache
def has_fast_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether the processor multiplies bfloat16 faster than float32: by AVX512-BF16 or AMX.

    Parameters
    ----------
    cpuinfo : str, default="/proc/cpuinfo"
        Where Linux lists what a processor can do.

    Returns
    -------
    has_fast_bfloat16 : bool
        False where there is no such file.
    """
    try:
        with open(cpuinfo) as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Return the number of optimizer steps per epoch, which has batches of nearly equal size.

    Parameters
    ----------
    n : int
        Number of samples.

    batch_size : int
        Largest number of samples per step. It is exceeded only where a batch would have a single
        sample, which has no negatives.

    Returns
    -------
    steps : int
        At least 1.
    """
    return min(math.ceil(n / batch_size), max(1, n // 2))
