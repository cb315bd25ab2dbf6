"""Networks from codes to images or vectors: mirrors of the backbones."""

import math
from itertools import pairwise

from torch import Tensor, nn

SMALLEST_SIDE = 4  # pixels; a side is halved until a further halving would make it smaller
MAX_HALVINGS = 5


class ConvDecoder(nn.Module):
    """A linear layer to a small map, and transposed convolutions that double it to the image.

    The sides of the maps are those that strided convolutions make of the image, in reverse, so
    that images of any size are met exactly.

    Parameters
    ----------
    n_in : int
        Width of the code.

    shape : tuple of (int, int, int)
        Channels, height and width of the images.

    width : int, default=32
        Channels of the map at the size of the image; they double with each halving, up to 128.
    """

    def __init__(self, n_in: int, shape: tuple[int, int, int], width: int = 32):
        super().__init__()
        channels, *side = shape
        sides = [tuple(side)]
        while len(sides) <= MAX_HALVINGS and min(sides[-1]) >= 2 * SMALLEST_SIDE:
            sides.append(tuple(math.ceil(s / 2) for s in sides[-1]))
        sides = sides[::-1]
        widths = [min(4, 2**i) * width for i in range(len(sides))][::-1]
        self.first = (widths[0], *sides[0])
        self.code = _linear_norm(n_in, math.prod(self.first))
        steps = zip(pairwise(widths), pairwise(sides), strict=True)
        doublings = [_doubling(*channels_of, *sides_of) for channels_of, sides_of in steps]
        self.layers = nn.Sequential(*doublings, nn.Conv2d(widths[-1], channels, 3, padding=1))

    def forward(self, code: Tensor) -> Tensor:
        """Decode.

        Parameters
        ----------
        code : Tensor of shape (n, n_in)
            One row per image.

        Returns
        -------
        x : Tensor of shape (n, channels, height, width)
            Of any range.
        """
        return self.layers(self.code(code).unflatten(1, self.first))


def _linear_norm(n_in, n_out):
    return nn.Sequential(
        nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)
    )


def _doubling(n_in, n_out, side, target):
    """A transposed convolution from one size to twice that, or to one pixel less."""
    extra = [t - (2 * s - 1) for s, t in zip(side, target, strict=True)]
    return nn.Sequential(
        nn.ConvTranspose2d(n_in, n_out, 3, stride=2, padding=1, output_padding=extra, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )


def decoder(n_in: int, shape: tuple[int, ...], width: int = 32) -> nn.Module:
    """Build the mirror of a backbone.

    Parameters
    ----------
    n_in : int
        Width of the code.

    shape : tuple of int
        Shape of a view: (channels, height, width) or (n_columns,).

    width : int, default=32
        See `ConvDecoder`.

    Returns
    -------
    network : nn.Module
        From (n, n_in) to a batch of this shape; the last layer is linear.
    """
    if len(shape) == 3:
        return ConvDecoder(n_in, shape, width)
    return nn.Sequential(_linear_norm(n_in, 4 * width), nn.Linear(4 * width, shape[0]))
