"""Networks that map images or vectors to features.

Each entry of `BACKBONES` is a function ``(shape, size) -> nn.Module``. ``shape`` is the shape of a
stored sample, ``(height, width, channels)`` or ``(features,)``; ``size`` is the height and width of
the views. Only the ResNets import torchvision.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SMALL_STEM_SIDE = 40  # pixels; up to this side the stem does not reduce the resolution
MIDDLE_STEM_SIDE = 80  # pixels; up to this side the stem halves it, above it divides it by 4


def _conv_norm(n_in, n_out, stride=1, kernel=3):
    """A convolution that pads its input, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


class _GridPool(nn.AdaptiveAvgPool2d):
    """Local averages; of a map that has the size of the grid, the map, without a slow copy."""

    def forward(self, x):
        return x if x.shape[-2:] == self.output_size else super().forward(x)


class GlobalLocalPool(nn.Module):
    """Global average pooling, concatenated with a linear layer on a grid of local averages.

    Global pooling discards positions, which halves the accuracy on aligned shapes such as letters.
    The local averages alone are slow to learn invariance to translation (docs/log.md, 2026-11-22).

    Parameters
    ----------
    channels : int
        Channels of the feature map.

    cells : tuple of (int, int)
        Rows and columns of the grid.
    """

    def __init__(self, channels: int, cells: tuple[int, int]):
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.cells = nn.Sequential(
            _GridPool(cells),
            nn.Flatten(),
            nn.Linear(channels * cells[0] * cells[1], channels, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool a feature map.

        Parameters
        ----------
        x : Tensor of shape (n, channels, height, width)
            The feature map.

        Returns
        -------
        h : Tensor of shape (n, 2 * channels)
            Global averages, then the output of the linear layer.
        """
        return torch.cat([self.mean(x), self.cells(x)], dim=1)


def _conv4(shape, size, widths=(32, 64, 128, 128)):
    """Three convolutions, a pointwise one and `GlobalLocalPool`; a small network for CPUs."""
    strides, kernels = (2 if min(size) > SMALL_STEM_SIDE else 1, 2, 2, 1), (3, 3, 3, 1)
    cells = tuple(min(4, _output_side(strides, side)) for side in size)
    layers = zip((shape[-1], *widths), widths, strides, kernels, strict=False)
    convolutions = [_conv_norm(*layer) for layer in layers]
    return _kaiming(nn.Sequential(*convolutions, GlobalLocalPool(widths[-1], cells)))


def _output_side(strides, side):
    """Side of the feature map after 3 x 3 convolutions with padding 1."""
    for stride in strides:
        side = math.ceil(side / stride)
    return side


def _kaiming(network):
    """Initialise the convolutions by Kaiming's rule and return the network."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _torchvision_models():
    """Import torchvision's models; raise an ImportError with instructions if that fails."""
    try:
        from torchvision import models
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"the ResNet backbones need torchvision, and importing it failed: {error}. Usually "
            f"torchvision was built for another torch than the one installed ({torch.__version__}"
            "). Reinstall both as a pair and from one place: "
            "pip install --force-reinstall torch torchvision"
        ) from error
    return models


def _resnet(name, stem):
    """Return a function that builds a ResNet; without a stem, the size of the views decides."""

    def build(shape, size):
        network = getattr(_torchvision_models(), name)(weights=None)
        network.fc = nn.Identity()
        resolved = stem or _stem_for(size)
        if resolved == "image":
            if shape[-1] != 3:
                network.conv1 = nn.Conv2d(shape[-1], 64, 7, stride=2, padding=3, bias=False)
        else:
            stride = 1 if resolved == "small" else 2
            network.conv1 = nn.Conv2d(shape[-1], 64, 3, stride=stride, padding=1, bias=False)
            network.maxpool = nn.Identity()
        return _kaiming(network)

    return build


def _stem_for(size):
    """Name of the stem for views of this size."""
    side = min(size)
    if side <= SMALL_STEM_SIDE:
        return "small"
    return "middle" if side <= MIDDLE_STEM_SIDE else "image"


def _mlp(shape, size, width=128):
    """Two linear layers for vectors."""
    return nn.Sequential(
        nn.Linear(shape[0], width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
    )


def _narrow_resnet(shape, size, width=16):
    """A ResNet-10 with a quarter of the usual width."""
    stem_stride = 2 if min(size) > SMALL_STEM_SIDE else 1
    blocks = [_conv_norm(shape[-1], width, stem_stride)]
    n_in = width
    for n_out, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        blocks.append(_ResidualBlock(n_in, n_out, stride))
        n_in = n_out
    return _kaiming(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


class _ResidualBlock(nn.Module):
    """A basic block of two 3 x 3 convolutions with a shortcut."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.body = nn.Sequential(
            _conv_norm(n_in, n_out, stride),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        self.short = nn.Identity()
        if n_in != n_out or stride != 1:
            self.short = nn.Sequential(
                nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False), nn.BatchNorm2d(n_out)
            )

    def forward(self, x):
        return torch.relu(self.body(x) + self.short(x))


BACKBONES: dict[str, Callable[[tuple, tuple], nn.Module]] = {
    "conv4": _conv4,
    "resnet10-narrow": _narrow_resnet,
    **{name: _resnet(name, None) for name in ("resnet18", "resnet34", "resnet50")},
    **{f"{n}-small": _resnet(n, "small") for n in ("resnet18", "resnet34", "resnet50")},
    **{f"{n}-image": _resnet(n, "image") for n in ("resnet18", "resnet34", "resnet50")},
    "mlp": _mlp,
}
