"""Several processes that train one model: who is who, and what they tell each other.

Under ``torchrun`` each process (a rank) runs the same script. This file knows tensors, plain
values and ranks, and nothing of losses, data or training. Alone, every function is an identity.

Objectives call `gather` on what their heads put out, so that losses see the whole batch; what each
rank then computes is the same. Its gradients are exact: with L the loss of every rank, backward
passes through `gather` as through one graph of all ranks whose loss is the sum of the L, and the
averaging of `torch.nn.parallel.DistributedDataParallel` divides by their number.
"""

import atexit
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import timedelta

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

_TIMEOUT = timedelta(minutes=10)  # a rank that is killed is noticed at once, one that hangs then
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_batch: ContextVar[int] = ContextVar("batch")


class LostRankError(RuntimeError):
    """Another process ended, or does not answer, so that this one cannot go on."""


class OtherRankError(RuntimeError):
    """What this process works at together with others failed in another one."""


# -- who is who -----------------------------------------------------------------------------


def world_size() -> int:
    """How many processes work together.

    Returns
    -------
    size : int
        1 without ``torchrun``, and inside `alone`.
    """
    if _alone.get() or not dist.is_available():
        return 1
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def rank() -> int:
    """Which of them this is.

    Returns
    -------
    rank : int
        From 0.
    """
    if world_size() == 1:
        return 0
    return dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"])


def is_first() -> bool:
    """Whether this is the process that writes and prints.

    Returns
    -------
    answer : bool
        True of rank 0, and of a process that is alone.

    Examples
    --------
    >>> from skcc import distributed
    >>> distributed.is_first()
    True
    """
    return rank() == 0


def is_first_here() -> bool:
    """Whether this is the process that writes what all of its machine read.

    Returns
    -------
    answer : bool
        True of one process per machine; of all where nothing says on which they are.
    """
    return world_size() == 1 or int(os.environ.get("LOCAL_RANK", 0)) == 0


def _launched():
    """Whether torchrun started this very process, not one that it started itself."""
    main = multiprocessing.current_process().name == "MainProcess"
    return main and dist.is_torchelastic_launched()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let this process compute by itself what is inside, as if there were no others.

    For what not every rank does, such as predicting on rank 0 only.

    Examples
    --------
    >>> from skcc import distributed
    >>> with distributed.alone():
    ...     distributed.world_size()
    1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def join() -> None:
    """Meet the other processes that ``torchrun`` started; a rank with a GPU takes its own.

    A group that the script has made already is used as it is.

    Raises
    ------
    LostRankError
        If they do not all come.
    """
    if world_size() == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _watched():
        dist.init_process_group(backend, timeout=_TIMEOUT)
    atexit.register(_leave)


def _leave():
    if dist.is_initialized():
        dist.destroy_process_group()


@contextlib.contextmanager
def _watched():
    """Say in words what it means if a collective operation fails."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Say in words what it means if operations of PyTorch's own fail to reach other processes.

    Raises
    ------
    LostRankError
        In place of PyTorch's errors of communication; others pass.
    """
    try:
        yield
    except RuntimeError as error:
        communication = isinstance(error, dist.DistError) or "gloo" in str(error)
        if world_size() == 1 or not communication:
            raise
        raise _lost(error) from error


def _lost(error):
    if isinstance(error, LostRankError):
        return error
    said = re.sub(r"^\[[^]]*\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
    return LostRankError(
        f"rank {rank()} of {world_size()} has lost another one, which ended or does not answer: "
        f"{said}. Its own messages say why. Start all again; with a "
        "checkpoint_dir training then goes on where it was."
    )


# -- plain values ---------------------------------------------------------------------------


def share(value: object) -> list:
    """Plain values of all processes.

    Parameters
    ----------
    value : object
        What JSON can hold; that of this process.

    Returns
    -------
    values : list
        By rank, as JSON gives them back.

    Raises
    ------
    LostRankError
        If a process is lost.
    """
    if world_size() == 1:
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = torch.cat(_all_gather(torch.tensor([len(own)]))).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(own)] = own
    parts = _all_gather(padded)
    return [
        json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)
    ]


def union(entries: dict[int, str]) -> dict[int, str]:
    """What all processes have noted.

    Parameters
    ----------
    entries : dict of int to str
        What this one has.

    Returns
    -------
    entries : dict of int to str
        The same for all, by number.
    """
    if world_size() == 1:
        return entries
    pairs = {pair for some in share([*entries.items()]) for pair in map(tuple, some)}
    return dict(sorted(pairs))


def any_of(flag: bool) -> bool:
    """Whether something is so for at least one process.

    Parameters
    ----------
    flag : bool
        Whether it is for this one.

    Returns
    -------
    answer : bool
        The same for all.
    """
    return any(share(bool(flag)))


