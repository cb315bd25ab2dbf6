"""``skcc bench quality``: seconds of training until a clustering reaches given accuracies.

Classes are used for reporting only. The time of training is measured without that of evaluation.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch

from skcc import datasets
from skcc.benchmarks.workload import with_joint_statistics
from skcc.methods.contrastive import ContrastiveClustering
from skcc.metrics import clustering_scores
from skcc.training import settings

GOALS = (0.90, 0.95, 0.97)

# Changes to the defaults. "joint" and "epochs", a factor, are no parameters of the estimator.
VARIANTS: dict[str, dict] = {
    "defaults": {},
    "adamw": {"optimizer": "adamw"},
    "adamw, two fifths": {"optimizer": "adamw", "epochs": 2 / 5},
    "constant": {"schedule": "constant"},
    "resnet10-narrow": {"backbone": "resnet10-narrow"},
    "resnet18-image": {"backbone": "resnet18-image"},
    "batch 64": {"batch_size": 64},
    "batch 128": {"batch_size": 128},
    "batch 256": {"batch_size": 256},
    "batch 512": {"batch_size": 512},
    "joint": {"joint": True},
    "twice": {"epochs": 2},
    "two thirds": {"epochs": 2 / 3},
    "half": {"epochs": 1 / 2},
}


class _JointContrastiveClustering(ContrastiveClustering):
    def _phases(self, setup):
        for phase in super()._phases(setup):
            with_joint_statistics(phase.objective)
            yield phase


class _Clock:
    """A callback that adds up the processor and wall-clock seconds of the epochs."""

    def __init__(self):
        self.cpu = self.wall = 0.0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self._started = time.process_time(), time.perf_counter()

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.cpu += time.process_time() - self._started[0]
            self.wall += time.perf_counter() - self._started[1]


class _AccuracyMonitor:
    """A callback that records accuracy after each epoch, and the time on a clock until then."""

    def __init__(self, target, clock):
        self.target, self.clock = target, clock
        self.epochs = []  # CPU seconds, wall-clock seconds, accuracy

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        if context.task_name == "epoch":
            scores = clustering_scores(self.target, fitted_estimator.labels_)
            self.epochs.append((self.clock.cpu, self.clock.wall, scores["acc"]))

    def first_times(self, column):
        """Return the time in a column when each goal was first reached, or None."""
        return {
            f"{goal:.2f}": next((round(e[column], 1) for e in self.epochs if e[2] >= goal), None)
            for goal in GOALS
        }


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
        Folder of the data set, if it needs one.

    seeds : tuple of int, default=(0,)
        Each variant is trained once per seed.

    variants : tuple of str, default=("all",)
        Keys of `VARIANTS`.

    device : str
        Device to train on.

    Yields
    ------
    record : dict
        Processor and wall-clock seconds until each of `GOALS` was first reached, or None; final
        scores.

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
    for name in variants:
        for seed in seeds:
            yield _run(name, bunch, seed=seed, device=device)


def _epochs(model, bunch):
    """The default number of epochs of a batch of the default size."""
    size = settings.batch_size(len(bunch.target), model.n_clusters)
    device, any_image = settings.resolve_device(model.device), (1, 1, 1)
    optimizer = settings.resolve_optimizer(model, any_image, device)
    return settings.auto_epochs(model, len(bunch.target), size, optimizer)


def _run(name, bunch, *, seed, device):
    """Train one variant, and return its record."""
    k = len(np.unique(bunch.target))
    parameters = dict(VARIANTS[name])
    cls = _JointContrastiveClustering if parameters.pop("joint", False) else ContrastiveClustering
    factor = parameters.pop("epochs", 1)
    model = cls(k, random_state=seed, device=device, **parameters)
    epochs = round(_epochs(model, bunch) * factor)
    model.set_params(max_epochs=epochs)
    clock = _Clock()
    monitor = _AccuracyMonitor(bunch.target, clock)
    model.set_callbacks(clock, monitor).fit(bunch.images)
    scores = clustering_scores(bunch.target, model.labels_)
    return {
        "bench": "quality",
        "variant": name,
        "seed": seed,
        "epochs": epochs,
        "batch_size": model.settings_["batch_size"],
        "cpu_seconds_to": monitor.first_times(0),
        "wall_seconds_to": monitor.first_times(1),
        "cpu_seconds": round(clock.cpu, 1),
        "wall_seconds": round(clock.wall, 1),
        **{name: round(value, 4) for name, value in scores.items()},
        "score": round(model.score(bunch.images), 4),
        "threads": torch.get_num_threads(),
        "device": model.settings_["device"],
    }
