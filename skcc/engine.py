"""The training loop, the only one.

This file knows loss terms only as named numbers, and samples only as rows of a store. It knows
no method, loss or network. All randomness of an epoch comes from (seed, epoch).
"""

import contextlib
import inspect
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from skcc import distributed
from skcc.augment import Views
from skcc.checkpoint import Checkpoint, CheckpointWarning
from skcc.data import Store
from skcc.objective import Objective

WARM_UP = 0.1  # share of the steps in which the learning rate rises
PREDICT_BATCH = 128
WARM_UP_STEPS = 3  # before a step is recorded
_global_rng = threading.RLock()


class TrainingInterruptedWarning(UserWarning):
    """Ctrl-C ended training early. Made an error by a filter, it ends `fit` without a result."""


class DivergenceWarning(UserWarning):
    """Terms of the loss or weights were not finite; training went back by an epoch, once."""


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


def _epoch_generator(seed, epoch, attempt=0):
    """Randomness that belongs to one epoch, whatever came before it."""
    entropy = (seed, epoch, attempt) if attempt else (seed, epoch)
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
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
        In order, float32, on the CPU. Several processes share the work, and all have the rows.
    """
    device = device_of(objective)
    training = objective.training
    objective.eval()
    # Whole batches, since the last bit of a row may depend on its place in one.
    part = distributed.part(len(store), PREDICT_BATCH)

    def rows_of(batch, index):
        with autocast(device, dtype):
            return function(view(batch.to(device), index.to(device))).float().cpu()

    try:
        with torch.inference_mode(), distributed.together():
            # Who has no sample takes one all the same, to know the shape of a row.
            rows = torch.cat(list(store.sweep(rows_of, PREDICT_BATCH, part or range(1))))
    finally:
        objective.train(training)
    store.invalid = distributed.union(store.invalid)
    return distributed.concatenate(rows[: len(part)], len(store), PREDICT_BATCH)


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
    unlabeled: Store | None = None,
    checkpoint: Checkpoint | None = None,
    capture: bool = False,
    sync_batchnorm: bool = True,
) -> list[dict[str, float]]:
    """Minimise the sum of an objective's terms.

    An epoch is a pass over the unlabelled samples, if there are any, and then one over those to be
    clustered. Ctrl-C ends training early: what was learned stays, and a
    `TrainingInterruptedWarning` says so. The checkpoint then holds the last epoch that was
    finished. So it does after any error, and after SIGTERM, which still ends the process; the
    latter in the main thread and where SIGTERM has no other handler.

    Several processes (see `skcc.distributed`) share each batch, by their ranks, and train the same
    model as one would.

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

    unlabeled : Store or None, default=None
        Samples that are not to be clustered, as `store`; they pass through
        ``objective.unlabeled``.

    checkpoint : Checkpoint or None, default=None
        Where training continues from, and where its state is kept.

    capture : bool, default=False
        Whether steps on CUDA are recorded once and replayed. Where `global_rng` is set they
        never are: nobody knows what functions of the user do. Nor are they with several processes.

    sync_batchnorm : bool, default=True
        Whether, with several processes, batch statistics are those of the whole batch. Those of
        each process's part are faster, and another model.

    Returns
    -------
    history : list of dict
        Mean terms of each epoch that was finished.

    Raises
    ------
    FloatingPointError
        If a term or a weight is not finite for the second time; names the epoch and the term.

    torch.OutOfMemoryError
        If a batch does not fit into the memory of the device; names one that does.

    MemoryError
        If a step on the CPU needs more memory than there is.

    skcc.distributed.LostRankError
        If another process has ended.

    Warns
    -----
    DivergenceWarning
        The first time that a term or a weight is not finite. The epoch is then repeated from the
        end of the one before it, with other draws.

    skcc.checkpoint.CheckpointWarning
        If the checkpoint cannot be written, as on a full disk. Training goes on, and it is tried
        again.
    """
    device = device_of(objective)
    several = distributed.world_size() > 1
    captured = capture and device.type == "cuda" and not global_rng and not several
    optimizer = torch.optim.AdamW(
        objective.parameters(),
        lr=learning_rate,
        weight_decay=weight_decay,
        fused=device.type in ("cpu", "cuda"),
        capturable=captured,
    )
    whole = _whole(objective, store, views, dtype)

    passes = _passes(
        objective, optimizer, (store, unlabeled), views,
        dtype=dtype, batch_size=batch_size, captured=captured,
    )  # fmt: skip
    steps = sum(one.steps for one in passes)
    kept = _Kept(checkpoint, objective, optimizer)
    history = kept.restore()
    rate = _Rate(optimizer, learning_rate, SCHEDULES[schedule], epochs * steps)
    too_large = False
    objective.train()

    def terms_of(epoch, attempt):
        generator = _epoch_generator(seed, epoch, attempt)
        if global_rng:
            seed_global_rng(generator.initial_seed() + distributed.rank(), device)
        rate.done = epoch * steps
        objective.before_epoch(epoch, whole, generator)
        terms = _run_passes(passes, generator, rate, device)
        if not sync_batchnorm:
            distributed.average_statistics(objective)
        return terms

    try:
        with (
            kept.whatever_happens(max(one.size for one in passes)),
            private_rng(seed, device) if global_rng else contextlib.nullcontext(),
            distributed.synchronised_batch_norm(objective, sync_batchnorm),
        ):
            for epoch in range(len(history), epochs):
                begin()
                started = time.perf_counter()
                history.append(kept.finite(partial(terms_of, epoch), epoch))
                stop = distributed.any_of(report(history, time.perf_counter() - started))
                kept.add(history, last=stop or len(history) == epochs)
                if stop:
                    break
    except torch.OutOfMemoryError:
        too_large = True  # what was computed is let go before smaller batches are tried
    except KeyboardInterrupt:
        if several:  # nobody knows where the others are
            raise
        warnings.warn(
            f"training was interrupted in epoch {len(history) + 1} of {epochs}; what was learned "
            "until then is kept",
            TrainingInterruptedWarning,
            stacklevel=6,
        )
    if too_large:
        optimizer.zero_grad(set_to_none=True)
        raise _too_large(passes, device)
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


def _passes(objective, optimizer, stores, views, *, dtype, batch_size, captured):
    """What an epoch consists of; `stores` are the samples to be clustered, and others or None."""
    store, unlabeled = stores
    losses = objective
    if distributed.world_size() > 1:
        losses = _Averaged(objective, static=unlabeled is None)

    def update(losses, batch, tables, at, index):
        with distributed.watched():
            with autocast(batch.device, dtype):
                terms = losses(_views_of(views, batch, tables, at), index)
                loss = sum(terms.values())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.after_step()
        return {name: term.detach() for name, term in terms.items()}

    passes = [_Pass(store, views, partial(update, losses), batch_size, captured)]
    if unlabeled is not None:
        aside = partial(update, losses.unlabeled)
        passes.insert(0, _Pass(unlabeled, views, aside, batch_size, captured, after=len(store)))
    return passes


class _TerminatedError(BaseException):
    """SIGTERM has come."""


@contextlib.contextmanager
def _termination_raised():
    """Let SIGTERM raise an error, as Ctrl-C does.

    Handlers belong to the main thread, and one of the user stays what it is.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def terminate(number, frame):
        raise _TerminatedError

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Kept:
    """The state at the end of the last epoch, in memory and, if there is one, in a checkpoint.

    It is copied after every epoch, which costs no more than a step of the optimizer, so that
    Ctrl-C in the middle of the next loses nothing of it, and an epoch that fails can be repeated.
    """

    def __init__(self, checkpoint, objective, optimizer):
        self.checkpoint, self.objective, self.optimizer = checkpoint, objective, optimizer
        self._state, self._is_saved = None, True
        self._repeated = None  # the epoch that was; each training has one such chance

    def restore(self) -> list[dict[str, float]]:
        """Take up what was saved, if anything was; return its history."""
        state = None
        if self.checkpoint is not None:
            state = distributed.from_first(self.checkpoint.load)
        if state is None:
            self._state = self._copied([])
            return []
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._repeated = state["repeated"]
        self._state = self._copied(state["history"])  # the optimizer changes what it was given
        return state["history"]

    @contextlib.contextmanager
    def whatever_happens(self, batch_size):
        """Save what is not yet written before an error, Ctrl-C or SIGTERM ends training."""
        try:
            with _termination_raised() if self.checkpoint else contextlib.nullcontext():
                yield
        except _TerminatedError:
            try:
                self.save()
                self._say_what_is_saved()
            finally:
                signal.raise_signal(signal.SIGTERM)  # whoever asks how we ended is told the truth
        except BaseException as error:
            self.save()
            if _lacks_memory(error):
                raise MemoryError(
                    f"a step on a batch of {batch_size} samples needs more memory than there is "
                    f"({error}); a smaller batch_size or image_size needs less"
                ) from error
            raise

    def finite(self, run, epoch):
        """Terms of an epoch, of a second attempt if there must be and may be one.

        `run` makes an attempt, and is told its number.
        """
        terms = run(0)
        fault = _fault(terms, self.objective)
        if fault is None:
            return terms
        if self._repeated is None:
            warnings.warn(
                f"{fault} in epoch {epoch + 1}; it is repeated with other draws, once",
                DivergenceWarning,
                stacklevel=7,
            )
            self._repeated = epoch
            self._go_back()
            terms = run(1)
            fault = _fault(terms, self.objective)
        if fault is None:
            return terms
        raise FloatingPointError(
            f"{fault} in epoch {epoch + 1}, although epoch {self._repeated + 1} was repeated; a "
            "smaller learning_rate usually helps"
        )

    def add(self, history, last):
        self._state = self._copied(history)
        self._is_saved = self.checkpoint is None or not distributed.is_first()
        if last or (self.checkpoint is not None and self.checkpoint.is_due()):
            self.save()

    def save(self):
        """Write what is not yet written; if that fails, what was written before is still there."""
        if self._is_saved:
            return
        try:
            self.checkpoint.save(self._state)
            self._is_saved = True
        except OSError as error:
            warnings.warn(
                f"{self.checkpoint.path} could not be written: {error}. What was saved before is "
                "kept, and training goes on",
                CheckpointWarning,
                stacklevel=8,
            )

    def _say_what_is_saved(self):
        epochs = len(self._state["history"])
        if self._is_saved and epochs:
            warnings.warn(
                f"ended by SIGTERM; {self.checkpoint.path} holds {epochs} epochs, and the same fit "
                "goes on from there",
                CheckpointWarning,
                stacklevel=8,
            )

    def _copied(self, history):
        return {
            "objective": _on_host(self.objective.state_dict()),
            "optimizer": _on_host(self.optimizer.state_dict()),
            "history": list(history),
            "repeated": self._repeated,
        }

    def _go_back(self):
        """Put the state back into the memory where it was, which a recorded step reads."""
        self.objective.load_state_dict(self._state["objective"])
        moments = self._state["optimizer"]["state"]
        groups = self.optimizer.param_groups
        for number, parameter in enumerate(p for group in groups for p in group["params"]):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if number in moments:
                    value.copy_(moments[number][name])
                else:
                    value.zero_()  # as AdamW begins


