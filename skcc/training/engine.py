"""The training loop; there is no other.

It knows loss terms as named numbers and samples as rows of a store; it knows no method, loss or
network. All random numbers of an epoch follow from (seed, epoch).
"""

import contextlib
import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from skcc import distributed
from skcc.augment import Views
from skcc.data import Store
from skcc.exceptions import TrainingInterruptedWarning, warn
from skcc.objective import Epoch, Objective
from skcc.rng import epoch_generator, private_rng, seed_global_rng
from skcc.training.batchnorm import average_running_stats, convert_batch_norm
from skcc.training.checkpoint import Checkpoint
from skcc.training.graphs import GraphedStep
from skcc.training.schedules import LRScheduler
from skcc.training.settings import steps_per_epoch
from skcc.training.state import TrainingState
from skcc.training.sweep import autocast, device_of, sweep


@dataclass(frozen=True)
class Result:
    """What came of a training run.

    Parameters
    ----------
    history : list of dict of str to float
        Mean loss terms of each finished epoch.

    stopped : bool
        Whether it was asked to end: by Ctrl-C or by `report`.
    """

    history: list[dict[str, float]]
    stopped: bool


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
    dtype: torch.dtype = torch.float32,
    betas: tuple[float, float] = (0.9, 0.999),
    global_rng: bool = False,
    begin: Callable[[], None] = lambda: None,
    report: Callable[[list[dict[str, float]], float], bool] = lambda history, seconds: False,
    unlabeled: Store | None = None,
    checkpoint: Checkpoint | None = None,
    cuda_graphs: bool = False,
    sync_batchnorm: bool = True,
) -> Result:
    """Minimise the sum of an objective's loss terms.

    An epoch is a pass over the unlabeled samples, if there are any, and then one over those to be
    clustered. Ctrl-C ends training early, with a `TrainingInterruptedWarning`, and keeps all
    finished epochs. Before any error or SIGTERM ends training, the checkpoint gets the last
    finished epoch.

    Several processes (see `skcc.distributed`) share each batch by rank, and train the same model
    as one process.

    Parameters
    ----------
    objective : Objective
        Trained in place, on the device where it is.

    store : Store
        The samples, on the same device or such that they stream to it.

    views : Views
        How a batch becomes views.

    epochs : int
        Passes over the samples.

    batch_size : int
        Most samples per step. An epoch is cut into equal batches; the remainder, less than one
        sample per step, is left out, and differs from epoch to epoch.

    learning_rate : float
        Peak learning rate of AdamW.

    weight_decay : float
        Decoupled weight decay of AdamW.

    schedule : str
        A key of `skcc.training.schedules.SCHEDULES`.

    seed : int
        Determines everything random.

    dtype : torch.dtype, default=torch.float32
        Type in which networks compute.

    betas : tuple of (float, float), default=(0.9, 0.999)
        Of AdamW.

    global_rng : bool, default=False
        Whether the network or the views draw from torch's global generators, which are then
        seeded for each epoch and restored at the end.

    begin : callable, default=lambda: None
        Called before each epoch.

    report : callable, default=lambda history, seconds: False
        Called after each epoch with the mean loss terms of all epochs so far and the seconds of
        the last one. Training stops if it returns True.

    unlabeled : Store or None, default=None
        Samples that are not to be clustered; they go through ``objective.unlabeled``.

    checkpoint : Checkpoint or None, default=None
        Where training resumes from, and where its state is saved.

    cuda_graphs : bool, default=False
        Whether steps on a CUDA device are captured once and replayed. Not done where global
        generators are used, or with several processes.

    sync_batchnorm : bool, default=True
        Whether several processes normalise by the statistics of the whole batch. Without it,
        training is faster, and another model results.

    Returns
    -------
    result : Result
        History, and whether training was stopped.

    Raises
    ------
    FloatingPointError
        If a loss term or a weight is not finite for the second time.

    torch.OutOfMemoryError
        If a batch does not fit into the memory of the device; names a size that does.

    MemoryError
        If a step on the CPU needs more memory than there is.

    skcc.exceptions.LostRankError
        If another process has ended.

    Warns
    -----
    DivergenceWarning
        The first time that a loss term or a weight is not finite. The epoch is then repeated from
        the end of the one before, with other random numbers.

    CheckpointWarning
        If the checkpoint cannot be written, as on a full disk. Training goes on.
    """
    device, is_distributed = device_of(objective), distributed.world_size() > 1
    global_rng = global_rng or objective.draws
    cuda_graphs = cuda_graphs and device.type == "cuda" and not global_rng and not is_distributed
    optimizers = _optimizers(objective, device, cuda_graphs, lr=learning_rate, betas=betas,
                             weight_decay=weight_decay)  # fmt: skip
    passes = _passes(objective, optimizers, (store, unlabeled), views, dtype=dtype,
                     batch_size=batch_size, cuda_graphs=cuda_graphs)  # fmt: skip
    steps = sum(epoch_pass.steps for epoch_pass in passes)
    state = TrainingState(checkpoint, objective, optimizers)
    history = state.restore()
    scheduler = LRScheduler([*optimizers.values()], learning_rate, schedule, epochs * steps)
    sweep_all = _sweep_all(objective, store, views, dtype)

    def run_epoch(number, attempt):
        generator = epoch_generator(seed, number, attempt)
        if global_rng:
            seed_global_rng(generator.initial_seed() + distributed.rank(), device)
        scheduler.steps_done = number * steps
        objective.before_epoch(Epoch(number, sweep_all, generator, optimizers.values()))
        terms = {}
        for epoch_pass in passes:
            terms |= epoch_pass.run(generator, scheduler, device)
        if not sync_batchnorm:
            average_running_stats(objective)
        return terms

    objective.train()
    stopped = is_too_large = False
    try:
        with (
            state.save_on_exit(max(epoch_pass.size for epoch_pass in passes)),
            private_rng(seed, device) if global_rng else contextlib.nullcontext(),
            convert_batch_norm(objective, sync_batchnorm),
        ):
            stopped = _run_epochs(run_epoch, state, history, epochs, begin, report)
    except torch.OutOfMemoryError:
        is_too_large = True  # memory is freed before smaller batches are tried
    except KeyboardInterrupt:
        if is_distributed:  # the other ranks may be anywhere
            raise
        stopped = True
        warn(
            f"training was interrupted in epoch {len(history) + 1} of {epochs}; what was learned "
            "until then is kept",
            TrainingInterruptedWarning,
        )
    if is_too_large:
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        raise _out_of_memory_error(passes, device)
    finish(objective, store, views, epochs=len(history), seed=seed, dtype=dtype)
    return Result(history, stopped)


