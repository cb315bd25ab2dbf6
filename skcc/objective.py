"""What a method hands to the engine, and the parts that methods share.

An objective knows views, heads and losses. It knows no loader, device, epoch count or rank.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

HEAD_LOSS_WEIGHT = 0.02  # of the newest batch in the running loss of a cluster head


class Objective(nn.Module):
    """What a method trains: a backbone, its heads, and the loss that joins them.

    Subclasses implement `forward`, `assign` and `embed`; those that contrast instances `unlabeled`
    and `project`, too. The hooks may stay as they are.
    """

    def __init__(self):
        super().__init__()

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss of a batch, in terms that the engine adds up.

        What contrasts samples with each other calls `skcc.distributed.gather` on what its heads
        put out: with several processes these are a part of the batch, and losses need all of it.

        Parameters
        ----------
        views : tuple of Tensor
            Each of shape (b, c, h, w) or (b, d).

        index : Tensor of shape (b,)
            Which samples these are.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Already weighted; training minimises their sum.
        """
        raise NotImplementedError

    def assign(self, images: Tensor) -> Tensor:
        """Soft assignments.

        Parameters
        ----------
        images : Tensor of shape (n, c, h, w) or (n, d)
            Plain views.

        Returns
        -------
        p : Tensor of shape (n, k)
            Rows sum to one.
        """
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Features.

        Parameters
        ----------
        images : Tensor of shape (n, c, h, w) or (n, d)
            Plain views.

        Returns
        -------
        h : Tensor of shape (n, d)
            One row per sample.
        """
        raise NotImplementedError

    def unlabeled(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss of a batch of samples that are not to be clustered.

        Parameters
        ----------
        views : tuple of Tensor
            As in `forward`.

        index : Tensor of shape (b,)
            Which samples these are; none is one of those to be clustered.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Those of `forward` that do not depend on which cluster a sample is in.
        """
        raise NotImplementedError

    def project(self, images: Tensor) -> Tensor:
        """Embedding in which instances are contrasted.

        Parameters
        ----------
        images : Tensor of shape (n, c, h, w) or (n, d)
            Views.

        Returns
        -------
        z : Tensor of shape (n, projection_dim)
            Not normalised.
        """
        raise NotImplementedError

    def before_epoch(self, epoch: int, sweep: Callable, generator: torch.Generator) -> None:
        """Prepare what needs the whole data set, and draw what is random in the epoch.

        Parameters
        ----------
        epoch : int
            Counted from 0.

        sweep : callable
            ``sweep(fn)`` applies `fn` to the plain views of all samples, in order, in
            evaluation mode, without gradient.

        generator : torch.Generator
            Owner of all randomness of the epoch; on the CPU.
        """

    def after_step(self) -> None:
        """Update what no gradient reaches, such as moving averages and queues."""

    def after_training(self, sweep: Callable) -> None:
        """Finish what needs the trained network and the whole data set.

        Parameters
        ----------
        sweep : callable
            As in `before_epoch`.
        """

    def release(self) -> None:
        """Let go of what only training needs; what `assign` and `embed` need stays."""


class Queue(nn.Module):
    """The newest rows of a stream, first in, first out.

    Parameters
    ----------
    size : int
        How many rows it holds; may be 0.

    shape : tuple of int, default=()
        Shape of a row.

    fill : float, default=0.0
        What the places hold that no row has taken yet.

    dtype : torch.dtype, default=torch.float32
        Type of the rows.
    """

    def __init__(self, size: int, shape: tuple = (), *, fill: float = 0.0, dtype=torch.float32):
        super().__init__()
        self.register_buffer("rows", torch.full((size, *shape), fill, dtype=dtype))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def push(self, rows: Tensor) -> None:
        """Put rows in place of the oldest.

        Parameters
        ----------
        rows : Tensor of shape (n, ...)
            Of more than `size` rows the last ones stay.
        """
        size = len(self.rows)
        if size == 0:
            return
        rows = rows[-size:]
        places = torch.arange(len(rows), device=rows.device) + self.next
        self.rows.index_copy_(0, places % size, rows.detach().to(self.rows.dtype))
        self.next.add_(len(rows)).remainder_(size)


def momentum_update(follower: nn.Module, leader: nn.Module, momentum: float) -> None:
    """Let the parameters of one module follow those of another, as a moving average.

    Buffers are left alone: normalisation keeps the statistics of what the follower sees itself.

    Parameters
    ----------
    follower, leader : nn.Module
        Of one architecture; the follower is changed in place.

    momentum : float
        What the follower keeps of its own, from 0 to 1.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(follower.parameters()), list(leader.parameters()), None)


def mlp_head(n_in: int, n_out: int) -> nn.Sequential:
    """Two-layer perceptron on top of a backbone.

    Parameters
    ----------
    n_in : int
        Width of the features, and of the hidden layer.

    n_out : int
        Width of the result.

    Returns
    -------
    head : nn.Sequential
        Linear, ReLU, linear; no batch normalisation.
    """
    return nn.Sequential(nn.Linear(n_in, n_in), nn.ReLU(inplace=True), nn.Linear(n_in, n_out))
