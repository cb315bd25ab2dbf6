"""Apply a function to every sample of a store, in evaluation mode."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skcc import distributed
from skcc.data import Store

INFERENCE_BATCH = 128


def device_of(module: nn.Module) -> torch.device:
    """Device of a module.

    Parameters
    ----------
    module : nn.Module
        All on one device.

    Returns
    -------
    device : torch.device
        That of its first parameter.
    """
    return next(module.parameters()).device


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context in which networks compute in a type.

    Parameters
    ----------
    device : torch.device
        Where the networks are.

    dtype : torch.dtype
        torch.float32 switches autocast off.

    Returns
    -------
    context : torch.autocast
        To be entered.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def sweep(
    module: nn.Module,
    store: Store,
    function: Callable[[Tensor], Tensor],
    *,
    view: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Apply a function of views to a whole store; all inference goes through here.

    Batches have one fixed size, so that the result for a sample does not depend on which others
    are in the store. Several processes share the work, and all have the result.

    Parameters
    ----------
    module : nn.Module
        Put into evaluation mode meanwhile.

    store : Store
        The samples.

    function : callable
        From what `view` returns to a tensor with one row per sample, such as ``objective.assign``.

    view : callable
        From a batch and the indices of its samples to views.

    dtype : torch.dtype, default=torch.float32
        Type in which networks compute.

    Returns
    -------
    rows : Tensor of shape (n, ...)
        In the order of the store, float32, on the CPU.
    """
    device = device_of(module)
    training = module.training
    module.eval()
    # Whole batches per process, since the last bit of a row may depend on its position in one.
    mine = distributed.rank_slice(len(store), INFERENCE_BATCH)

    def rows_of(batch, index):
        with autocast(device, dtype):
            return function(view(batch.to(device), index.to(device))).float().cpu()

    try:
        with torch.inference_mode(), distributed.raise_on_all_ranks():
            # A rank without samples computes one all the same, to know the shape of a row.
            rows = torch.cat(list(store.sweep(rows_of, INFERENCE_BATCH, mine or range(1))))
    finally:
        module.train(training)
    store.invalid = distributed.merge_dicts(store.invalid)
    return distributed.all_gather_rows(rows[: len(mine)], len(store), INFERENCE_BATCH)