def _run_epochs(run_epoch, state, history, epochs, begin, report):
    """Append the terms of the epochs that are left to the history; return whether to stop."""
    for epoch in range(len(history), epochs):
        begin()
        started = time.perf_counter()
        history.append(state.run_with_retry(partial(run_epoch, epoch), epoch))
        stopped = distributed.any_rank(report(history, time.perf_counter() - started))
        state.update(history, is_last=stopped or len(history) == epochs)
        if stopped:
            return True
    return False


def finish(
    objective: Objective, store: Store, views: Views, *, epochs: int, seed: int, dtype: torch.dtype
) -> None:
    """Do what follows the last epoch; the objective can then predict.

    Parameters
    ----------
    objective : Objective
        Trained; changed in place.

    store : Store
        The samples it was trained on.

    views : Views
        How a batch becomes views.

    epochs : int
        Epochs that were trained.

    seed : int
        That of `train`.

    dtype : torch.dtype
        Type in which networks compute.
    """
    objective.eval()
    sweep_all = _sweep_all(objective, store, views, dtype)
    objective.after_training(Epoch(epochs, sweep_all, epoch_generator(seed, epochs)))


def _sweep_all(objective, store, views, dtype):
    return lambda function: sweep(objective, store, function, view=views.plain, dtype=dtype)


