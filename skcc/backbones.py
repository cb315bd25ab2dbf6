"""Networks from images (or vectors) to features.

Each entry of `BACKBONES` is a function ``(shape, size) -> nn.Module`` where ``shape`` is that of
one sample, ``(height, width, channels)`` or ``(features,)``, and ``size`` the height and width
at which the network will see images. Torchvision is imported only by the ResNets.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SMALL_STEM_SIDE = 40  # up to here a first layer of stride 4 leaves too little to look at
MIDDLE_STEM_SIDE = 80


def _conv_norm(n_in, n_out, stride=1):
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


class GlobalLocalPool(nn.Module):
    """The mean of a map over the image, beside a linear layer that sees its cells apart.

    The mean forgets where in the image things are: on aligned shapes, such as letters, that
    costs half of the accuracy. The cells alone take long to learn that a shape which has moved
    is the same (docs/log.md, 2026-11-22).
    """

    def __init__(self, channels: int, cells: tuple[int, int]):
        super().__init__()
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.cells = nn.Sequential(
            nn.AdaptiveAvgPool2d(cells),
            nn.Flatten(),
            nn.Linear(channels * cells[0] * cells[1], channels, bias=False),
            nn.BatchNorm1d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.mean(x), self.cells(x)], dim=1)


def _conv4(shape, size, widths=(32, 64, 128, 128)):
    strides = (2 if min(size) > SMALL_STEM_SIDE else 1, 2, 2, 1)
    cells = tuple(min(4, _after(strides, side)) for side in size)
    convolutions = [
        _conv_norm(n_in, n_out, stride)
        for n_in, n_out, stride in zip((shape[-1], *widths), widths, strides, strict=False)
    ]
    return _kaiming(nn.Sequential(*convolutions, GlobalLocalPool(widths[-1], cells)))


def _after(strides, side):
    """Side of a map after 3 x 3 convolutions with padding 1."""
    for stride in strides:
        side = math.ceil(side / stride)
    return side


def _kaiming(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _torchvision_models():
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
    def build(shape, size):
        network = getattr(_torchvision_models(), name)(weights=None)
        network.fc = nn.Identity()
        chosen = stem or _stem_for(size)
        if chosen == "image":
            if shape[-1] != 3:
                network.conv1 = nn.Conv2d(shape[-1], 64, 7, stride=2, padding=3, bias=False)
        else:
            stride = 1 if chosen == "small" else 2
            network.conv1 = nn.Conv2d(shape[-1], 64, 3, stride=stride, padding=1, bias=False)
            network.maxpool = nn.Identity()
        return _kaiming(network)

    return build


def _stem_for(size):
    side = min(size)
    if side <= SMALL_STEM_SIDE:
        return "small"
    return "middle" if side <= MIDDLE_STEM_SIDE else "image"


def _mlp(shape, size, width=128):
    return nn.Sequential(
        nn.Linear(shape[0], width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
    )


def _narrow_resnet(shape, size, width=16):
    first = 2 if min(size) > SMALL_STEM_SIDE else 1
    blocks = [_conv_norm(shape[-1], width, first)]
    n_in = width
    for n_out, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        blocks.append(_Residual(n_in, n_out, stride))
        n_in = n_out
    return _kaiming(nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


class _Residual(nn.Module):
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