def _fault(terms, objective):
    """What is not finite, in words; None if all is."""
    for name, value in terms.items():
        if not math.isfinite(value):
            return f"the {name!r} term of the loss became {value}"
    # The last step may have spoiled them after its loss was computed.
    largest = get_total_norm(objective.parameters(), math.inf).item()
    return None if math.isfinite(largest) else f"the largest weight became {largest}"


def _on_host(state):
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {name: _on_host(value) for name, value in state.items()}
    return [_on_host(value) for value in state] if isinstance(state, list) else state


class _Rate:
    """Sets the step size before each step, without a word from the device."""

    def __init__(self, optimizer, peak, factor, planned):
        self.groups, self.peak, self.factor = optimizer.param_groups, peak, factor
        self.planned, self.done = planned, 0
        for group in self.groups:
            device = group["params"][0].device
            # A captured step reads it from memory.
            group["lr"] = torch.tensor(peak, device=device) if group["capturable"] else peak

    def advance(self):
        rate = self.peak * self.factor(min(1.0, self.done / self.planned))
        for group in self.groups:
            if group["capturable"]:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.done += 1


class CapturedStep:
    """A training step that is recorded once as a CUDA graph and then replayed.

    The first calls run as they are, so that libraries choose their kernels and the optimizer
    makes its state; then one is recorded. All calls must have arguments of one shape.

    Parameters
    ----------
    step : callable
        From a batch and the indices of its samples to terms; free of transfers to and from the
        host.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], dict[str, Tensor]]):
        self._step, self._calls, self._graph = step, 0, None

    def __call__(self, batch: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Run the step.

        Parameters
        ----------
        batch : Tensor of shape (b, ...)
            Samples as they are stored.

        index : Tensor of shape (b,)
            Which they are.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            New tensors.
        """
        self._calls += 1
        if self._calls <= WARM_UP_STEPS:
            return self._aside(batch, index)
        if self._graph is None:
            self._batch, self._index = batch.clone(), index.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._terms = self._step(self._batch, self._index)
        self._batch.copy_(batch)
        self._index.copy_(index)
        self._graph.replay()
        return {name: term.clone() for name, term in self._terms.items()}

    def _aside(self, batch, index):
        """Run on another stream, as recording demands of what precedes it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            terms = self._step(batch, index)
        torch.cuda.current_stream().wait_stream(stream)
        return terms


def _views_of(views, batch, tables, at):
    """Views of the rows of this process; of none, if there are more processes than rows."""
    if len(at):
        return views(batch, tables, at)
    some = views(batch.new_zeros(1, *batch.shape[1:]), tables, at.new_zeros(1))
    return tuple(view[:0] for view in some)


class _Averaged:
    """An objective whose gradients are the means of those of all processes."""

    def __init__(self, objective: Objective, static: bool):
        parallel = nn.parallel.DistributedDataParallel
        # Every rank computes the same buffers; sending them along has had two names.
        known = inspect.signature(parallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        device = device_of(objective)
        self._parallel = parallel(
            _OneDoor(objective),
            device_ids=[device] if device.type == "cuda" else None,
            # Networks have layers that no loss reaches; both of these look for them.
            static_graph=static,
            find_unused_parameters=not static,
            **{buffers: False},
        )

    def __call__(self, views, index):
        return self._parallel("forward", views, index)

    def unlabeled(self, views, index):
        return self._parallel("unlabeled", views, index)


class _OneDoor(nn.Module):
    """An objective that is asked for one kind of terms or another by a name."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.objective = objective

    def forward(self, kind, views, index):
        losses = self.objective if kind == "forward" else getattr(self.objective, kind)
        return losses(views, index)


