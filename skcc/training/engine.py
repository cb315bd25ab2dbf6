"""The training loop; there is no other.

It knows loss terms as named numbers and samples as rows of a store; it knows no method, loss or
network. All random numbers of an epoch follow from (seed, epoch).
"""

import inspect
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor, nn

from skcc import distributed
from skcc.augment import Views
from skcc.data import SampleStore
from skcc.exceptions import TrainingInterruptedWarning, warn
from skcc.objective import Epoch, Objective
from skcc.rng import epoch_generator, private_rng, seed_global_rng
from skcc.training.batchnorm import average_running_stats, convert_batch_norm, split_batch_norm
from skcc.training.checkpoint import Checkpoint
from skcc.training.graphs import GraphedStep
from skcc.training.muon import Muon
from skcc.training.schedules import LRScheduler
from skcc.training.settings import steps_per_epoch
from skcc.training.state import TrainingState
from skcc.training.sweep import autocast, current_device, device_of, sweep

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "muon": Muon,
}


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


@dataclass
class Training:
    """Settings and state of one training run; see `train`.

    Parameters
    ----------
    objective : Objective
        Trained in place, on the device where it is.

    store : SampleStore
        The samples, on the same device or such that they stream to it.

    views : Views
        How a batch becomes views.

    epochs : int
        Passes over the samples.

    batch_size : int
        Most samples per step. An epoch is cut into equal batches; the remainder, less than one
        sample per step, is left out, and differs from epoch to epoch.

    learning_rate : float
        Peak learning rate.

    weight_decay : float
        Decoupled weight decay.

    schedule : str
        A key of `skcc.training.schedules.SCHEDULES`.

    seed : int
        Determines everything random.

    dtype : torch.dtype, default=torch.float32
        Type in which networks compute.

    optimizer : str, default="adamw"
        A key of `OPTIMIZERS`.

    betas : tuple of (float, float), default=(0.9, 0.999)
        Of AdamW.

    global_rng : bool, default=False
        Whether the network or the views draw from torch's global generators, which are then
        seeded for each epoch and restored at the end.

    begin : callable, default=None
        Called before each epoch.

    report : callable, default=None
        Called after each epoch with the mean loss terms of all epochs so far and the seconds of
        the last one. Training stops if it returns True.

    unlabeled : SampleStore or None, default=None
        Samples that are not to be clustered; they go through ``objective.unlabeled``.

    checkpoint : Checkpoint or None, default=None
        Where training resumes from, and where its state is saved.

    cuda_graphs : {"auto", True, False}, default=False
        Whether steps on a CUDA device are captured once and replayed. Not done where global
        generators are used, or with several processes. "auto" captures the steps of objectives
        that are known to be `~skcc.objective.Objective.capturable`.

    compile_step : bool, default=False
        Whether views and losses are compiled by torch.compile, in about a minute, and networks
        take all views in one call. Not done with several processes.

    sync_batchnorm : bool, default=True
        Whether several processes normalise by the statistics of the whole batch. Without it,
        training is faster, and another model results.
    """

    objective: Objective
    store: SampleStore
    views: Views
    _: KW_ONLY
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: str
    seed: int
    dtype: torch.dtype = torch.float32
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    global_rng: bool = False
    begin: Callable[[], None] | None = None
    report: Callable[[list[dict[str, float]], float], bool] | None = None
    unlabeled: SampleStore | None = None
    checkpoint: Checkpoint | None = None
    cuda_graphs: bool | str = False
    compile_step: bool = False
    sync_batchnorm: bool = True

    def __post_init__(self):
        self.device = device_of(self.objective)
        self.global_rng |= self.objective.draws
        is_distributed = distributed.world_size() > 1
        is_auto = self.cuda_graphs == "auto"
        is_wanted = _declares(self.objective, "capturable") if is_auto else self.cuda_graphs
        self.cuda_graphs = is_wanted and self._can_be_captured()
        self.optimizers = {turn: self._optimizer(turn) for turn in self.objective.turns}
        self.compile_step &= not is_distributed
        self._losses, self._views_of = _call_turn, _views_of
        if is_distributed:
            static = self.unlabeled is None and len(self.optimizers) == 1
            self._losses = _distributed_losses(self.objective, static)
        elif self.compile_step:
            self._losses, self._views_of = _compiled(_call_turn), _compiled(_views_of)
        self.passes = self._passes()
        self.steps = sum(epoch_pass.steps for epoch_pass in self.passes)
        self.state = TrainingState(self.checkpoint, self.objective, self.optimizers, self.dtype)
        self.history = self.state.restore()
        self._ahead = {}  # random numbers of the next epoch, if they are drawn already
        self.scheduler = LRScheduler(
            [*self.optimizers.values()], self.learning_rate, self.schedule, self.epochs * self.steps
        )

    def run(self) -> Result:
        """Train the epochs that are left.

        Returns
        -------
        result : Result
            History, and whether training was stopped.
        """
        stopped = is_too_large = False
        self.objective.train()
        try:
            with (
                self.state.save_on_exit(max(epoch_pass.size for epoch_pass in self.passes)),
                private_rng(self.seed, self.device) if self.global_rng else nullcontext(),
                convert_batch_norm(self.objective, self.sync_batchnorm),
                # Networks of the user may relate samples by more than batch norm.
                split_batch_norm(self.objective, self.compile_step and not self.global_rng),
            ):
                stopped = self._run_epochs()
        except torch.OutOfMemoryError:
            is_too_large = True  # memory is freed before smaller batches are tried
        except KeyboardInterrupt:
            if distributed.world_size() > 1:  # the other ranks may be anywhere
                raise
            stopped = True
            warn(
                f"training was interrupted in epoch {len(self.history) + 1} of {self.epochs}; "
                "what was learned until then is kept",
                TrainingInterruptedWarning,
            )
        if is_too_large:
            raise self._out_of_memory_error()
        finish(
            self.objective, self.store, self.views,
            epochs=len(self.history), seed=self.seed, dtype=self.dtype,
        )  # fmt: skip
        return Result(self.history, stopped)

    def _run_epochs(self):
        """Train until the last epoch, or until `report` asks to stop; return whether it did."""
        for epoch in range(len(self.history), self.epochs):
            if self.begin is not None:
                self.begin()
            started = time.perf_counter()
            self.history.append(self.state.run_with_retry(partial(self._run_epoch, epoch), epoch))
            seconds = time.perf_counter() - started
            wants_stop = self.report is not None and self.report(self.history, seconds)
            stopped = distributed.any_rank(wants_stop)
            self.state.update(self.history, is_last=stopped or len(self.history) == self.epochs)
            if stopped:
                return True
        return False

    def _run_epoch(self, number, attempt):
        """Mean loss terms of an attempt at an epoch."""
        generator = epoch_generator(self.seed, number, attempt)
        if self.global_rng:
            seed_global_rng(generator.initial_seed() + distributed.rank(), self.device)
        self.scheduler.steps_done = number * self.steps
        sweep_all = _sweep_all(self.objective, self.store, self.views, self.dtype)
        epoch = Epoch(number, sweep_all, generator, self.optimizers.values())
        self.objective.before_epoch(epoch)
        ahead, self._ahead = self._ahead, {}
        drawn = ahead.get(number) if not attempt else None
        if drawn and not all(map(EpochPass.is_current, self.passes, drawn)):
            drawn = None
        sums = {}
        for place, epoch_pass in enumerate(self.passes):
            draws = drawn[place] if drawn else epoch_pass.draw(generator)
            sums |= epoch_pass.run(draws, self.scheduler, self.device)
        if self._can_draw_ahead() and number + 1 < self.epochs:
            generator = epoch_generator(self.seed, number + 1)
            self._ahead = {number + 1: [p.draw(generator) for p in self.passes]}
        if not self.sync_batchnorm:
            average_running_stats(self.objective)
        return {name: value.item() / steps for name, (value, steps) in sums.items()}

    def _can_draw_ahead(self):
        """Whether the next epoch can be drawn while the device still computes the last steps."""
        kind = type(self.objective)
        hooks = (kind.before_epoch, kind.sample_weights)
        has_none = hooks == (Objective.before_epoch, Objective.sample_weights)
        is_independent = has_none or _declares(self.objective, "draws_ahead")
        return is_independent and self._is_asynchronous()

    def _is_asynchronous(self):
        return self.device.type == "cuda"

    def _can_be_captured(self):
        is_private = not self.global_rng and distributed.world_size() == 1
        return self.device.type == "cuda" and is_private

    def _optimizer(self, turn):
        return OPTIMIZERS[self.optimizer](
            self.objective.parameters_of(turn),
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
            capturable=self.cuda_graphs,
        )

    def _passes(self):
        """The passes of an epoch: over unlabeled samples, if any, then over the others."""
        options = {"batch_size": self.batch_size, "cuda_graphs": self.cuda_graphs}
        update = partial(self._update, self.objective.turns)
        hooks = {"weights": self.objective.sample_weights, "partners": self.objective.partners}
        passes = [EpochPass(self.store, self.views, update, **hooks, **options)]
        if self.unlabeled is not None:
            update, first = partial(self._update, ("unlabeled",)), len(self.store)
            aside = EpochPass(self.unlabeled, self.views, update, first_index=first, **options)
            passes.insert(0, aside)
        return passes

    def _update(self, turns, batch, tables, rows, index):
        """One step: a backward pass and an optimizer step per turn; return the loss terms."""
        terms = {}
        with distributed.raise_lost_rank():
            # Without autocast, since they have to be exact to a gray level.
            views = self._views_of(self.views, batch, tables, rows)
            for turn in turns:
                with autocast(batch.device, self.dtype):
                    terms_of_turn = self._losses(self.objective, turn, views, index)
                    loss = sum(terms_of_turn.values())
                loss.backward()
                # Unlabeled samples are no turn of their own: they share the first optimizer.
                name = turn if turn in self.optimizers else self.objective.turns[0]
                self.optimizers[name].step()
                self._zero_grad()
                terms |= {name: term.detach() for name, term in terms_of_turn.items()}
        self.objective.after_step()
        return terms

    def _zero_grad(self):
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def release(self) -> None:
        """Let go of graphs, tables and samples at once; the passes and this object are a cycle."""
        for epoch_pass in self.passes:
            epoch_pass.release()
        self.passes = []

    def _out_of_memory_error(self):
        self._zero_grad()
        size = max(epoch_pass.size for epoch_pass in self.passes)
        ranks = distributed.world_size()
        if ranks > 1:  # the others wait for this one, so no size can be tried
            return torch.OutOfMemoryError(
                f"a {ranks}th of a batch of {size} samples does not fit into the memory of "
                f"{self.device}; give a smaller batch_size, or use more processes"
            )
        fits = [epoch_pass.largest_that_fits(self.device) for epoch_pass in self.passes]
        advice = f"one of {min(fits)} does: batch_size={min(fits)}"
        return torch.OutOfMemoryError(
            f"a batch of {size} samples does not fit into the memory of {self.device}; "
            + (advice if all(fits) else "nor does one of 2")
        )