def _optimizers(objective, device, capturable, **settings):
    """One optimizer per turn, by name."""
    return {
        turn: torch.optim.AdamW(
            objective.parameters_of(turn),
            fused=device.type in ("cpu", "cuda"),
            capturable=capturable,
            **settings,
        )
        for turn in objective.turns
    }


def _passes(objective, optimizers, stores, views, *, dtype, batch_size, cuda_graphs):
    """The passes of an epoch; `stores` are the samples to be clustered, and others or None."""
    store, unlabeled = stores
    turns = tuple(optimizers)
    losses = _call_turn
    if distributed.world_size() > 1:
        losses = _distributed_losses(objective, static=unlabeled is None and len(turns) == 1)

    def update(turns_of_pass, batch, tables, rows, index):
        terms = {}
        with distributed.raise_lost_rank():
            with autocast(batch.device, dtype):
                seen = _views_of(views, batch, tables, rows)
            for turn in turns_of_pass:
                with autocast(batch.device, dtype):
                    of_turn = losses(objective, turn, seen, index)
                    loss = sum(of_turn.values())
                loss.backward()
                optimizers[turn if turn in optimizers else turns[0]].step()
                for optimizer in optimizers.values():
                    optimizer.zero_grad(set_to_none=True)
                terms |= {name: term.detach() for name, term in of_turn.items()}
        objective.after_step()
        return terms

    passes = [EpochPass(store, views, partial(update, turns), batch_size, cuda_graphs,
                        weights=objective.sample_weights)]  # fmt: skip
    if unlabeled is not None:
        update_unlabeled = partial(update, ("unlabeled",))
        passes.insert(0, EpochPass(unlabeled, views, update_unlabeled, batch_size, cuda_graphs,
                                   first_index=len(store)))  # fmt: skip
    return passes


def _call_turn(objective, turn, views, index):
    # `forward` through `__call__`, so that hooks of the user run.
    return objective(views, index) if turn == "forward" else getattr(objective, turn)(views, index)


def _views_of(views, batch, tables, rows):
    """Views of the rows of this process; of none, if there are more processes than rows."""
    if len(rows):
        return views(batch, tables, rows)
    some = views(batch.new_zeros(1, *batch.shape[1:]), tables, rows.new_zeros(1))
    return tuple(view[:0] for view in some)