class _Pass:
    """A pass over a store in every epoch: in a new order, with new views, a step per batch.

    Parameters
    ----------
    store : Store
        The samples.

    views : Views
        How a batch becomes views.

    update : callable
        From a batch, tables of draws, rows of the tables and indices of the samples to terms;
        changes the weights.

    batch_size : int
        Most samples per step.

    captured : bool
        Whether steps are recorded once and replayed.

    after : int, default=0
        For samples that are not to be clustered: how many there are of the others. Indices begin
        there, and the names of the terms say what they are of.
    """

    def __init__(self, store, views, update, batch_size, captured, *, after=0):
        self.store, self.views, self.update, self.after = store, views, update, after
        self.steps = n_steps(len(store), batch_size)
        self.size = len(store) // self.steps
        self._tables = None
        self._run_step = CapturedStep(self._step) if captured else self._step

    def _step(self, batch, index):
        return self.update(batch, self._tables, index, index + self.after)

    def run(self, generator, rate, device):
        """Mean terms of a pass; they are added up on the device."""
        order = torch.randperm(len(self.store), generator=generator)[: self.steps * self.size]
        mine = distributed.part(self.size)
        mine = order.view(self.steps, self.size)[:, mine.start : mine.stop]
        self._redraw(generator, device)
        total: dict[str, Tensor] = {}
        with distributed.sharing(self.size):
            for index, batch in self.store.stream(mine.unbind(), device):
                rate.advance()
                for name, term in self._run_step(batch, index).items():
                    total[name] = total[name] + term if name in total else term
        prefix = "unlabeled " if self.after else ""
        return {prefix + name: value.item() / self.steps for name, value in total.items()}

    def _redraw(self, generator, device):
        """New draws, in the memory of the old ones, where a recorded step reads them."""
        drawn = self.views.draw(len(self.store), self.store.shape, generator, device)
        if self._tables is None:
            self._tables = drawn
            return
        for old, new in zip(self._tables, drawn, strict=True):
            for name, column in new.items():
                old[name].copy_(column)

    def largest_that_fits(self, device):
        """The largest half, quarter, ... of a batch whose step runs; 0 if none does.

        The steps it takes do harm to the weights, which are lost anyway.
        """
        size = self.size if self._tables is not None else 0
        while (size := size // 2) >= 2:
            torch.cuda.empty_cache()
            try:
                for index, batch in self.store.stream([torch.arange(size)], device):
                    self._step(batch, index)
            except torch.OutOfMemoryError:
                continue
            return size
        return 0


def _run_passes(passes, generator, rate, device):
    terms = {}
    for one in passes:
        terms |= one.run(generator, rate, device)
    return terms


def _too_large(passes, device):
    """What is told of a batch that memory does not hold."""
    size = max(one.size for one in passes)
    if distributed.world_size() > 1:  # others wait for this one, so no size can be tried
        return torch.OutOfMemoryError(
            f"a {distributed.world_size()}th of a batch of {size} samples does not fit into the "
            f"memory of {device}; give a smaller batch_size, or use more processes"
        )
    fits = [one.largest_that_fits(device) for one in passes]
    return torch.OutOfMemoryError(
        f"a batch of {size} samples does not fit into the memory of {device}; "
        + (f"one of {min(fits)} does: batch_size={min(fits)}" if all(fits) else "nor does one of 2")
    )


def _lacks_memory(error):
    """Whether memory of the host was asked for in vain; torch has no class for that."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in f"{error}"