def all_of(flag: bool) -> bool:
    """Whether something is so for all processes.

    Parameters
    ----------
    flag : bool
        Whether it is for this one.

    Returns
    -------
    answer : bool
        The same for all.
    """
    return all(share(bool(flag)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Make an error of one process one of all, so that no other waits for it.

    Inside, nothing may be communicated.

    Raises
    ------
    OtherRankError
        If what is inside failed in another process; its own error where it failed.
    """
    own = None
    try:
        yield
    except Exception as error:
        own = error
    said = share(own and f"{type(own).__name__}: {own}")
    if own is not None:
        raise own
    for number, message in enumerate(said):
        if message:
            raise OtherRankError(f"rank {number}: {message}")


def from_first(function: Callable[[], object]) -> object:
    """Let the first process do something, and all have the result.

    Parameters
    ----------
    function : callable
        Gives tensors and plain values, in dicts and lists; called on rank 0 only.

    Returns
    -------
    result : object
        On the CPU.

    Raises
    ------
    OtherRankError
        If it fails; on rank 0 its own error.
    """
    if world_size() == 1:
        return function()
    result, content = None, io.BytesIO()
    with together():
        if is_first():
            with alone():
                result = function()
            torch.save(result, content)
    size = share(content.tell())[0]
    received = torch.empty(size, dtype=torch.uint8)
    if is_first():
        received = torch.frombuffer(content.getbuffer(), dtype=torch.uint8)
    with _watched():
        dist.broadcast(received, 0)
    if is_first():
        return result
    return torch.load(io.BytesIO(received.numpy().tobytes()), weights_only=True)


# -- rows -----------------------------------------------------------------------------------


def part(n: int, block: int = 1) -> range:
    """Which of n things are this process's.

    Parameters
    ----------
    n : int
        How many there are.

    block : int, default=1
        How many stay together.

    Returns
    -------
    part : range
        In order of the ranks, the numbers of blocks differing by at most one; with blocks of one
        as `torch.tensor_split` cuts.
    """
    ends = _ends(n, block)
    return range(ends[rank()], ends[rank() + 1])


def _ends(n, block=1):
    """Where the parts of all processes begin, and where the last one ends."""
    each, more = divmod(-(-n // block), world_size())
    return [min(n, block * (each * i + min(i, more))) for i in range(world_size() + 1)]


def concatenate(rows: Tensor, n: int, block: int = 1) -> Tensor:
    """The rows of all processes, without gradient.

    Parameters
    ----------
    rows : Tensor of shape (len(part(n, block)), ...)
        Those of this process.

    n : int
        How many there are in all.

    block : int, default=1
        As in `part`.

    Returns
    -------
    rows : Tensor of shape (n, ...)
        In order, on every process.

    Raises
    ------
    LostRankError
        If a process is lost.
    """
    if world_size() == 1:
        return rows
    ends = _ends(n, block)
    sizes = [stop - start for start, stop in itertools.pairwise(ends)]
    parts = _all_gather(_padded(rows, max(sizes)))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _padded(rows, size):
    if len(rows) == size:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def _all_gather(tensor):
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _watched():
        dist.all_gather(parts, tensor, group=_group(tensor.device))
    return parts


def _all_reduce(tensor):
    with _watched():
        dist.all_reduce(tensor, group=_group(tensor.device))
    return tensor


_cpu_group = None


def _group(device):
    """Of processes that can send what is on the device; the script's own group may be NCCL's."""
    global _cpu_group
    if device.type != "cpu" or dist.get_backend() != "nccl":
        return None
    if _cpu_group is None:
        _cpu_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return _cpu_group


@contextlib.contextmanager
def sharing(n: int) -> Iterator[None]:
    """Tell `gather` how many rows the batch has that all processes share.

    Parameters
    ----------
    n : int
        Rows of the whole batch; each process has its `part`.
    """
    token = _batch.set(n)
    try:
        yield
    finally:
        _batch.reset(token)


def gather(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The whole batch from the part of each process; gradients go back to where rows came from.

    Parameters
    ----------
    *tensors : Tensor of shape (b, ...)
        Rows of this process.

    Returns
    -------
    tensors : tuple of Tensor of shape (n, ...)
        Rows of all, in the order of the batch; the same on every process.

    Raises
    ------
    LostRankError
        If a process is lost.

    Notes
    -----
    Gathering without gradient and putting one's own rows back, as often seen, gives wrong
    gradients: what a row does to the losses of others is lost.
    """
    if world_size() == 1:
        return tensors
    whole: list = [None] * len(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # one message per type
        places = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].flatten(1) if tensors[i].ndim > 1 else tensors[i][:, None]
                          for i in places], dim=1)  # fmt: skip
        rows = _Gather.apply(flat, _batch.get())
        widths = [tensors[i][:1].numel() if len(tensors[i]) else _width(tensors[i]) for i in places]
        for i, columns in zip(places, rows.split(widths, dim=1), strict=True):
            whole[i] = columns.reshape(-1, *tensors[i].shape[1:])
    return tuple(whole)


