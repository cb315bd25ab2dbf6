"""What a method hands to the engine, and the parts that methods share.

An objective knows views, heads and losses. It knows no loader, device, epoch count or rank.
"""

from collections.abc import Callable

from torch import Tensor, nn


class Objective(nn.Module):
    """What a method trains: a backbone, its heads, and the loss that joins them.

    Subclasses implement `forward`, `assign` and `embed`; the hooks may stay as they are.
    """

    def __init__(self):
        super().__init__()

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss of a batch, in terms that the engine adds up.

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

    def before_epoch(self, epoch: int, sweep: Callable) -> None:
        """Prepare what needs the whole data set.

        Parameters
        ----------
        epoch : int
            Counted from 0.

        sweep : callable
            ``sweep(fn)`` applies `fn` to the plain views of all samples, in order, in
            evaluation mode, without gradient.
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
