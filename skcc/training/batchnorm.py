"""Batch normalisation by the statistics of the whole batch, or of each view of a joint batch."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from skcc import distributed


class SyncBatchNorm(_BatchNorm):
    """Synchronised batch normalisation for CPUs; PyTorch's own is for GPUs only.

    It calls torch's batch-norm kernels: moments joined under autograd would be half as long, and
    cost 28 to 40 % more time per step (docs/log.md, 2026-11-25).

    Parameters
    ----------
    layer : nn.Module
        A batch-norm layer of PyTorch, whose weights and statistics it shares.
    """

    def __init__(self, layer: nn.Module):
        super().__init__(*_shape_of(layer))
        _share_tensors(self, layer)

    def _check_input_dim(self, input):
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the rows of this process.

        Parameters
        ----------
        input : Tensor of shape (b, c, ...)
            Rows of this process; b may be 0.

        Returns
        -------
        output : Tensor of shape (b, c, ...)
            Normalised by mean and variance of the rows of all processes, and scaled.
        """
        if not self.training or distributed.world_size() == 1:
            return super().forward(input)
        output, mean, variance, n = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._update_running_stats(mean, variance * (n / (n - 1)))
        return output

    def _update_running_stats(self, mean, variance):
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """One collective forward and one backward; moments joined by Chan, Golub and LeVeque (1979)."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        full = x if x.dtype == torch.float64 else x.float()
        mean, variance, n = _moments(full)
        # With no rows, torch's kernel divides by zero.
        output = (
            F.batch_norm(full, mean, variance, weight, bias, eps=eps) if len(x) else full.clone()
        )
        ctx.save_for_backward(x, mean, variance, n, weight)
        ctx.eps, ctx.has_bias = eps, bias is not None
        ctx.mark_non_differentiable(mean, variance, n)
        return output.to(x.dtype), mean, variance, n

    @staticmethod
    def backward(ctx, gradient, *_):
        x, mean, variance, n, weight = ctx.saved_tensors
        full, along = x.to(mean.dtype), gradient.to(mean.dtype)
        # Sums of the gradient, and of its product with the normalised input, in one pass.
        slope = total = torch.zeros_like(mean)
        if len(x):
            _, slope, total = torch.ops.aten.native_batch_norm_backward(
                along, full, mean.new_ones(len(mean)), mean, variance, None, None, False, ctx.eps,
                [False, True, True],
            )  # fmt: skip
        means, slopes = (distributed.all_reduce(torch.stack([total, slope])) / n).unbind()
        scale = (variance + ctx.eps).rsqrt()
        factor = scale if weight is None else scale * weight
        steep = factor * slopes * scale
        like = (1, -1, *[1] * (x.ndim - 2))
        # The gradient less its projections on a constant and on the normalised input.
        back = (along - means.view(like)).mul_(factor.view(like))
        back.addcmul_(full - mean.view(like), -steep.view(like))
        return (
            back.to(gradient.dtype),
            None if weight is None else slope.to(weight.dtype),
            total if ctx.has_bias else None,
            None,
        )


def _moments(x):
    """Mean and variance of each channel over all processes, and the number of values."""
    count = x.numel() // x.shape[1]
    if count:
        # The fastest way to mean and variance on a CPU.
        _, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, 0.0)
        variance = inverse.pow(-2).masked_fill(inverse == 0, 0)  # constant channels
    else:
        variance = mean = x.new_zeros(x.shape[1])
    parts = distributed.all_gather(torch.stack([mean, variance, torch.full_like(mean, count)]))
    means, variances, counts = torch.stack(parts).unbind(1)
    n = counts.sum(0)
    mean = (counts * means).sum(0) / n
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / n
    return mean, variance, n[0]


class PerViewBatchNorm(_BatchNorm):
    """Batch normalisation of several views in one batch, by the statistics of each.

    It is written as plain arithmetic, which torch.compile fuses with its neighbours; without a
    compiler it is slower than one call of torch's layer for each view.

    Parameters
    ----------
    layer : nn.Module
        A batch-norm layer of PyTorch, whose weights and statistics it shares.

    n_views : int
        Number of views that follow one another in a batch.
    """

    def __init__(self, layer: nn.Module, n_views: int):
        super().__init__(*_shape_of(layer))
        _share_tensors(self, layer)
        self.n_views = n_views

    def _check_input_dim(self, input):
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each view, and update the running statistics view by view.

        Parameters
        ----------
        input : Tensor of shape (n_views * b, c, ...)
            The views, one after the other.

        Returns
        -------
        output : Tensor of shape (n_views * b, c, ...)
            As of one call of the layer for each view.
        """
        if not self.training:
            return super().forward(input)
        views = input.unflatten(0, (self.n_views, -1))
        full = views if views.dtype == torch.float64 else views.float()
        along = (1, *range(3, full.ndim))
        variance, mean = torch.var_mean(full, along, correction=0, keepdim=True)
        output = (full - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            like = (1, 1, -1, *[1] * (full.ndim - 3))
            output = output * self.weight.view(like) + self.bias.view(like)
        if self.track_running_stats:
            n = full[0].numel() // full.shape[2]
            self._update_running_stats(mean.detach(), variance.detach() * (n / (n - 1)))
        return output.to(input.dtype).flatten(0, 1)

    def _update_running_stats(self, means, variances):
        self.num_batches_tracked.add_(self.n_views)
        for mean, variance in zip(means, variances, strict=True):
            self.running_mean.lerp_(mean.flatten().to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(variance.flatten().to(self.running_var.dtype), self.momentum)


@contextlib.contextmanager
def split_batch_norm(module: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Let the networks of an objective take all views in one call inside the context.

    A network whose layers cannot be split keeps taking one view per call.

    Parameters
    ----------
    module : nn.Module
        An objective; its networks named in `joined` are changed. Parameters and statistics stay the
        same tensors.

    enabled : bool, default=True
        Whether anything is changed.
    """
    names = module.joined if enabled and module.n_views > 1 else ()
    networks = [network for name in names if _can_be_split(network := module.get_submodule(name))]
    with contextlib.ExitStack() as stack:
        for network in networks:
            stack.enter_context(
                _replace(network, lambda layer: PerViewBatchNorm(layer, module.n_views))
            )
            network.views_per_call = module.n_views
        try:
            yield
        finally:
            for network in networks:
                del network.views_per_call


def _can_be_split(network):
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    known = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return network not in layers and all(
        type(layer) in known and layer.momentum is not None for layer in layers
    )


@contextlib.contextmanager
def convert_batch_norm(module: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Replace the batch-norm layers of a module by synchronised ones inside the context.

    Parameters
    ----------
    module : nn.Module
        Parameters and statistics stay the same tensors.

    enabled : bool, default=True
        Whether layers are replaced.
    """
    with _replace(module, _synchronised, enabled and distributed.world_size() > 1):
        yield


@contextlib.contextmanager
def _replace(module, new, enabled=True):
    """Replace the batch-norm layers inside the context; `new` makes the substitute of a layer."""
    replaced = []
    for parent in list(module.modules()) if enabled else []:
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                replaced.append((parent, name, child))
                setattr(parent, name, new(child).train(child.training))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            child.train(getattr(parent, name).training)
            setattr(parent, name, child)


def _synchronised(layer):
    tensors = [*layer.parameters(), *layer.buffers()]
    if any(tensor.device.type == "cuda" for tensor in tensors):
        new = nn.SyncBatchNorm(*_shape_of(layer))
        _share_tensors(new, layer)
    else:
        new = SyncBatchNorm(layer)
    return new.train(layer.training)


def _shape_of(layer):
    return (layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)


def _share_tensors(new, layer):
    for name, value in [*layer._parameters.items(), *layer._buffers.items()]:
        setattr(new, name, value)


def average_running_stats(module: nn.Module) -> None:
    """Average the running statistics of batch norm over all processes.

    Parameters
    ----------
    module : nn.Module
        Trained with statistics of each process.
    """
    if distributed.world_size() == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            for statistic in (layer.running_mean, layer.running_var):
                distributed.all_reduce(statistic).div_(distributed.world_size())