def _width(tensor):
    return int(torch.Size(tensor.shape[1:]).numel())


class _Gather(torch.autograd.Function):
    """Concatenation of rows over the processes."""

    @staticmethod
    def forward(ctx, rows, n):
        ctx.n = n
        return concatenate(rows, n)

    @staticmethod
    def backward(ctx, gradient):
        mine = part(ctx.n)
        return _all_reduce(gradient.clone())[mine.start : mine.stop], None


# -- batch normalisation --------------------------------------------------------------------


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation by the statistics of the rows of all processes, on any device.

    PyTorch's class of this name is for GPUs, and used there.

    Parameters
    ----------
    layer : nn.Module
        One of PyTorch's layers of batch normalisation, whose weights and statistics it shares.
    """

    def __init__(self, layer: nn.Module):
        super().__init__(*_shape_of(layer))
        _share_tensors(self, layer)

    def _check_input_dim(self, input):
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        input : Tensor of shape (b, c, ...)
            Rows of this process; may be none.

        Returns
        -------
        output : Tensor of shape (b, c, ...)
            Normalised by mean and variance over all rows, and scaled.
        """
        if not self.training or world_size() == 1:
            return super().forward(input)
        output, mean, variance, n = _Normalise.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self._follow(mean, variance * (n / (n - 1)))
        return output

    def _follow(self, mean, variance):
        self.num_batches_tracked.add_(1)
        share = self.momentum
        if share is None:
            share = 1.0 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Normalise(torch.autograd.Function):
    """One message forward, one back; moments are joined as by Chan, Golub and LeVeque (1979)."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        full = x if x.dtype == torch.float64 else x.float()
        mean, variance, n = _moments(full)
        # Of no rows torch ends the process by a division by zero.
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
        # Sums of the gradient, and of its products with what is normalised; in one pass.
        slope = total = torch.zeros_like(mean)
        if len(x):
            _, slope, total = torch.ops.aten.native_batch_norm_backward(
                along, full, mean.new_ones(len(mean)), mean, variance, None, None, False, ctx.eps,
                [False, True, True],
            )  # fmt: skip
        means, slopes = (_all_reduce(torch.stack([total, slope])) / n).unbind()
        scale = (variance + ctx.eps).rsqrt()
        factor = scale if weight is None else scale * weight
        steep = factor * slopes * scale
        like = (1, -1, *[1] * (x.ndim - 2))
        # The gradient less its projections on a constant and on what is normalised, times factor.
        back = (along - means.view(like)).mul_(factor.view(like))
        back.addcmul_(full - mean.view(like), -steep.view(like))
        return (
            back.to(gradient.dtype),
            None if weight is None else slope.to(weight.dtype),
            total if ctx.has_bias else None,
            None,
        )


def _moments(x):
    """Mean and variance of each channel over all processes, and the number behind them."""
    count = x.numel() // x.shape[1]
    if count:
        # Of all ways on a CPU the quickest.
        _, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, 0.0)
        variance = inverse.pow(-2).masked_fill(inverse == 0, 0)  # where all are the same
    else:
        variance = mean = x.new_zeros(x.shape[1])
    parts = _all_gather(torch.stack([mean, variance, torch.full_like(mean, count)]))
    means, variances, counts = torch.stack(parts).unbind(1)
    n = counts.sum(0)
    mean = (counts * means).sum(0) / n
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / n
    return mean, variance, n[0]


@contextlib.contextmanager
def synchronised_batch_norm(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Let all batch normalisation inside a module use the rows of all processes.

    Parameters
    ----------
    module : nn.Module
        Its layers are exchanged, and put back at the end; parameters and statistics stay the same
        tensors.

    wanted : bool, default=True
        Whether it should.
    """
    exchanged = []
    if wanted and world_size() > 1:
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, _BatchNorm) and not isinstance(child, nn.SyncBatchNorm):
                    exchanged.append((parent, name, child))
                    setattr(parent, name, _synchronised(child))
    try:
        yield
    finally:
        for parent, name, child in exchanged:
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


def average_statistics(module: nn.Module) -> None:
    """Let the statistics of batch normalisation be the means of those of all processes.

    Parameters
    ----------
    module : nn.Module
        Trained with statistics of each process.
    """
    if world_size() == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and layer.track_running_stats:
            for statistic in (layer.running_mean, layer.running_var):
                _all_reduce(statistic).div_(world_size())
