"""The contract between a method and the training engine, and parts that methods share.

A method yields `Phase` objects, each with an `Objective`. An objective knows views, networks and
losses; it knows no data loader, device, optimizer or process group.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skcc.readouts import k_means
from skcc.rng import private_rng

HEAD_LOSS_WEIGHT = 0.02  # of the newest batch in the running loss of a cluster head


@dataclass(frozen=True)
class Setup:
    """What the networks of a method are built from; the same in `fit` and after `load`.

    Parameters
    ----------
    backbone : nn.Module
        From views to features of shape (n, n_features); new, with random weights.

    n_features : int
        Width of the output of the backbone.

    view_shape : tuple of int
        Shape of a view: (channels, height, width) of an image, (n_columns,) of a vector.

    n_samples : int
        Number of training samples.
    """

    backbone: nn.Module
    n_features: int
    view_shape: tuple[int, ...]
    n_samples: int


class Epoch:
    """What an objective can use between two epochs.

    Parameters
    ----------
    number : int
        Counted from 0; after training the number of epochs.

    sweep : callable
        ``sweep(function)`` applies a function of plain views, such as ``self.embed``, to all
        samples in evaluation mode and without gradient. It returns the rows in order, a float32
        tensor on the CPU.

    generator : torch.Generator
        All random numbers of the epoch come from it; on the CPU.

    optimizers : iterable of torch.optim.Optimizer, default=()
        Those of the phase.
    """

    def __init__(
        self,
        number: int,
        sweep: Callable[[Callable[[Tensor], Tensor]], Tensor],
        generator: torch.Generator,
        optimizers: Iterable[torch.optim.Optimizer] = (),
    ):
        self.number, self.sweep, self.generator = number, sweep, generator
        self._optimizers = tuple(optimizers)

    def k_means(
        self, function: Callable[[Tensor], Tensor], n_clusters: int, *, n_init: int = 10
    ) -> tuple[Tensor, Tensor]:
        """Cluster all samples by k-means of what a function makes of their plain views.

        Parameters
        ----------
        function : callable
            From views to rows, such as ``self.embed``.

        n_clusters : int
            Number of clusters.

        n_init : int, default=10
            Initialisations, of which the best is taken.

        Returns
        -------
        labels : Tensor of shape (n_samples,) and dtype int64
            On the CPU.

        centers : Tensor of shape (n_clusters, d) and dtype float32
            On the CPU.
        """
        features = self.sweep(function)
        seed = self._draw_seed()
        labels, centers, _ = k_means(features, n_clusters, n_init=n_init, random_state=seed)
        return labels, centers.float()

    def reset(self, module: nn.Module) -> None:
        """Draw new initial weights for a module, and forget the optimizer's moments of them.

        Parameters
        ----------
        module : nn.Module
            Each layer with parameters has ``reset_parameters``, as PyTorch's have.

        Raises
        ------
        TypeError
            If a layer has parameters but no ``reset_parameters``.
        """
        for layer in module.modules():
            if not hasattr(layer, "reset_parameters") and any(layer.parameters(recurse=False)):
                raise TypeError(f"{type(layer).__name__} has no reset_parameters")
        with private_rng(self._draw_seed(), next(module.parameters()).device):
            for layer in module.modules():
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
        for optimizer in self._optimizers:
            for parameter in module.parameters():
                for value in optimizer.state.get(parameter, {}).values():
                    value.zero_()  # in place, since a CUDA graph may read it

    def _draw_seed(self):
        return int(torch.randint(2**31 - 1, (), generator=self.generator))


class Objective(nn.Module):
    """A loss and the networks that it trains.

    Subclasses set `n_embedding` and implement `forward` and `embed`, mostly `assign`, too. Buffers
    and parameters are what a checkpoint holds, so everything that changes during training has to be
    one of them. Class attributes tell the engine what `forward` needs.

    Attributes
    ----------
    n_views : int
        Views of each sample in a step. With 0 it is the plain image alone.

    n_augmented : int or None
        How many of the views are augmented; the last ones are plain. None means all.

    draws : bool
        Whether `forward` draws from torch's global generator, which the engine then seeds for
        each epoch. Of several processes each draws its own numbers; what has to be the same for
        any number of processes is drawn by ``epoch.generator`` in `before_epoch`.

    turns : tuple of str
        Methods that return loss terms, in the order in which they are called in a step. Each
        has its own backward pass and its own optimizer, of the parameters that `parameters_of`
        gives. The two players of a generative adversarial network are two turns.

    joined : tuple of str
        Names of submodules that training calls by `features_per_view` only, so that the engine may
        pass all views through them in one call.

    draws_ahead : bool
        Whether the next epoch may be drawn while this one computes: `before_epoch` takes no random
        numbers, and `sample_weights` is not overridden. Not inherited.

    capturable : bool
        Whether tests on a GPU have shown that a step which is captured as a CUDA graph trains as
        one that is not. Not inherited.

    n_embedding : int
        Width of `embed`.
    """

    n_views: int = 2
    n_augmented: int | None = None
    draws: bool = False
    turns: tuple[str, ...] = ("forward",)
    joined: tuple[str, ...] = ()
    draws_ahead: bool = False
    capturable: bool = False
    n_embedding: int

    def __init__(self):
        super().__init__()

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch.

        A loss that compares samples with each other calls `skcc.distributed.gather` on the outputs
        of its heads, once: with several processes each has only its part of the batch.

        Parameters
        ----------
        views : tuple of Tensor
            Each of shape (b, c, h, w) or (b, d).

        index : Tensor of shape (b,)
            Indices of the samples.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Already weighted; training minimises their sum.
        """
        raise NotImplementedError

    def assign(self, images: Tensor) -> Tensor:
        """Soft assignments to clusters.

        Without this method, clusters are found by k-means of what `embed` returns.

        Parameters
        ----------
        images : Tensor of shape (n, c, h, w) or (n, d)
            Plain views.

        Returns
        -------
        p : Tensor of shape (n, n_clusters)
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
        h : Tensor of shape (n, n_embedding)
            One row per sample.
        """
        raise NotImplementedError

    def unlabeled(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch of samples that are not to be clustered.

        Parameters
        ----------
        views : tuple of Tensor
            As in `forward`.

        index : Tensor of shape (b,)
            Indices of the samples; all are larger than those of the samples to be clustered.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            The terms of `forward` that need no cluster.
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

    def parameters_of(self, turn: str) -> Iterable[nn.Parameter]:
        """Parameters that the optimizer of a turn updates.

        Parameters
        ----------
        turn : str
            An entry of `turns`.

        Returns
        -------
        parameters : iterable of nn.Parameter
            All of them, unless overridden.
        """
        return self.parameters()

    def sample_weights(self) -> Tensor | None:
        """How often each sample is drawn in the coming epoch, relative to the others.

        Returns
        -------
        weights : Tensor of shape (n_samples,) or None
            Samples are then drawn with replacement. None draws each sample once.
        """
        return None

    def partners(self) -> Tensor | None:
        """Samples that second views may show in the coming epoch.

        Returns
        -------
        partners : Tensor of shape (n_samples, k) and dtype int64, or None
            Half of the time a second or later view is of a random one of these in place of the
            sample itself, which may be among them. With None all views are of the sample.
        """
        return None

    def before_epoch(self, epoch: Epoch) -> None:
        """Prepare an epoch: use the whole data set, or draw random numbers.

        Parameters
        ----------
        epoch : Epoch
            Number, sweep, generator, k-means and reset.
        """

    def after_step(self) -> None:
        """Update what gets no gradient, such as moving averages and queues."""

    def after_training(self, epoch: Epoch) -> None:
        """Finish what needs the trained network and the whole data set.

        Parameters
        ----------
        epoch : Epoch
            As in `before_epoch`; its number is that of the epochs that were trained.
        """

    def release(self) -> None:
        """Drop what only training needs; what `assign` and `embed` need stays."""


class GivenFeatures(Objective):
    """Vectors that are features already; nothing is trained.

    Parameters
    ----------
    n_embedding : int
        Width of the vectors.
    """

    n_views = 0

    def __init__(self, n_embedding: int):
        super().__init__()
        self.n_embedding = n_embedding
        self.register_buffer("width", torch.tensor(n_embedding))

    def embed(self, images: Tensor) -> Tensor:
        return images


@dataclass(frozen=True)
class Phase:
    """A part of training with its own objective and optimizers.

    Settings that are None are those of the estimator.

    Parameters
    ----------
    objective : Objective
        What is trained; that of the last phase predicts.

    name : str, default="train"
        Shown by the progress bar.

    epochs : int or None, default=None
        Passes over the samples.

    learning_rate : float or None, default=None
        Peak learning rate.

    betas : tuple of (float, float), default=(0.9, 0.999)
        Of AdamW.

    schedule : str or None, default=None
        A key of `skcc.training.schedules.SCHEDULES`.
    """

    objective: Objective
    name: str = "train"
    epochs: int | None = None
    learning_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str | None = None


class Queue(nn.Module):
    """The newest rows of a stream, first in, first out.

    Parameters
    ----------
    size : int
        How many rows it holds; may be 0.

    shape : tuple of int, default=()
        Shape of a row.

    fill : float, default=0.0
        Initial value of all rows.

    dtype : torch.dtype, default=torch.float32
        Type of the rows.
    """

    def __init__(self, size: int, shape: tuple = (), *, fill: float = 0.0, dtype=torch.float32):
        super().__init__()
        self.register_buffer("rows", torch.full((size, *shape), fill, dtype=dtype))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    def push(self, rows: Tensor) -> None:
        """Replace the oldest rows.

        Parameters
        ----------
        rows : Tensor of shape (n, ...)
            If there are more than `size`, the last ones are kept.
        """
        size = len(self.rows)
        if size == 0:
            return
        rows = rows[-size:]
        positions = torch.arange(len(rows), device=rows.device) + self.next
        self.rows.index_copy_(0, positions % size, rows.detach().to(self.rows.dtype))
        self.next.add_(len(rows)).remainder_(size)


class ClusterHeads(nn.ModuleList):
    """Cluster heads that are trained side by side on one backbone; that of least loss is used.

    Parameters
    ----------
    heads : iterable of nn.Module
        Each maps features of shape (n, d) to logits of shape (n, k).
    """

    def __init__(self, heads: Iterable[nn.Module]):
        super().__init__(heads)
        self.register_buffer("running_loss", torch.zeros(len(self)))

    def forward(self, h: Tensor) -> Tensor:
        """Compute the soft assignments of all heads.

        Parameters
        ----------
        h : Tensor of shape (n, d)
            Features.

        Returns
        -------
        p : Tensor of shape (n, n_heads, k)
            At least float32; rows sum to one. Samples come first, as `skcc.distributed.gather`
            wants them.
        """
        return torch.stack([soft_assignments(head(h)) for head in self], dim=1)

    def update(self, losses: Tensor) -> None:
        """Update the running loss of each head.

        Parameters
        ----------
        losses : Tensor of shape (n_heads,)
            Of the newest batch.
        """
        self.running_loss.lerp_(losses.detach().to(self.running_loss.dtype), HEAD_LOSS_WEIGHT)

    def best(self, h: Tensor) -> Tensor:
        """Compute the soft assignments of the head whose running loss is least.

        Parameters
        ----------
        h : Tensor of shape (n, d)
            Features.

        Returns
        -------
        p : Tensor of shape (n, k)
            Rows sum to one.
        """
        return self(h).index_select(1, self.running_loss.argmin()[None])[:, 0]


def features_per_view(network: nn.Module, views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Pass views through a network, each with batch statistics of its own.

    It is one call per view, or one for all where the engine has prepared the batch-norm layers for
    that (`skcc.training.batchnorm.split_batch_norm`).

    Parameters
    ----------
    network : nn.Module
        Named in `Objective.joined`.

    views : tuple of Tensor
        Each of shape (b, c, h, w) or (b, d).

    Returns
    -------
    features : tuple of Tensor of shape (b, n_features)
        One for each view.
    """
    if network.training and getattr(network, "views_per_call", 1) == len(views):
        return network(torch.cat(views)).chunk(len(views))
    return tuple(network(view) for view in views)


def soft_assignments(logits: Tensor) -> Tensor:
    """Softmax over the last axis in float32, or in float64 if the logits are float64.

    Parameters
    ----------
    logits : Tensor of shape (..., k)
        Of a cluster head, also in half precision.

    Returns
    -------
    p : Tensor of shape (..., k)
        Rows sum to one.
    """
    return F.softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)


def momentum_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Update the parameters of a target network as a moving average of the online network's.

    Buffers are not updated: batch norm keeps the statistics of what the target network sees.

    Parameters
    ----------
    target, online : nn.Module
        Of one architecture; the target is changed in place.

    momentum : float
        Share that the target keeps of its own parameters, from 0 to 1.
    """
    average = get_ema_multi_avg_fn(momentum)
    average(list(target.parameters()), list(online.parameters()), None)


def mlp_head(n_in: int, n_out: int, n_hidden: int | None = None) -> nn.Sequential:
    """Two-layer perceptron on top of a backbone.

    Parameters
    ----------
    n_in : int
        Width of the features.

    n_out : int
        Width of the result.

    n_hidden : int, default=None
        Width of the hidden layer; that of the features if None.

    Returns
    -------
    head : nn.Sequential
        Linear, ReLU, linear; no batch normalisation.
    """
    n_hidden = n_hidden or n_in
    return nn.Sequential(
        nn.Linear(n_in, n_hidden), nn.ReLU(inplace=True), nn.Linear(n_hidden, n_out)
    )
