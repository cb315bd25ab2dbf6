"""Inference over all samples of a store, in evaluation mode."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from skcc import distributed
from skcc.contention import shared_cores
from skcc.data import SampleStore

INFERENCE_BATCH = 128
ACCELERATED_BATCH = 1024  # of small images on a CUDA device, which a batch of 128 does not fill
SMALL_IMAGE = 64 * 64  # pixels
SMALL_BATCHES = (4, 8, 32)  # for as many samples or fewer, where they give the same bits


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a module.

    Parameters
    ----------
    module : nn.Module
        Has at least one parameter or buffer, and all of them on one device.

    Returns
    -------
    device : torch.device
        Device of the first parameter or buffer.
    """
    return next(itertools.chain(module.parameters(), module.buffers())).device


def current_device(device: torch.device) -> contextlib.AbstractContextManager:
    """Let a CUDA device be the current one, which streams, events and graphs are made on.

    Parameters
    ----------
    device : torch.device
        Others than CUDA change nothing.

    Returns
    -------
    context : context manager
        Restores the caller's device.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def inference_batch(store: SampleStore, device: torch.device) -> int:
    """Return the fixed number of samples in a batch of `sweep`.

    Parameters
    ----------
    store : SampleStore
        The samples.

    device : torch.device
        Where networks compute.

    Returns
    -------
    size : int
        Depends on the device and on the shape of a sample only.
    """
    is_small = len(store.shape) == 1 or store.shape[0] * store.shape[1] <= SMALL_IMAGE
    return ACCELERATED_BATCH if device.type == "cuda" and is_small else INFERENCE_BATCH


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in a type by autocast, which is disabled for float32.

    Parameters
    ----------
    device : torch.device
        Device of the networks.

    dtype : torch.dtype
        Type in which networks compute.
    """
    enabled = dtype != torch.float32
    # Without the cache of casts, which all threads share: another one that leaves autocast empties
    # it, and gradients of the same weight would then be added in another type.
    try:
        with torch.autocast(device.type, dtype, enabled=enabled, cache_enabled=False):
            yield
    finally:
        # A module of the user may cache casts of weights, which change after this step; torch drops
        # them at the end of the outermost context, which may be one of the user, too.
        torch.clear_autocast_cache()


def sweep(
    module: nn.Module,
    store: SampleStore,
    function: Callable[[Tensor], Tensor],
    *,
    view: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
) -> Tensor:
    """Apply a function of views to all samples of a store.

    Batches have a fixed size, so that the result of a sample does not depend on the other samples.
    Several processes share the work, and each returns the whole result.

    Parameters
    ----------
    module : nn.Module
        Network that `function` uses; in evaluation mode during the sweep.

    store : SampleStore
        The samples.

    function : callable
        Maps views to a tensor with one row per sample, such as ``objective.assign``.

    view : callable
        Maps a batch and the indices of its samples to views.

    dtype : torch.dtype, default=torch.float32
        Type in which networks compute.

    batch_size : int, default=None
        Samples per batch, for stores of at most so many samples; None takes `inference_batch`.

    Returns
    -------
    rows : Tensor of shape (n, ...)
        In the order of the store, on the CPU; float64 if the function returns it, else float32.
    """
    device = device_of(module)
    training = module.training
    module.eval()
    # Each process gets whole batches, since a row may depend on its position in the batch by
    # rounding.
    size = inference_batch(store, device)
    own_indices = distributed.rank_slice(len(store), size)

    def rows_of(batch, index):
        views = view(batch.to(device), index.to(device))  # exact to a gray level: no autocast
        with autocast(device, dtype):
            rows = function(views).cpu()
            return rows if rows.dtype == torch.float64 else rows.float()

    is_long = len(store) > SMALL_BATCHES[-1]
    try:
        with (
            shared_cores() if is_long else contextlib.nullcontext(),
            torch.inference_mode(),
            current_device(device),
            distributed.raise_on_all_ranks(),
        ):
            # A rank without samples computes one row, because it needs the shape.
            rows = torch.cat(
                list(store.sweep(rows_of, batch_size or size, own_indices or range(1)))
            )
    finally:
        module.train(training)
    store.invalid = distributed.merge_dicts(store.invalid)
    return distributed.all_gather_rows(rows[: len(own_indices)], len(store), size)
