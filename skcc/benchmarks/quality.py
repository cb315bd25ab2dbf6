"""Time to accuracy: seconds of training until a clustering is as good as asked for.

Classes are used for reporting only. Training is timed, looking at it is not.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch

from skcc import datasets
from skcc.benchmarks.speed import with_joint_statistics
from skcc.methods.contrastive import ContrastiveClustering
from skcc.metrics import clustering_scores
from skcc.training.settings import batch_size, max_epochs

GOALS = (0.90, 0.95, 0.97)

# What is compared with the defaults, one change at a time.
VARIANTS: dict[str, dict] = {
    "defaults": {},
    "constant": {"schedule": "constant"},
    "resnet10-narrow": {"backbone": "resnet10-narrow"},
    "resnet18-image": {"backbone": "resnet18-image"},
    "batch 64": {"batch_size": 64},
    "batch 128": {"batch_size": 128},
    "batch 256": {"batch_size": 256},
    "batch 512": {"batch_size": 512},
    "joint": {"joint": True},
    "two thirds": {"epochs": 2 / 3},
    "half": {"epochs": 1 / 2},
}


class _JointContrastiveClustering(ContrastiveClustering):
    def _phases(self, setup):
        for phase in super()._phases(setup):
            with_joint_statistics(phase.objective)
            yield phase


class _Clock:
    """Processor and wall seconds spent between the beginnings and ends of epochs."""

    def __init__(self):
        self.cpu = self.wall = 0.0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self._since = time.process_time(), time.perf_counter()

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.cpu += time.process_time() - self._since[0]
            self.wall += time.perf_counter() - self._since[1]


class _Judge(_Clock):
    """Accuracy after each epoch, with the time on the clock that was told before."""

    def __init__(self, target, clock):
        super().__init__()
        self.target, self.clock, self.seen = target, clock, []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch":
            scores = clustering_scores(self.target, fitted_estimator.labels_)
            self.seen.append((self.clock.cpu, self.clock.wall, scores["acc"]))


def quality(
    *,
    data: str = "digits",
    root: str | None = None,
    seeds: tuple[int, ...] = (0,),
    variants: tuple[str, ...] = ("all",),
    device: str,
) -> Iterator[dict]:
    """Train variants of Contrastive Clustering, and look at them after each epoch.

    Parameters
    ----------
    data : str, default="digits"
        A key of `skcc.datasets.DATASETS`, with classes.

    root : str, default=None
        Folder of the data set, for those that need one.

    seeds : tuple of int, default=(0,)
        Each variant is trained once per seed.

    variants : tuple of str, default=("all",)
        Keys of `VARIANTS`.

    device : str
        Where.

    Yields
    ------
    record : dict
        Processor and wall seconds until each of `GOALS` was first reached, or None; final scores.

    Raises
    ------
    ValueError
        If a variant is unknown, or the data set has no classes.
    """
    variants = tuple(VARIANTS) if tuple(variants) == ("all",) else variants
    unknown = set(variants) - set(VARIANTS)
    if unknown:
        raise ValueError(f"no variants {sorted(unknown)}; there are {', '.join(VARIANTS)}")
    bunch = datasets.load(data, root)
    if bunch.target is None:
        raise ValueError(f"{data} has no classes to compare with")
    n, k = len(bunch.target), len(np.unique(bunch.target))
    epochs = max_epochs(n, batch_size(n, k))
    for name in variants:
        for seed in seeds:
            yield _run(name, bunch, epochs, seed=seed, device=device)


def _run(name, bunch, epochs, *, seed, device):
    k = len(np.unique(bunch.target))
    parameters = dict(VARIANTS[name])
    cls = _JointContrastiveClustering if parameters.pop("joint", False) else ContrastiveClustering
    epochs = round(epochs * parameters.pop("epochs", 1))
    model = cls(k, max_epochs=epochs, random_state=seed, device=device, **parameters)
    clock = _Clock()
    judge = _Judge(bunch.target, clock)
    model.set_callbacks(clock, judge).fit(bunch.images)
    scores = clustering_scores(bunch.target, model.labels_)
    return {
        "bench": "quality",
        "variant": name,
        "seed": seed,
        "epochs": epochs,
        "batch_size": model.settings_["batch_size"],
        "cpu_seconds_to": _first(judge.seen, 0),
        "wall_seconds_to": _first(judge.seen, 1),
        "cpu_seconds": round(clock.cpu, 1),
        "wall_seconds": round(clock.wall, 1),
        **{name: round(value, 4) for name, value in scores.items()},
        "score": round(model.score(bunch.images), 4),
        "threads": torch.get_num_threads(),
        "device": model.settings_["device"],
    }


def _first(seen, clock):
    """By one of the clocks, when each goal was first reached; None if it was not."""
    return {
        f"{goal:.2f}": next((round(s[clock], 1) for s in seen if s[2] >= goal), None)
        for goal in GOALS
    }
