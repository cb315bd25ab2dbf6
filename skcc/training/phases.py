"""The phases of a fit, one after the other: seeds, checkpoints, time limit, history."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning

from skcc import distributed
from skcc.augment import Views
from skcc.callbacks import Progress
from skcc.data import SampleStore
from skcc.exceptions import warn
from skcc.objective import Objective, Phase
from skcc.rng import private_rng
from skcc.training import engine
from skcc.training.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Run:
    """What all phases of a fit share.

    Parameters
    ----------
    store : SampleStore
        The samples.

    settings : dict of str to object
        As `skcc.training.settings.resolve_settings` returns them.

    augmentation : object
        One of `skcc.augment`.

    device : torch.device
        Where training runs.

    seed : int
        Phase number i is seeded by ``seed + i``.

    unlabeled : SampleStore or None, default=None
        Samples that are not to be clustered.

    begin : callable, default=None
        Called before each epoch.

    report : callable, default=None
        Called after each epoch with a function that returns a finished copy of the objective, the
        history of all phases, and the number of phases so far. Training stops if it returns True.

    identity : dict of str to object, default=None
        What must be the same for a checkpoint to be used.

    checkpoint_dir : str or Path or None, default=None
        Folder of checkpoints, one per phase.

    max_seconds : float or None, default=None
        Time limit of all phases together.

    global_rng : bool, default=False
        Whether functions or modules of the user may draw from torch's global generators.

    cuda_graphs : {"auto", True, False}, default=False
        See `skcc.training.engine.Training`.

    compile_step : bool, default=False
        See `skcc.training.engine.Training`.

    sync_batchnorm : bool, default=True
        See `skcc.training.engine.Training`.

    title : str, default=""
        Name of the estimator, for the progress bar.

    verbose : int, default=0
        0 is silent.
    """

    store: SampleStore
    settings: dict
    augmentation: object
    device: torch.device
    seed: int
    unlabeled: SampleStore | None = None
    begin: Callable[[], None] | None = None
    report: Callable[[Callable[[], Objective], list[dict[str, float]], int], bool] | None = None
    identity: dict | None = None
    checkpoint_dir: str | Path | None = None
    max_seconds: float | None = None
    global_rng: bool = False
    cuda_graphs: bool | str = False
    compile_step: bool = False
    sync_batchnorm: bool = True
    title: str = ""
    verbose: int = 0

    def train(self, phases: Iterator[Phase]) -> tuple[Objective, list[dict[str, float]], int]:
        """Train phase after phase, until the last one or until training is stopped.

        Parameters
        ----------
        phases : iterator of Phase
            The next one is asked for when the one before is trained.

        Returns
        -------
        objective : Objective
            That of the last phase that was trained.

        history : list of dict of str to float
            Mean loss terms of each epoch of all phases.

        n_phases : int
            How many were trained.
        """
        limit, objective, history, number = _TimeLimit(self.max_seconds), None, [], 0
        while True:
            with private_rng(self.seed + number, self.device):
                phase = next(phases, None)
            if phase is None:
                return objective, history, number
            objective = phase.objective.to(self.device, memory_format=torch.channels_last)
            if not (phase.epochs or self.settings["max_epochs"]):
                engine.finish(objective, self.store, None, epochs=0, seed=0, dtype=None)
                return objective, history, number + 1
            result = self._train_phase(phase, number, history, limit)
            history, number = history + result.history, number + 1
            if result.stopped:
                if limit.is_reached:
                    self._warn_of_limit(phase, result, phases)
                return objective, history, number

    def _warn_of_limit(self, phase, result, phases):
        """Warn unless the time was just enough for all phases."""
        done, planned = len(result.history), phase.epochs or self.settings["max_epochs"]
        if done == planned and next(phases, None) is None:
            return
        in_phase = "" if phase.name == "train" else f" of phase {phase.name!r}"
        then = "" if self.checkpoint_dir is None else "; calling fit again goes on from there"
        if distributed.is_rank_zero():
            warn(
                f"max_seconds={self.max_seconds:g} ended training after {done} of {planned} "
                f"epochs{in_phase}{then}",
                ConvergenceWarning,
            )

    def _train_phase(self, phase, number, history, limit):
        objective, settings, seed = phase.objective, self.settings, self.seed + number
        dtype = getattr(torch, settings["precision"])
        views = Views(
            self.augmentation, settings["image_size"], objective.n_views, objective.n_augmented
        )
        epochs = phase.epochs or settings["max_epochs"]
        title = self.title if phase.name == "train" else f"{self.title} {phase.name}"

        def finished_copy(epochs_done):
            copied = copy.deepcopy(objective)
            engine.finish(copied, self.store, views, epochs=epochs_done, seed=seed, dtype=dtype)
            return copied

        def report(of_phase, seconds):
            progress(len(of_phase) - 1, of_phase[-1], seconds)
            stop = self.report is not None and self.report(
                lambda: finished_copy(len(of_phase)), history + of_phase, number + 1
            )
            return stop or not limit.allows(seconds)

        with Progress(title, epochs, len(self.store), self.verbose, limit.end) as progress:
            return engine.train(
                objective,
                self.store,
                views,
                epochs=epochs,
                batch_size=settings["batch_size"],
                learning_rate=phase.learning_rate or settings["learning_rate"],
                weight_decay=settings["weight_decay"],
                schedule=phase.schedule or settings["schedule"],
                optimizer=settings["optimizer"],
                betas=phase.betas,
                seed=seed,
                dtype=dtype,
                global_rng=self.global_rng,
                begin=self.begin,
                report=report,
                unlabeled=self.unlabeled,
                checkpoint=checkpoint_of(self.checkpoint_dir, number, self.identity, self.seed),
                cuda_graphs=self.cuda_graphs,
                compile_step=self.compile_step,
                sync_batchnorm=self.sync_batchnorm,
            )


class _TimeLimit:
    """When training has to end, and whether it did for that reason."""

    def __init__(self, seconds):
        self.end = time.monotonic() + (math.inf if seconds is None else seconds)
        self.is_reached = False

    def allows(self, seconds):
        """Whether an epoch of so many seconds still fits."""
        self.is_reached = time.monotonic() + seconds > self.end
        return not self.is_reached


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds checkpoints of a run.

    Parameters
    ----------
    folder : Path
        A `checkpoint_dir`.

    Returns
    -------
    has_checkpoints : bool
        False for a folder that does not exist.
    """
    return any(Path(folder).glob("phase-*.pt"))


def checkpoint_of(folder, phase: int, identity: dict, seed: int | None) -> Checkpoint | None:
    """The checkpoint of a phase.

    Parameters
    ----------
    folder : str or Path or None
        Of checkpoints.

    phase : int
        Counted from 0.

    identity : dict of str to object
        What must be the same for a run to be continued.

    seed : int or None
        Seed of the run; None when it is not known yet.

    Returns
    -------
    checkpoint : Checkpoint or None
        None without a folder.
    """
    if folder is None:
        return None
    return Checkpoint(Path(folder) / f"phase-{phase}.pt", identity, seed)
