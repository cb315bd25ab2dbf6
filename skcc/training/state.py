"""The state of training after the last finished epoch, and what follows when an epoch fails."""

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, optim
from torch.nn.utils import get_total_norm

from skcc import distributed
from skcc.exceptions import CheckpointWarning, DivergenceWarning, warn
from skcc.objective import Objective
from skcc.training.checkpoint import Checkpoint


class _TerminatedError(BaseException):
    """The process got SIGTERM."""


class TrainingState:
    """A copy of the state after the last epoch, in memory and, if there is one, in a checkpoint.

    The copy stays on the device, where it costs no more than a step of the optimizer, so it is made
    after every epoch; a transfer to the host and a file are not. So an epoch that fails can be
    repeated, and Ctrl-C loses no finished epoch.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        objective: Objective,
        optimizers: Mapping[str, optim.Optimizer],
        dtype: torch.dtype = torch.float32,
    ):
        self.checkpoint, self.objective, self.optimizers = checkpoint, objective, optimizers
        self._precision = str(dtype).removeprefix("torch.")
        self._state, self._is_saved = None, True
        self._repeated = None  # the epoch that was repeated; a training run has one such chance

    def restore(self) -> list[dict[str, float]]:
        """Load the checkpoint, if there is one."""
        state = None
        if self.checkpoint is not None:
            state = distributed.compute_on_rank_zero(self.checkpoint.load)
        if state is None:
            self._state = self._copy([])
            return []
        self.objective.load_state_dict(state["objective"])
        for turn, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][turn])
        self._repeated = state["repeated"]
        self._warn_about_precision(state.get("precision", self._precision))
        self._state = self._copy(state["history"])  # the optimizer changes what it was given
        return state["history"]

    @contextlib.contextmanager
    def save_on_exit(self, batch_size: int) -> Iterator[None]:
        """Save the last finished epoch before an error, Ctrl-C or SIGTERM ends training."""
        try:
            with _raise_on_sigterm() if self.checkpoint else contextlib.nullcontext():
                yield
        except _TerminatedError:
            try:
                self.save()
                self._warn_about_sigterm()
            finally:
                signal.raise_signal(signal.SIGTERM)  # the exit status says that SIGTERM ended us
        except BaseException as error:
            self.save()
            if _is_host_out_of_memory(error):
                raise MemoryError(
                    f"a step on a batch of {batch_size} samples needs more memory than there is "
                    f"({error}); a smaller batch_size or image_size needs less"
                ) from error
            raise

    def run_with_retry(
        self, run_epoch: Callable[[int], dict[str, float]], epoch: int
    ) -> dict[str, float]:
        """Run an epoch; once in a training run, repeat one whose loss or weights are not finite."""
        terms = run_epoch(0)
        fault = _describe_fault(terms, self.objective)
        if fault is None:
            return terms
        if self._repeated is None:
            warn(
                f"{fault} in epoch {epoch + 1}; the epoch is repeated once, with other random "
                "numbers",
                DivergenceWarning,
            )
            self._repeated = epoch
            self._roll_back()
            terms = run_epoch(1)
            fault = _describe_fault(terms, self.objective)
        if fault is None:
            return terms
        raise FloatingPointError(
            f"{fault} in epoch {epoch + 1}, although epoch {self._repeated + 1} was repeated; a "
            "smaller learning_rate usually helps"
        )

    def update(self, history: list[dict[str, float]], *, is_last: bool) -> None:
        """Copy the state after an epoch; write it if the last write is long ago."""
        self._state = self._copy(history)
        self._is_saved = self.checkpoint is None or not distributed.is_rank_zero()
        if is_last or (self.checkpoint is not None and self.checkpoint.is_due()):
            self.save()

    def save(self) -> None:
        """Write the state, unless it is written; a failure is a warning."""
        if self._is_saved:
            return
        try:
            self.checkpoint.save(_map_tensors(_to_host, self._state))
            self._is_saved = True
        except OSError as error:
            warn(
                f"{self.checkpoint.path} could not be written: {error}. What was saved before is "
                "kept, and training goes on",
                CheckpointWarning,
            )

    def _warn_about_sigterm(self):
        epochs = len(self._state["history"])
        if self._is_saved and epochs:
            warn(
                f"ended by SIGTERM; {self.checkpoint.path} holds {epochs} epochs, and the same fit "
                "goes on from there",
                CheckpointWarning,
            )

    def _warn_about_precision(self, before):
        if before != self._precision:
            warn(
                f"{self.checkpoint.path} was computed in {before}, and training goes on in "
                f"{self._precision}: the result is not that of a run in one of them",
                CheckpointWarning,
            )

    def _copy(self, history):
        optimizers = {turn: optimizer.state_dict() for turn, optimizer in self.optimizers.items()}
        return {
            "objective": _map_tensors(_clone, self.objective.state_dict()),
            "optimizers": _map_tensors(_clone, optimizers),
            "history": list(history),
            "repeated": self._repeated,
            "precision": self._precision,
        }

    def _roll_back(self):
        """Restore the copy in place, since a CUDA graph reads that memory."""
        self.objective.load_state_dict(self._state["objective"])
        for turn, optimizer in self.optimizers.items():
            moments = self._state["optimizers"][turn]["state"]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, parameter in enumerate(parameters):
                for name, value in optimizer.state.get(parameter, {}).items():
                    if number in moments:
                        value.copy_(moments[number][name])
                    else:
                        value.zero_()  # as optimizers begin


@contextlib.contextmanager
def _raise_on_sigterm():
    """Let SIGTERM raise an error, in the main thread and where the user has no handler."""
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


def _describe_fault(terms, objective):
    """Which loss term or weight is not finite; None if all are."""
    for name, value in terms.items():
        if not math.isfinite(value):
            return f"the {name!r} term of the loss became {value}"
    # The last step may have spoiled the weights after its loss was computed.
    largest = get_total_norm(objective.parameters(), math.inf).item()
    return None if math.isfinite(largest) else f"the largest weight became {largest}"


def _map_tensors(function, state):
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, dict):
        return {name: _map_tensors(function, value) for name, value in state.items()}
    return [_map_tensors(function, v) for v in state] if isinstance(state, list) else state


def _clone(tensor):
    return tensor.detach().clone()


def _to_host(tensor):
    return tensor.to("cpu")


def _is_host_out_of_memory(error):
    """Whether memory of the host ran out; torch has no exception class for it."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in f"{error}"
