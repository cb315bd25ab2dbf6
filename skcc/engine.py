"""The training loop, the only one.

This file knows loss terms only as named numbers, and samples only as rows of a store. It knows
no method, loss or network. All randomness of an epoch comes from (seed, epoch).
"""

import contextlib
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from skcc.augment import Views
from skcc.checkpoint import Checkpoint
from skcc.data import Store
from skcc.objective import Objective

WARM_UP = 0.1  # share of the steps in which the learning rate rises
PREDICT_BATCH = 128
_global_rng = threading.RLock()


def one_cycle(progress: float) -> float:
    """Rise from a tenth during the first tenth of training, then fall to zero by a cosine.

    Parameters
    ----------
    progress : float
        Share of the steps that are done.

    Returns
    -------
    factor : float
        What the learning rate is multiplied by.
    """
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "one-cycle": one_cycle,
    "constant": lambda progress: 1.0,
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for.

    Parameters
    ----------
    device : str or torch.device
        "auto" is the first of CUDA, MPS and CPU that is there.

    Returns
    -------
    device : torch.device
        With an index where the kind has several.

    Raises
    ------
    ValueError
        If there is no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            device = "cuda"
        else:
            device = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here: {str(error).splitlines()[0]}. Wanted "
            "'auto', 'cpu', or an accelerator that this torch can use, such as 'cuda' or 'mps'."
        ) from error


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The type in which networks compute on a device.

    Parameters
    ----------
    precision : {"auto", "fp32", "bf16"}
        "auto" is bfloat16 on CUDA devices that have it, float32 elsewhere.

    device : torch.device
        Where.

    Returns
    -------
    dtype : torch.dtype
        Either torch.float32 or torch.bfloat16.
    """
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        precision = "bf16" if fast else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def n_steps(n: int, batch_size: int) -> int:
    """Optimizer steps per epoch.

    Parameters
    ----------
    n : int
        Number of samples.

    batch_size : int
        Most samples per step, but for a batch of three that cannot be cut.

    Returns
    -------
    steps : int
        An epoch is cut into this many equal batches; never zero, never so many that a batch
        would be a single sample, which has nothing to be contrasted with.
    """
    return min(math.ceil(n / batch_size), max(1, n // 2))


def _epoch_generator(seed, epoch):
    """Randomness that belongs to one epoch, whatever came before it."""
    state = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) % 2**63)


@contextlib.contextmanager
def private_rng(seed: int, device: torch.device):
    """Seed torch's global generators, and put them back afterwards.

    For what cannot be given a generator: the initial weights of layers, dropout, and functions
    of the user. One thread at a time; others wait.

    Parameters
    ----------
    seed : int
        Seed inside.

    device : torch.device
        Whose generator is meant, beside the CPU's.
    """
    devices = [device] if device.type != "cpu" else []
    kind = devices[0].type if devices else "cuda"
    with _global_rng, torch.random.fork_rng(devices, device_type=kind):
        seed_global_rng(seed, device)
        yield


def seed_global_rng(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of one device.

    Parameters
    ----------
    seed : int
        The seed.

    device : torch.device
        Whose generator is meant, beside the CPU's.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def device_of(module: torch.nn.Module) -> torch.device:
    """Where a module is.

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


