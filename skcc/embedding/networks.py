"""A frozen network on its device: what it is made from, and how images reach it."""

import copy
import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.data.decoding import Resize
from skcc.embedding import libraries
from skcc.rng import private_rng
from skcc.training.settings import resolve_device, resolve_precision
from skcc.training.sweep import autocast

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation
_WHITE = 255


@dataclass(frozen=True)
class Preprocessing:
    """How a network wants its images.

    Parameters
    ----------
    size : int
        Side of the square that the network sees, in pixels.

    resize : int
        Short side to which an image is resized before its centre of `size` is cut out.

    mean, std : tuple of (float, float, float)
        Mean and standard deviation of red, green and blue, where white is 1.

    interpolation : {"bilinear", "bicubic"}, default="bicubic"
        Filter of the resize. It averages over all pixels when images become smaller.

    squash : bool, default=False
        Whether an image is squeezed into a square, instead of being cut.

    antialias : bool, default=True
        Whether arrays are enlarged by the filter of Pillow, whose bicubic coefficient is -0.5.
        False is that of TensorFlow, -0.75. Images become smaller by Pillow's in any case.
    """

    size: int
    resize: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    squash: bool = False
    antialias: bool = True

    def with_size(self, size: int) -> "Preprocessing":
        """Change the size; the share of an image that is cut off stays.

        Parameters
        ----------
        size : int
            Side of the square that the network sees, in pixels.

        Returns
        -------
        preprocessing : Preprocessing
            A changed copy.
        """
        return replace(self, size=size, resize=max(size, round(self.resize * size / self.size)))

    def file_resize(self) -> Resize:
        """Tell how files are decoded to squares of side `resize`.

        Returns
        -------
        resize : skcc.data.decoding.Resize
            Filter, and whether images are squeezed.
        """
        return Resize(Image.Resampling[self.interpolation.upper()], self.squash)

    def __call__(self, images: Tensor) -> Tensor:
        """Prepare a batch of images.

        Parameters
        ----------
        images : Tensor of shape (n, height, width, channels) and dtype uint8
            Gray, gray with alpha, RGB or RGBA.

        Returns
        -------
        batch : Tensor of shape (n, 3, size, size)
            Float32, in memory format channels_last.
        """
        images = _on_white(images.permute(0, 3, 1, 2))
        images = self._resized(images)
        top, left = ((side - self.size) // 2 for side in images.shape[2:])
        images = images[..., top : top + self.size, left : left + self.size]
        images = images.expand(-1, 3, -1, -1).to(torch.float32, memory_format=torch.channels_last)
        mean, std = (
            torch.tensor(value, device=images.device).mul_(_WHITE).view(1, 3, 1, 1)
            for value in (self.mean, self.std)
        )
        return (images - mean).div_(std)

    def _resized(self, images):
        height, width = images.shape[2:]
        factor = self.resize / min(height, width)
        target = [max(self.resize, round(side * factor)) for side in (height, width)]
        if self.squash:
            target = [self.resize, self.resize]
        if target == [height, width]:
            return images
        as_pillow = self.antialias or factor < 1
        # Bytes in and out, as Pillow does it; accelerators resize floats only.
        is_fast = as_pillow and images.device.type == "cpu"
        source = images if is_fast else images.float()
        resized = F.interpolate(source, target, mode=self.interpolation, antialias=as_pillow)
        if is_fast:
            return resized
        return (resized.round_() if as_pillow else resized).clamp_(0, _WHITE)


def _on_white(images):
    """Composite images with an alpha channel on white; leave the others as they are."""
    if images.shape[1] not in (2, 4):
        return images
    colour, alpha = images[:, :-1].float(), images[:, -1:].float() / _WHITE
    return (colour * alpha + _WHITE * (1 - alpha)).round_().to(torch.uint8)


class FrozenNetwork:
    """A network in evaluation mode on its device, with its preprocessing.

    Parameters
    ----------
    module : nn.Module
        From images of shape (n, 3, size, size) to features of shape (n, d). It is taken over.

    preprocessing : Preprocessing
        How it wants its images.

    name : str
        Its name in messages.

    device : str, default="auto"
        Where to compute.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which to compute.

    Raises
    ------
    ValueError
        If the module cannot take such images, or returns something else than features.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocessing: Preprocessing,
        name: str,
        device: str = "auto",
        precision: str = "auto",
    ):
        self.preprocessing, self.name = preprocessing, name
        self.made_from: dict[str, object] | None = None  # parameters that led to it
        self.device = resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.module = module.eval().requires_grad_(False)
        self.weights_hash = hash_of_weights(module)
        self.module.to(self.device, memory_format=torch.channels_last)
        self.width = self._measure_width()

    def __call__(self, images: Tensor) -> Tensor:
        """Compute the features of images.

        Parameters
        ----------
        images : Tensor of shape (n, height, width, channels) and dtype uint8
            Gray, gray with alpha, RGB or RGBA.

        Returns
        -------
        features : Tensor of shape (n, d)
            Float32, on the CPU.
        """
        with torch.inference_mode(), autocast(self.device, self.dtype):
            batch = self.preprocessing(images.to(self.device, non_blocking=True))
            return self.module(batch).float().cpu()

    def identity(self) -> dict[str, object]:
        """Describe all that features depend on beside the image.

        Returns
        -------
        identity : dict of str to object
            Plain values.
        """
        return {
            "weights": self.weights_hash,
            "module": re.sub(r"0x[0-9a-f]+", "", repr(self.module)),
            "precision": str(self.dtype),
            **asdict(self.preprocessing),
        }

    def _measure_width(self):
        """Return the number of features, found by a dry run on two images."""
        size = self.preprocessing.size
        what = f"{self.name} with images of {size} x {size} pixels"
        try:
            with torch.inference_mode(), autocast(self.device, self.dtype):
                images = torch.zeros(2, size, size, 3, dtype=torch.uint8, device=self.device)
                features = self.module(self.preprocessing(images))
        except Exception as error:  # of somebody else's code
            reason = str(error) or type(error).__name__
            raise ValueError(f"cannot use {what}: {reason}. Another size= may help") from error
        is_matrix = isinstance(features, Tensor) and features.ndim == 2 and len(features) == 2
        if is_matrix and features.is_floating_point() and features.shape[1]:
            return features.shape[1]
        raise ValueError(f"cannot use {what}: {_wrong_output(features)}")


def _wrong_output(features):
    """Return what is wrong about the output of a network, and what to do about it."""
    wanted = "wanted features of shape (2, d) for two images"
    if not isinstance(features, Tensor):
        return (
            f"it returns a {type(features).__name__}; {wanted}: give a module whose forward "
            "selects one tensor"
        )
    got = f"it returns shape {tuple(features.shape)} and {features.dtype}; {wanted}"
    if features.ndim == 4:
        return f"{got}: give nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten())"
    if features.ndim == 3:
        return f"{got}: give a module that takes the class token or the mean of the tokens"
    return got


def hash_of_weights(module: nn.Module) -> str:
    """Compute a hash of all parameters and buffers of a module."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy() if flat.numel() else b"")
    return digest.hexdigest()


def load_network(
    network: str | nn.Module,
    *,
    weights: str | Path | None = None,
    size: int | None = None,
    normalize: object = None,
    device: str = "auto",
    precision: str = "auto",
) -> FrozenNetwork:
    """Load a pre-trained network, without its classifier.

    Parameters
    ----------
    network : str or nn.Module
        See `skcc.ImageEmbedder`, as for all other parameters.

    weights : str or Path, default=None
        File of weights.

    size : int, default=None
        Side of the square that the network sees.

    normalize : "imagenet" or tuple of (mean, std), default=None
        Mean and standard deviation of pixels, where white is 1.

    device : str, default="auto"
        Where to compute.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which to compute.

    Returns
    -------
    network : FrozenNetwork
        On its device.

    Raises
    ------
    ValueError
        If there is no such network, if the weights are not its own, or if it cannot be used.

    ImportError
        If the library of the network is not installed.

    skcc.exceptions.WeightsNotFoundError
        If its weights are not here and cannot be downloaded.
    """
    if isinstance(network, nn.Module):
        module, name = copy.deepcopy(network), type(network).__name__
        if weights is not None:
            libraries.load_state(module, libraries.read_state(weights), weights)
        if size is None or normalize is None:
            raise ValueError(
                f"network={name} is a module, which does not say how it wants its images: give "
                'size=, such as 224, and normalize=, "imagenet" or a pair of mean and standard '
                "deviation of pixels from 0 to 1"
            )
        mean, std = moments(normalize)
        preprocessing = Preprocessing(size, size, mean, std)
    else:
        name = network
        with private_rng(0, torch.device("cpu")):  # modules draw weights that are replaced
            module, config = libraries.load(name, weights, size)
        preprocessing = Preprocessing(**config)
        if size is not None:
            preprocessing = preprocessing.with_size(size)
        if normalize is not None:
            mean, std = moments(normalize)
            preprocessing = replace(preprocessing, mean=mean, std=std)
    return FrozenNetwork(module, preprocessing, name, device, precision)


def moments(normalize) -> tuple[tuple, tuple]:
    """Return mean and standard deviation of the three channels from the parameter `normalize`."""
    if isinstance(normalize, str) and normalize == "imagenet":
        return IMAGENET
    try:
        mean, std = (
            tuple(float(v) for v in (value if hasattr(value, "__len__") else [value] * 3))
            for value in normalize
        )
        valid = len(mean) == len(std) == 3 and min(std) > 0
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            'normalize must be "imagenet", or a pair of mean and standard deviation of pixels '
            f"from 0 to 1, each a number or three; got {normalize!r}"
        )
    return mean, std