class DDPObjective(nn.Module):
    """An objective behind the one `forward` that DistributedDataParallel wraps.

    Parameters
    ----------
    objective : Objective
        Whose turns are called by name.
    """

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def forward(self, turn: str, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        """Loss terms of a turn.

        Parameters
        ----------
        turn : str
            Name of a method of the objective.

        views : tuple of Tensor
            As in `Objective.forward`.

        index : Tensor of shape (b,)
            Indices of the samples.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Of the turn.
        """
        return _call_turn(self.objective, turn, views, index)


def _distributed_losses(objective, static):
    """Loss terms whose gradients are averaged over the processes."""
    ddp = nn.parallel.DistributedDataParallel
    # All ranks compute the same buffers; the option not to send them has had two names.
    known = inspect.signature(ddp).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    device = device_of(objective)
    parallel = ddp(
        DDPObjective(objective),
        device_ids=[device] if device.type == "cuda" else None,
        # A network may have layers that no loss uses; both options look for them.
        static_graph=static,
        find_unused_parameters=not static,
        **{buffers: False},
    )
    return lambda objective, turn, views, index: parallel(turn, views, index)


class EpochPass:
    """One pass over a store in each epoch: new order, new views, one step per batch.

    Parameters
    ----------
    store : Store
        The samples.

    views : Views
        How a batch becomes views.

    update : callable
        From a batch, tables of augmentation parameters, rows of the tables and indices of the
        samples to loss terms; changes the weights.

    batch_size : int
        Most samples per step.

    cuda_graphs : bool
        Whether steps are captured once and replayed.

    weights : callable, default=None
        Returns the weights by which samples are drawn with replacement in the coming epoch, or
        None. The default draws each sample once.

    first_index : int, default=0
        Index of the first sample. Not 0 for samples that are not to be clustered, whose terms get
        the prefix "unlabeled".
    """

    def __init__(
        self, store, views, update, batch_size, cuda_graphs, *, weights=None, first_index=0
    ):
        self.store, self.views, self.update = store, views, update
        self.weights, self.first_index = weights or (lambda: None), first_index
        self.steps = steps_per_epoch(len(store), batch_size)
        self.size = len(store) // self.steps
        self._tables = None
        self._run_step = GraphedStep(self._step) if cuda_graphs else self._step

    def _step(self, batch, rows, index):
        return self.update(batch, self._tables, rows, index + self.first_index)

    def run(
        self, generator: torch.Generator, scheduler: LRScheduler, device: torch.device
    ) -> dict[str, float]:
        """Train for a pass; terms are summed on the device and read once.

        Parameters
        ----------
        generator : torch.Generator
            Of the epoch.

        scheduler : LRScheduler
            Asked before each step.

        device : torch.device
            Where batches are needed.

        Returns
        -------
        terms : dict of str to float
            Means over the steps.
        """
        order, rows = self._draw_order(generator)
        self._draw_tables(generator, device)
        rows = None if rows is None else torch.stack(rows).to(device)
        total: dict[str, Tensor] = {}
        with distributed.global_batch_size(self.size):
            for step, (index, batch) in enumerate(self.store.stream(order, device)):
                scheduler.step()
                own_rows = index if rows is None else rows[step]
                for name, term in self._run_step(batch, own_rows, index).items():
                    total[name] = total[name] + term if name in total else term
        prefix = "unlabeled " if self.first_index else ""
        return {prefix + name: value.item() / self.steps for name, value in total.items()}

    def _draw_order(self, generator):
        """Samples of each step, and rows of the tables if these are not the samples themselves.

        A sample that is drawn twice gets two views, so a table has one row per draw then.
        """
        n = self.steps * self.size
        weights = self.weights()
        if weights is None:
            order = torch.randperm(len(self.store), generator=generator)[:n]
            return self._steps_of_rank(order), None
        drawn = torch.multinomial(weights.double().cpu(), n, replacement=True, generator=generator)
        return self._steps_of_rank(drawn), self._steps_of_rank(torch.arange(n))

    def _steps_of_rank(self, order):
        mine = distributed.rank_slice(self.size)
        return order.view(self.steps, self.size)[:, mine.start : mine.stop].unbind()

    def _draw_tables(self, generator, device):
        """Draw augmentation parameters, in the memory of the old ones: a CUDA graph reads it."""
        drawn = self.views.draw(len(self.store), self.store.shape, generator, device)
        if self._tables is None:
            self._tables = drawn
            return
        for old, new in zip(self._tables, drawn, strict=True):
            for name, column in new.items():
                old[name].copy_(column)

    def largest_that_fits(self, device: torch.device) -> int:
        """Find the largest half, quarter, ... of a batch whose step fits into memory.

        The weights are trained on by it, but they are lost anyway.

        Parameters
        ----------
        device : torch.device
            A CUDA device.

        Returns
        -------
        size : int
            0 if no batch fits.
        """
        size = self.size if self._tables is not None else 0
        while (size := size // 2) >= 2:
            torch.cuda.empty_cache()
            try:
                for index, batch in self.store.stream([torch.arange(size)], device):
                    self._step(batch, index, index)
            except torch.OutOfMemoryError:
                continue
            return size
        return 0


def _out_of_memory_error(passes, device):
    size = max(epoch_pass.size for epoch_pass in passes)
    if distributed.world_size() > 1:  # the others wait for this one, so no size can be tried
        return torch.OutOfMemoryError(
            f"a {distributed.world_size()}th of a batch of {size} samples does not fit into the "
            f"memory of {device}; give a smaller batch_size, or use more processes"
        )
    fits = [epoch_pass.largest_that_fits(device) for epoch_pass in passes]
    return torch.OutOfMemoryError(
        f"a batch of {size} samples does not fit into the memory of {device}; "
        + (f"one of {min(fits)} does: batch_size={min(fits)}" if all(fits) else "nor does one of 2")
    )