def sweep(
    objective: Objective,
    store: Store,
    function: Callable[[Tensor], Tensor],
    *,
    view: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Apply a function of views to a whole store: the one way of inference.

    Parameters
    ----------
    objective : Objective
        Put into evaluation mode meanwhile.

    store : Store
        The samples.

    function : callable
        From what `view` makes to rows, such as ``objective.assign``.

    view : callable
        From a batch and the indices of its samples to a view.

    dtype : torch.dtype, default=torch.float32
        Type in which networks compute.

    Returns
    -------
    rows : Tensor of shape (n, ...)
        In order, float32, on the CPU.
    """
    device = device_of(objective)
    training = objective.training
    objective.eval()

    def rows_of(batch, index):
        with autocast(device, dtype):
            return function(view(batch.to(device), index.to(device))).float().cpu()

    try:
        with torch.inference_mode():
            return torch.cat(list(store.sweep(rows_of, PREDICT_BATCH)))
    finally:
        objective.train(training)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context in which networks compute in a type.

    Parameters
    ----------
    device : torch.device
        Where.

    dtype : torch.dtype
        Type; torch.float32 leaves everything as it is.

    Returns
    -------
    context : torch.autocast
        To be entered.
    """
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def train(
    objective: Objective,
    store: Store,
    views: Views,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    seed: int,
    dtype: torch.dtype,
    global_rng: bool,
    begin: Callable[[], None],
    report: Callable[[list[dict[str, float]], float], bool],
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, float]]:
    """Minimise the sum of an objective's terms.

    Ctrl-C ends training early: what was learned stays, and a warning says so.

    Parameters
    ----------
    objective : Objective
        Trained in place, on the device where it is.

    store : Store
        The samples, on the same device.

    views : Views
        How a batch becomes views.

    epochs : int
        Passes over the samples.

    batch_size : int
        Most samples per step. An epoch is cut into equal batches, so up to one sample per step
        sits an epoch out; which ones, changes every epoch.

    learning_rate : float
        Peak step size of AdamW.

    weight_decay : float
        Of AdamW, decoupled from the gradient.

    schedule : {"one-cycle", "constant"}
        How the step size changes with the steps.

    seed : int
        Owner of everything random.

    dtype : torch.dtype
        Type in which networks compute.

    global_rng : bool
        Whether the objective or the views draw from torch's global generators: those are then
        seeded for each epoch, and put back at the end.

    begin : callable
        Called before each epoch.

    report : callable
        Told ``(history, seconds)`` after each epoch: the mean terms of all epochs until now, and
        what the last one took. If it answers True, training ends.

    checkpoint : Checkpoint or None, default=None
        Where training continues from, and where its state is kept.

    Returns
    -------
    history : list of dict
        Mean terms of each epoch that was finished.

    Raises
    ------
    FloatingPointError
        If a term is no longer finite; names the epoch and the term.
    """
    device = device_of(objective)
    steps = n_steps(len(store), batch_size)
    optimizer = torch.optim.AdamW(
        objective.parameters(),
        lr=learning_rate,
        weight_decay=weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    factor = SCHEDULES[schedule]
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(min(1.0, step / (epochs * steps)))
    )

    whole = _whole(objective, store, views, dtype)

    def step(index, tables):
        with autocast(device, dtype):
            terms = objective(views(store.batch(index), tables, index), index)
            loss = sum(terms.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        objective.after_step()
        return {name: term.detach() for name, term in terms.items()}

    history = _restore(checkpoint, objective, optimizer)
    scheduler.last_epoch = len(history) * steps
    objective.train()
    try:
        with private_rng(seed, device) if global_rng else contextlib.nullcontext():
            for epoch in range(len(history), epochs):
                begin()
                started = time.perf_counter()
                generator = _epoch_generator(seed, epoch)
                if global_rng:
                    seed_global_rng(generator.initial_seed(), device)
                objective.before_epoch(epoch, whole)
                total = _sum_terms(
                    step(index, tables)
                    for index, tables in _batches(store, views, steps, generator, device)
                )
                terms = {name: value / steps for name, value in total.items()}
                _demand_finite(terms, epoch)
                history.append(terms)
                stop = report(history, time.perf_counter() - started)
                last = stop or len(history) == epochs
                if checkpoint is not None and (last or checkpoint.is_due()):
                    _save(checkpoint, objective, optimizer, history)
                if stop:
                    break
    except KeyboardInterrupt:
        warnings.warn(
            f"training was interrupted in epoch {len(history) + 1} of {epochs}; what was learned "
            "until then is kept",
            stacklevel=6,
        )
    finish(objective, store, views, dtype=dtype)
    return history


def finish(objective: Objective, store: Store, views: Views, *, dtype: torch.dtype) -> None:
    """What follows the last epoch; the objective is then ready to predict.

    Parameters
    ----------
    objective : Objective
        Trained; changed in place.

    store : Store
        The samples it was trained on.

    views : Views
        How a batch becomes views.

    dtype : torch.dtype
        Type in which networks compute.
    """
    objective.eval()
    objective.after_training(_whole(objective, store, views, dtype))


def _whole(objective, store, views, dtype):
    """The sweep that objectives are handed: over all samples, as they are."""
    return lambda function: sweep(objective, store, function, view=views.plain, dtype=dtype)


def _restore(checkpoint, objective, optimizer) -> list[dict[str, float]]:
    """Take up the state of a checkpoint, if there is one; return its history."""
    state = None if checkpoint is None else checkpoint.load()
    if state is None:
        return []
    objective.load_state_dict(state["objective"])
    optimizer.load_state_dict(state["optimizer"])
    return state["history"]


def _save(checkpoint, objective, optimizer, history):
    checkpoint.save(
        {
            "objective": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": history,
        }
    )


def _batches(store, views, steps, generator, device) -> Iterator[tuple[Tensor, list]]:
    n = len(store)
    order = torch.randperm(n, generator=generator)
    tables = views.draw(n, store.shape, generator, device)
    order = order[: n // steps * steps].to(device)
    for index in order.chunk(steps):
        yield index, tables


def _sum_terms(terms):
    """Add up the terms of all steps on the device; read them once."""
    total: dict[str, Tensor] = {}
    for step in terms:
        for name, term in step.items():
            total[name] = total[name] + term if name in total else term
    return {name: value.item() for name, value in total.items()}


def _demand_finite(terms, epoch):
    for name, value in terms.items():
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the {name!r} term of the loss became {value} in epoch {epoch + 1}; a smaller "
                "learning_rate usually helps"
            )
