"""Data-parallel training: ranks, and collective operations on tensors and plain values.

Under ``torchrun`` each process (a rank) runs the same script. In a single process every function
here is an identity.

Objectives call `gather` on the outputs of their heads, so that losses see the whole batch and each
rank computes the same loss. Gradients are exact: the backward pass of `gather` sums the gradients
of all ranks, and `torch.nn.parallel.DistributedDataParallel` divides by their number.
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

_TIMEOUT = timedelta(minutes=10)  # for ranks that hang; one that is killed is noticed at once
_single: ContextVar[bool] = ContextVar("single_process", default=False)
_batch_size: ContextVar[int] = ContextVar("global_batch_size")


# -- ranks ---------------------------------------------------------------------------------


def world_size() -> int:
    """Number of processes in the group.

    Returns
    -------
    size : int
        1 without ``torchrun``, and inside `single_process`.
    """
    if _single.get() or not dist.is_available():
        return 1
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def rank() -> int:
    """Rank of this process.

    Returns
    -------
    rank : int
        From 0.
    """
    if world_size() == 1:
        return 0
    return dist.get_rank() if dist.is_initialized() else int(os.environ["RANK"])


def is_rank_zero() -> bool:
    """Whether this process writes and prints.

    Returns
    -------
    answer : bool
        True for rank 0 and for a single process.

    Examples
    --------
    >>> from skcc import distributed
    >>> distributed.is_rank_zero()
    True
    """
    return rank() == 0


def is_local_rank_zero() -> bool:
    """Whether this process writes files that all ranks of its machine read.

    Returns
    -------
    answer : bool
        True for one process per machine; for all where ``LOCAL_RANK`` is not set.
    """
    return world_size() == 1 or int(os.environ.get("LOCAL_RANK", 0)) == 0


def _launched():
    """Whether torchrun started this process; false in its child processes."""
    main = multiprocessing.current_process().name == "MainProcess"
    return main and dist.is_torchelastic_launched()


@contextlib.contextmanager
def single_process() -> Iterator[None]:
    """Compute without the other ranks, as if there were none.

    For code that not every rank runs, such as predicting on rank 0 only.

    Examples
    --------
    >>> from skcc import distributed
    >>> with distributed.single_process():
    ...     distributed.world_size()
    1
    """
    token = _single.set(True)
    try:
        yield
    finally:
        _single.reset(token)


def init_process_group() -> None:
    """Join the processes that ``torchrun`` started; each rank gets a GPU of its own.

    A process group that the script has initialised is used as it is.

    Raises
    ------
    LostRankError
        If not all of them join.
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
    """Raise LostRankError if a collective operation fails."""
    try:
        yield
    except RuntimeError as error:
        raise _lost(error) from error


@contextlib.contextmanager
def raise_lost_rank() -> Iterator[None]:
    """Raise LostRankError if communication inside PyTorch fails, as in a backward pass.

    Raises
    ------
    LostRankError
        In place of PyTorch's communication errors; other errors pass.
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
    reason = re.sub(r"^\[[^]]*\] ", "", str(error).strip().splitlines()[0]).split(". ")[0]
    return LostRankError(
        f"rank {rank()} of {world_size()} has lost another one, which ended or does not answer: "
        f"{reason}. Its own messages say why. Start all again; with a "
        "checkpoint_dir training then goes on where it was."
    )


# -- plain values ---------------------------------------------------------------------------


def all_gather_object(value: object) -> list:
    """Gather a plain value of each process.

    Parameters
    ----------
    value : object
        Value of this process; it must be valid JSON.

    Returns
    -------
    values : list
        By rank, after a round trip through JSON.

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
    """Join the dicts of all processes.

    Parameters
    ----------
    entries : dict of int to str
        Of this process.

    Returns
    -------
    entries : dict of int to str
        The same on all processes, sorted by key.
    """
    if world_size() == 1:
        return entries
    pairs = {pair for some in all_gather_object([*entries.items()]) for pair in map(tuple, some)}
    return dict(sorted(pairs))


def any_rank(flag: bool) -> bool:
    """Whether a flag is set on at least one process.

    Parameters
    ----------
    flag : bool
        Of this process.

    Returns
    -------
    answer : bool
        The same on all processes.
    """
    return any(all_gather_object(bool(flag)))


def all_ranks(flag: bool) -> bool:
    """Whether a flag is set on all processes.

    Parameters
    ----------
    flag : bool
        Of this process.

    Returns
    -------
    answer : bool
        The same on all processes.
    """
    return all(all_gather_object(bool(flag)))


@contextlib.contextmanager
def raise_on_all_ranks() -> Iterator[None]:
    """Raise on all processes if the block raises on one, so that no process waits forever.

    The block must not communicate.

    Raises
    ------
    OtherRankError
        If the block failed on another process; where it failed, its own error.
    """
    own = None
    try:
        yield
    except Exception as error:
        own = error
    messages = all_gather_object(own and f"{type(own).__name__}: {own}")
    if own is not None:
        raise own
    for number, message in enumerate(messages):
        if message:
            raise OtherRankError(f"rank {number}: {message}")


