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
from torch import Tensor
from torch import distributed as dist

from skcc.exceptions import LostRankError, OtherRankError

_TIMEOUT = timedelta(minutes=10)  # a rank that is killed is noticed at once, one that hangs then
_alone: ContextVar[bool] = ContextVar("alone", default=False)
_batch: ContextVar[int] = ContextVar("batch")


# -- who is who -----------------------------------------------------------------------------


def world_size() -> int:
    """How many processes work together.

    Returns
    -------
    size : int
        1 without ``torchrun``, and inside `single_process`.
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


def is_rank_zero() -> bool:
    """Whether this is the process that writes and prints.

    Returns
    -------
    answer : bool
        True of rank 0, and of a process that is alone.

    Examples
    --------
    >>> from skcc import distributed
    >>> distributed.is_rank_zero()
    True
    """
    return rank() == 0


def is_local_rank_zero() -> bool:
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
def single_process() -> Iterator[None]:
    """Let this process compute by itself what is inside, as if there were no others.

    For what not every rank does, such as predicting on rank 0 only.

    Examples
    --------
    >>> from skcc import distributed
    >>> with distributed.single_process():
    ...     distributed.world_size()
    1
    """
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def init_process_group() -> None:
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
def raise_lost_rank() -> Iterator[None]:
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


def all_gather_object(value: object) -> list:
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
    sizes = torch.cat(all_gather(torch.tensor([len(own)]))).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(own)] = own
    parts = all_gather(padded)
    return [
        json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes, strict=True)
    ]


def merge_dicts(entries: dict[int, str]) -> dict[int, str]:
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
    pairs = {pair for some in all_gather_object([*entries.items()]) for pair in map(tuple, some)}
    return dict(sorted(pairs))


def any_rank(flag: bool) -> bool:
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
    return any(all_gather_object(bool(flag)))


def all_ranks(flag: bool) -> bool:
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
    return all(all_gather_object(bool(flag)))


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
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
    said = all_gather_object(own and f"{type(own).__name__}: {own}")
    if own is not None:
        raise own
    for number, message in enumerate(said):
        if message:
            raise OtherRankError(f"rank {number}: {message}")


def compute_on_rank_zero(function: Callable[[], object]) -> object:
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
    with raise_on_all_ranks():
        if is_rank_zero():
            with single_process():
                result = function()
            torch.save(result, content)
    size = all_gather_object(content.tell())[0]
    received = torch.empty(size, dtype=torch.uint8)
    if is_rank_zero():
        received = torch.frombuffer(content.getbuffer(), dtype=torch.uint8)
    with _watched():
        dist.broadcast(received, 0)
    if is_rank_zero():
        return result
    return torch.load(io.BytesIO(received.numpy().tobytes()), weights_only=True)


def check_same_on_all_ranks(identity: dict[str, object]) -> None:
    """Reject a call that differs between the processes.

    Parameters
    ----------
    identity : dict of str to object
        Plain values by name; of this process.

    Raises
    ------
    ValueError
        If another process has other values; says under which names.
    """
    for number, other in enumerate(all_gather_object(identity)):
        differing = [name for name in identity if identity[name] != other.get(name)]
        if differing:
            raise ValueError(
                f"all processes must call fit with the same data and parameters; rank {number} "
                f"and rank {rank()} differ in {', '.join(differing)}"
            )


# -- rows -----------------------------------------------------------------------------------


def rank_slice(n: int, block: int = 1) -> range:
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


def all_gather_rows(rows: Tensor, n: int, block: int = 1) -> Tensor:
    """The rows of all processes, without gradient.

    Parameters
    ----------
    rows : Tensor of shape (len(rank_slice(n, block)), ...)
        Those of this process.

    n : int
        How many there are in all.

    block : int, default=1
        As in `rank_slice`.

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
    parts = all_gather(_padded(rows, max(sizes)))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def _padded(rows, size):
    if len(rows) == size:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def all_gather(tensor):
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _watched():
        dist.all_gather(parts, tensor, group=_group(tensor.device))
    return parts


def all_reduce(tensor):
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
def global_batch_size(n: int) -> Iterator[None]:
    """Tell `gather` how many rows the batch has that all processes share.

    Parameters
    ----------
    n : int
        Rows of the whole batch; each process has its `rank_slice`.
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
        return all_gather_rows(rows, n)

    @staticmethod
    def backward(ctx, gradient):
        mine = rank_slice(ctx.n)
        return all_reduce(gradient.clone())[mine.start : mine.stop], None


# -- batch normalisation --------------------------------------------------------------------

