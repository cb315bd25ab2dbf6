"""The phases of a fit, one after the other: seeds, checkpoints, time limit, history."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from skcc.augment import Views
from skcc.callbacks import Progress
from skcc.data import Store
from skcc.objective import Objective, Phase
from skcc.rng import private_rng
from skcc.training import engine
from skcc.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Run:
    """What all phases of a fit share.

    Parameters
    ----------
    title : str
        Name of the estimator, for the progress bar.

    settings : dict of str to object
        As `skcc.training.settings.resolve_settings` returns them.

    augmentation : object
        One of `skcc.augment`.

    device : torch.device
        Where training runs.

    seed : int
        Phase number i is seeded by ``seed + i``.

    global_rng : bool
        Whether functions or modules of the user may draw from torch's global generators.

    checkpoint_dir : str or Path or None
        Folder of checkpoints, one per phase.

    identity : dict of str to object
        What must be the same for a checkpoint to be used.

    max_seconds : float or None
        Time limit of all phases together.

    cuda_graphs, sync_batchnorm : bool
        See `skcc.training.engine.train`.

    verbose : int
        0 is silent.
    """

    title: str
    settings: dict
    augmentation: object
    device: torch.device
    seed: int
    global_rng: bool
    checkpoint_dir: str | Path | None
    identity: dict
    max_seconds: float | None
    cuda_graphs: bool
    sync_batchnorm: bool
    verbose: int

    def views(self, objective: Objective) -> Views:
        """Make the views that an objective trains on.

        Parameters
        ----------
        objective : Objective
            Says how many.

        Returns
        -------
        views : Views
            For `skcc.training.engine.train`.
        """
        size = self.settings["image_size"]
        return Views(self.augmentation, size, objective.n_views, objective.n_augmented)


def checkpoint_of(run_dir, phase: int, identity: dict, seed: int | None) -> Checkpoint | None:
    """The checkpoint of a phase.

    Parameters
    ----------
    run_dir : str or Path or None
        Folder of checkpoints.

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
    if run_dir is None:
        return None
    return Checkpoint(Path(run_dir) / f"phase-{phase}.pt", identity, seed)


def train_phases(
    phases: Iterator[Phase],
    run: Run,
    store: Store,
    unlabeled: Store | None,
    *,
    begin: Callable[[], None],
    report: Callable[[Callable[[], Objective], list[dict[str, float]], int], bool],
) -> tuple[Objective, list[dict[str, float]], int]:
    """Train phase after phase, until the last one or until training is stopped.

    Parameters
    ----------
    phases : iterator of Phase
        The next one is asked for when the one before is trained.

    run : Run
        What they share.

    store : Store
        The samples.

    unlabeled : Store or None
        Samples that are not to be clustered.

    begin : callable
        Called before each epoch.

    report : callable
        Called after each epoch with a function that returns a finished copy of the objective, the
        history of all phases, and the number of phases so far. Training stops if it returns True.

    Returns
    -------
    objective : Objective
        That of the last phase that was trained.

    history : list of dict of str to float
        Mean loss terms of each epoch of all phases.

    n_phases : int
        How many were trained.
    """
    started, history, number, objective = time.monotonic(), [], 0, None
    while True:
        seed = run.seed + number
        with private_rng(seed, run.device):
            phase = next(phases, None)
        if phase is None:
            return objective, history, number
        objective = phase.objective.to(run.device, memory_format=torch.channels_last)
        result = _train_phase(phase, number, run, store, unlabeled, begin, report, history, started)
        history, number = history + result.history, number + 1
        if result.stopped:
            return objective, history, number


def _train_phase(phase, number, run, store, unlabeled, begin, report, history, started):
    objective, settings, views = phase.objective, run.settings, run.views(phase.objective)
    epochs = phase.epochs or settings["max_epochs"]
    rate = phase.learning_rate or settings["learning_rate"]
    seed, dtype = run.seed + number, getattr(torch, settings["precision"])
    title = run.title if phase.name == "train" else f"{run.title} {phase.name}"

    def finished_copy(epochs_done):
        copied = copy.deepcopy(objective)
        engine.finish(copied, store, views, epochs=epochs_done, seed=seed, dtype=dtype)
        return copied

    with Progress(title, epochs, len(store), run.verbose) as progress:

        def report_epoch(of_phase, seconds):
            progress(len(of_phase) - 1, of_phase[-1], seconds)
            stop = report(
                lambda: finished_copy(len(of_phase)), history + of_phase, number + 1
            )
            next_one_ends = time.monotonic() - started + seconds
            return stop or next_one_ends > (run.max_seconds or math.inf)

        return engine.train(
            objective,
            store,
            views,
            epochs=epochs,
            batch_size=settings["batch_size"],
            learning_rate=rate,
            weight_decay=settings["weight_decay"],
            schedule=phase.schedule or settings["schedule"],
            betas=phase.betas,
            seed=seed,
            dtype=dtype,
            global_rng=run.global_rng,
            begin=begin,
            report=report_epoch,
            unlabeled=unlabeled,
            checkpoint=checkpoint_of(run.checkpoint_dir, number, run.identity, run.seed),
            cuda_graphs=run.cuda_graphs,
            sync_batchnorm=run.sync_batchnorm,
        )