def compute_on_rank_zero(function: Callable[[], object]) -> object:
    """Call a function on rank 0, and send its result to all ranks.

    Parameters
    ----------
    function : callable
        Returns tensors and plain values, in dicts and lists.

    Returns
    -------
    result : object
        On the CPU.

    Raises
    ------
    OtherRankError
        If the function fails; on rank 0 its own error.
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
    """Rows of a batch or data set that belong to this process.

    Parameters
    ----------
    n : int
        Number of rows.

    block : int, default=1
        Rows that stay together.

    Returns
    -------
    rows : range
        Contiguous, in the order of the ranks. The numbers of blocks differ by at most one; blocks
        of one row are split as by `torch.tensor_split`.
    """
    ends = _ends(n, block)
    return range(ends[rank()], ends[rank() + 1])


def _ends(n, block=1):
    """Boundaries of the slices of all processes."""
    each, more = divmod(-(-n // block), world_size())
    return [min(n, block * (each * i + min(i, more))) for i in range(world_size() + 1)]


def all_gather_rows(rows: Tensor, n: int, block: int = 1) -> Tensor:
    """Concatenate the rows of all processes, without gradient.

    Parameters
    ----------
    rows : Tensor of shape (len(rank_slice(n, block)), ...)
        Of this process.

    n : int
        Number of rows of all processes.

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


def all_gather(tensor: Tensor) -> list[Tensor]:
    """Gather a tensor of one shape from all processes.

    Parameters
    ----------
    tensor : Tensor
        Of this process.

    Returns
    -------
    tensors : list of Tensor
        By rank.

    Raises
    ------
    LostRankError
        If a process is lost.
    """
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    with _watched():
        dist.all_gather(parts, tensor, group=_group(tensor.device))
    return parts


def all_reduce(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place.

    Parameters
    ----------
    tensor : Tensor
        Of this process.

    Returns
    -------
    tensor : Tensor
        The same one.

    Raises
    ------
    LostRankError
        If a process is lost.
    """
    with _watched():
        dist.all_reduce(tensor, group=_group(tensor.device))
    return tensor


_cpu_group = None


def _group(device):
    """A group that can send tensors of a device; None is the default group."""
    global _cpu_group
    if device.type != "cpu" or dist.get_backend() != "nccl":
        return None
    if _cpu_group is None:
        _cpu_group = dist.new_group(backend="gloo", timeout=_TIMEOUT)
    return _cpu_group


@contextlib.contextmanager
def global_batch_size(n: int) -> Iterator[None]:
    """Set the number of rows of the batch that `gather` collects.

    Parameters
    ----------
    n : int
        Rows of the whole batch; each process has its `rank_slice`.
    """
    token = _batch_size.set(n)
    try:
        yield
    finally:
        _batch_size.reset(token)


def gather(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Gather the whole batch from the slices of all processes, with exact gradients.

    Parameters
    ----------
    *tensors : Tensor of shape (b, ...)
        Rows of this process.

    Returns
    -------
    tensors : tuple of Tensor of shape (n, ...)
        Rows of all processes, in the order of the batch; the same on every process.

    Raises
    ------
    LostRankError
        If a process is lost.

    Notes
    -----
    Gathering without gradient and putting one's own rows back, as is often done, gives wrong
    gradients: the effect of a row on the losses of other ranks is lost.
    """
    if world_size() == 1:
        return tensors
    whole: list = [None] * len(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # one message per type
        of_dtype = [i for i, t in enumerate(tensors) if t.dtype == dtype]
        flat = torch.cat([tensors[i].flatten(1) if tensors[i].ndim > 1 else tensors[i][:, None]
                          for i in of_dtype], dim=1)  # fmt: skip
        rows = _Gather.apply(flat, _batch_size.get())
        widths = [
            tensors[i][:1].numel() if len(tensors[i]) else _width(tensors[i]) for i in of_dtype
        ]
        for i, columns in zip(of_dtype, rows.split(widths, dim=1), strict=True):
            whole[i] = columns.reshape(-1, *tensors[i].shape[1:])
    return tuple(whole)


def _width(tensor):
    return int(torch.Size(tensor.shape[1:]).numel())


class _Gather(torch.autograd.Function):
    """Concatenate rows over the processes; the backward pass sums over ranks and slices."""

    @staticmethod
    def forward(ctx, rows, n):
        ctx.n = n
        return all_gather_rows(rows, n)

    @staticmethod
    def backward(ctx, gradient):
        mine = rank_slice(ctx.n)
        return all_reduce(gradient.clone())[mine.start : mine.stop], None