def train(objective: Objective, store: SampleStore, views: Views, **settings) -> Result:
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

    store : SampleStore
        The samples, on the same device or such that they stream to it.

    views : Views
        How a batch becomes views.

    **settings : dict
        The keyword parameters of `Training`.

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
    with current_device(device_of(objective)):
        training = Training(objective, store, views, **settings)
        try:
            return training.run()
        finally:
            training.release()


def finish(
    objective: Objective,
    store: SampleStore,
    views: Views,
    *,
    epochs: int,
    seed: int,
    dtype: torch.dtype,
) -> None:
    """Do what follows the last epoch; the objective can then predict.

    Parameters
    ----------
    objective : Objective
        Trained; changed in place.

    store : SampleStore
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


def _call_turn(objective, turn, views, index):
    # `forward` through `__call__`, so that hooks of the user run.
    return objective(views, index) if turn == "forward" else getattr(objective, turn)(views, index)


def _declares(objective, name):
    """Whether the objective's own class says so; a subclass may add what its base cannot know."""
    return vars(type(objective)).get(name, False)


def _compiled(function):
    """The function, compiled without an optimization of Inductor that fails on these steps."""
    from torch._inductor import list_options  # slow to import

    fails = "triton.mix_order_reduction"  # with an InductorError, in torch 2.11 on CUDA
    options = {fails: False} if fails in list_options() else None
    return torch.compile(function, dynamic=False, options=options)


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
    store : SampleStore
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

    partners : callable, default=None
        Returns samples that second views may show, as `Objective.partners`.

    first_index : int, default=0
        Index of the first sample. Not 0 for samples that are not to be clustered, whose terms get
        the prefix "unlabeled".
    """

    def __init__(
        self, store, views, update, *, batch_size, cuda_graphs, weights=None, partners=None,
        first_index=0,
    ):  # fmt: skip
        self.store, self.views, self.update = store, views, update
        self.weights, self.partners = weights or (lambda: None), partners or (lambda: None)
        self.first_index = first_index
        self.steps = steps_per_epoch(len(store), batch_size)
        self.size = len(store) // self.steps
        self._tables = None
        self._graphed = GraphedStep() if cuda_graphs else None
        self._is_paired = False  # whether the captured step has partners

    def _step(self, batch, rows, index):
        return self.update(batch, self._tables, rows, index + self.first_index)

    def _run_step(self, *inputs):
        return self._graphed(self._step, *inputs) if self._graphed else self._step(*inputs)

    def release(self) -> None:
        """Drop all that holds memory of the device."""
        self._graphed = self._tables = self.store = self.update = None

    def draw(self, generator: torch.Generator) -> tuple:
        """Draw the order of the samples, and the augmentation parameters of their views.

        Parameters
        ----------
        generator : torch.Generator
            Of the epoch.

        Returns
        -------
        draws : tuple
            For `run`; on the CPU.
        """
        order, rows = self._draw_order(generator)
        tables = self.views.draw(len(self.store), self.store.shape, generator, torch.device("cpu"))
        return order, rows, tables, self._draw_partners(generator)

    def is_current(self, draws: tuple) -> bool:
        """Whether draws that were made ahead have partners if, and only if, there are some now."""
        return (draws[-1] is None) == (self.partners() is None)

    def run(
        self, draws: tuple, scheduler: LRScheduler, device: torch.device
    ) -> dict[str, tuple[Tensor, int]]:
        """Train for a pass; terms are summed on the device, and nothing waits for them.

        Parameters
        ----------
        draws : tuple
            What `draw` returned.

        scheduler : LRScheduler
            Asked before each step.

        device : torch.device
            Where batches are needed.

        Returns
        -------
        sums : dict of str to (Tensor of shape (), int)
            Sums over the steps, and the number of steps.
        """
        order, rows, tables, partners = draws
        self._keep_tables(tables, device)
        if partners is not None:
            order = [torch.cat([index, partners[index]]) for index in order]
        if self._is_paired != (partners is not None):  # a graph has fixed shapes
            self._graphed = GraphedStep() if self._graphed else None
            self._is_paired = not self._is_paired
        rows = None if rows is None else torch.stack(rows).to(device)
        total: dict[str, Tensor] = {}
        with distributed.global_batch_size(self.size):
            for step, (index, batch) in enumerate(self.store.stream(order, device)):
                scheduler.step()
                index = index[: len(index) // 2] if self._is_paired else index
                own_rows = index if rows is None else rows[step]
                for name, term in self._run_step(batch, own_rows, index).items():
                    total[name] = total[name] + term if name in total else term
        prefix = "unlabeled " if self.first_index else ""
        return {prefix + name: (value, self.steps) for name, value in total.items()}

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

    def _draw_partners(self, generator):
        """The sample that second views show, for each sample; half of the time it is itself."""
        partners = self.partners()
        if partners is None:
            return None
        partners, own = partners.cpu(), torch.arange(len(partners))
        column = torch.randint(partners.shape[1], (len(own),), generator=generator)
        is_own = torch.rand(len(own), generator=generator) < 0.5
        return torch.where(is_own, own, partners[own, column])

    def _steps_of_rank(self, order):
        mine = distributed.rank_slice(self.size)
        return order.view(self.steps, self.size)[:, mine.start : mine.stop].unbind()

    def _keep_tables(self, drawn, device):
        """Put augmentation parameters into the memory of the old ones: a CUDA graph reads it."""
        if self._tables is None:
            self._tables = [{name: column.to(device) for name, column in t.items()} for t in drawn]
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
        self._graphed = None  # its memory counts as taken as long as it is there
        while (size := size // 2) >= 2:
            torch.cuda.empty_cache()
            try:
                for index, batch in self.store.stream([torch.arange(size)], device):
                    self._step(batch, index, index)
            except torch.OutOfMemoryError:
                continue
            return size
        return 0
