"""Features from maps of any size: pooling to a grid, and principal components."""

import torch
from torch import Tensor
from torch.nn import functional as F

from skcc.distributed import compute_on_rank_zero

OVERSAMPLING = 8  # further directions that the range finder follows
POWER_STEPS = 4
NEGLIGIBLE = 1e-6  # singular values below this share of the largest are rounding


def pool_to_grid(maps: Tensor, cells: int) -> Tensor:
    """Largest value of each map in each cell of a grid.

    Parameters
    ----------
    maps : Tensor of shape (n, c, h, w)
        Feature maps.

    cells : int
        Rows and columns of the grid; an axis with fewer pixels is taken as it is.

    Returns
    -------
    pooled : Tensor of shape (n, c * rows * columns)
        One row per image.
    """
    grid = [min(cells, side) for side in maps.shape[2:]]
    return F.adaptive_max_pool2d(maps, grid).flatten(1)


def principal_components(x: Tensor, n_components: int, generator: torch.Generator) -> Tensor:
    """Directions of largest variance, by a randomised range finder.

    The same on all processes.

    Parameters
    ----------
    x : Tensor of shape (n, d)
        One row per sample, centred, on the CPU.

    n_components : int
        At most `d`.

    generator : torch.Generator
        On the CPU.

    Returns
    -------
    components : Tensor of shape (d, n_components)
        Orthonormal columns, in order of variance; zero where the samples do not vary.

    References
    ----------
    .. [1] N. Halko, P. G. Martinsson, J. A. Tropp. "Finding Structure with Randomness". SIAM
       Review 53(2), 2011.
    """
    width = min(x.shape[1], n_components + OVERSAMPLING)
    start = torch.randn(x.shape[1], width, generator=generator, dtype=x.dtype)

    def find():
        basis = torch.linalg.qr(start).Q
        for _ in range(POWER_STEPS):
            basis = torch.linalg.qr(x.T @ (x @ basis)).Q
        _, singular, directions = torch.linalg.svd(x @ basis, full_matrices=False)
        kept = singular > NEGLIGIBLE * singular[0]
        found = (basis @ directions.T) * kept
        components = found.new_zeros(x.shape[1], n_components)
        components[:, : found.shape[1]] = found[:, :n_components]
        return components

    return compute_on_rank_zero(find)
