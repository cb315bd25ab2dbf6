"""The papers' table and ablations as sweeps of runs, and training within a budget of time.

A run that is done is a line in DATASET.jsonl of the folder of results; one that was cut off has a
checkpoint below that folder, and is continued. Neither is made twice.
"""

import contextlib
import hashlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from skcc.atomic import atomic_write
from skcc.datasets import take
from skcc.experiments import records
from skcc.experiments.recipes import METHODS, make_estimator
from skcc.experiments.runs import CLASSICAL, run
from skcc.training.settings import steps_per_epoch

# The ablations of Contrastive Clustering, tables 4 and 5 of the paper among them: what a row sets.
ABLATIONS: dict[str, dict[str, dict]] = {
    "augmentation": {
        "both": {"augmented_views": 2},
        "one": {"augmented_views": 1},
        "none": {"augmented_views": 0},
    },
    "heads": {
        "both": {},
        "instance": {"cluster_weight": 0, "readout": "kmeans"},
        "cluster": {"instance_weight": 0},
    },
    "backbones": {name: {"backbone": name} for name in ("resnet18", "resnet34", "resnet50")},
}
_PLACE = {"device", "n_jobs", "verbose"}  # of what is asked for, what makes no other run
_MARGIN = 0.95  # of the time there is; the rest is for what is no epoch
_PILOT_STEPS = 8
_PILOT_EPOCHS = 4


def table(
    bunch: Bunch,
    methods: Iterable[str],
    *,
    seeds: int,
    out,
    parameters: dict,
    recipe: str | None = None,
) -> Iterator[dict]:
    """Run methods on a data set, as in the papers' table of results.

    Parameters
    ----------
    bunch : Bunch
        A data set as `skcc.datasets.load` gives it.

    methods : iterable of str
        Keys of `skcc.benchmark.METHODS` and `skcc.benchmark.CLASSICAL`.

    seeds : int
        Each method is run with ``random_state`` 0, 1, ..., seeds - 1.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Of all estimators; classical methods take ``n_clusters`` of them.

    recipe : {"paper"} or None, default=None
        Start from these settings.

    Yields
    ------
    record : dict
        Of each run that was not on record yet.

    Raises
    ------
    ValueError
        If there is no such method or parameter, or no recipe for the data set.
    """
    methods = tuple(methods)
    known = {*METHODS, *CLASSICAL}
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    rows = {}
    for method in methods:
        asked = recipe(recipe, method, bunch.name) | parameters
        if method in CLASSICAL:
            asked = {name: value for name, value in parameters.items() if name == "n_clusters"}
        rows[method] = method, asked, ()
    yield from _sweep("table", bunch, rows, seeds, Path(out))


def ablation(
    study: str, bunch: Bunch, *, seeds: int, out, parameters: dict, recipe: str | None = None
) -> Iterator[dict]:
    """Run an ablation of Contrastive Clustering on a data set.

    Parameters
    ----------
    study : str
        A key of `ABLATIONS`.

    bunch : Bunch
        A data set as `skcc.datasets.load` gives it.

    seeds : int
        Each row is run with ``random_state`` 0, 1, ..., seeds - 1.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Of all rows, but for what the ablation varies.

    recipe : {"paper"} or None, default=None
        Start from these settings.

    Yields
    ------
    record : dict
        Of each run that was not on record yet.

    Raises
    ------
    ValueError
        If there is no such parameter, or no recipe for the data set.
    """
    base = recipe(recipe, "contrastive", bunch.name) | parameters
    rows = {
        row: ("contrastive", base | varied, tuple(varied))
        for row, varied in ABLATIONS[study].items()
    }
    yield from _sweep(study, bunch, rows, seeds, Path(out))


def _sweep(study, bunch, rows, seeds, out):
    """Make the runs that are not on record; seed by seed, so that each row has a figure soon."""
    for method, asked, _ in rows.values():
        if method in METHODS:
            make_estimator(method, asked)  # for its errors, before anything is run
    path = out / f"{bunch.name}.jsonl"
    done = _on_record(path)
    for seed in range(seeds):
        for row, (method, asked, varied) in rows.items():
            run = _Run(study, row, method, bunch, asked | {"random_state": seed})
            if run.identity in done:
                continue
            folder = run.folder(out)
            continued = folder.exists()
            place = {"checkpoint_dir": folder} if method in METHODS else {}
            record = run.record(place) | {"varied": varied}
            if continued:
                record["continued"] = True  # its seconds are those since then
            records.append(path, record)
            _remove(folder)
            yield record


def _remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # others are below it
        folder.parent.rmdir()


def _on_record(path):
    made = records.read(path) if path.exists() else []
    return {record["identity"]: record for record in made if "identity" in record}


class _Run:
    """One row with one seed: what is asked for, and its name."""

    def __init__(self, study, row, method, bunch, asked):
        self.study, self.row, self.method, self.bunch = study, row, method, bunch
        if bunch.target is not None:
            asked = {"n_clusters": len(np.unique(bunch.target)), **asked}
        self.asked = asked
        results_of = {name: value for name, value in asked.items() if name not in _PLACE}
        name = json.dumps([study, row, method, len(bunch.images), results_of], sort_keys=True)
        self.identity = hashlib.blake2b(name.encode(), digest_size=6).hexdigest()

    def folder(self, out):
        """Where it keeps its state until it is done."""
        return out / "unfinished" / f"{self.bunch.name}-{self.study}-{self.row}-{self.identity}"

    def record(self, place):
        """Run it; what tells only where and how long is not kept as a parameter."""
        record = run(self.method, self.bunch, self.asked | place)
        record["parameters"] = {k: v for k, v in record["parameters"].items()
                                if k not in {"checkpoint_dir", "max_seconds"}}  # fmt: skip
        head = {"study": self.study, "row": self.row, "identity": self.identity}
        return head | record


# -- training within a budget ---------------------------------------------------------------


def within(
    minutes: float,
    bunch: Bunch,
    *,
    method: str = "contrastive",
    seed: int = 0,
    out,
    parameters: dict,
    recipe: str | None = None,
) -> dict:
    """Train for some minutes; in several calls, if one is not enough.

    The first call settles how many epochs the run has: ``max_epochs``, or as many as fit into this
    call. Each call goes on where the one before stopped, and the last one adds the record.

    Parameters
    ----------
    minutes : float
        Wall-clock time of this call.

    bunch : Bunch
        A data set as `skcc.datasets.load` gives it.

    method : str, default="contrastive"
        A key of `skcc.benchmark.METHODS`.

    seed : int, default=0
        Random state.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Of the estimator.

    recipe : {"paper"} or None, default=None
        Start from these settings.

    Returns
    -------
    record : dict
        As that of a row of the table. ``planned_epochs`` beside ``epochs`` tells whether the run is
        done, ``calls`` the seconds that each call took.

    Raises
    ------
    ValueError
        If the time is not positive, or there is no such method or parameter.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a finite number > 0; got {minutes!r}")
    started = time.monotonic()
    asked = recipe(recipe, method, bunch.name) | parameters | {"random_state": seed}
    run = _Run("table", method, method, bunch, asked)
    path = Path(out) / f"{bunch.name}.jsonl"
    if run.identity in (done := _on_record(path)):
        return done[run.identity]
    folder = run.folder(Path(out))
    plan = _plan(run, minutes, folder)
    left = 60 * minutes - (time.monotonic() - started)
    run.asked |= {"max_epochs": plan["max_epochs"]}
    record = run.record({"checkpoint_dir": folder, "max_seconds": max(left, 1e-3)})
    plan["calls"].append(round(time.monotonic() - started, 2))
    _keep(plan, folder)
    record |= {"varied": (), "planned_epochs": plan["max_epochs"], "calls": plan["calls"]}
    record["seconds"] = round(sum(plan["calls"]), 2)
    if record["epochs"] == plan["max_epochs"]:
        records.append(path, record)
        _remove(folder)
    return record


def _keep(plan, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "plan.json") as file:
        file.write(json.dumps(plan).encode())


def _plan(run, minutes, folder):
    """How many epochs the run has, and the seconds of its calls until now."""
    if (folder / "plan.json").exists():
        return json.loads((folder / "plan.json").read_text())
    epochs = run.asked.get("max_epochs", "auto")
    if epochs == "auto":
        started = time.monotonic()
        seconds = _seconds_per_epoch(run)
        left = 60 * minutes - (time.monotonic() - started)
        epochs = max(1, int(_MARGIN * left / seconds))
    plan = {"max_epochs": epochs, "calls": []}
    _keep(plan, folder)
    return plan


def _seconds_per_epoch(run):
    """From a few steps on a part of the images; the first ones, which warm up, do not count."""
    bunch = run.bunch
    size = run.asked.get("batch_size", "auto")
    n = min(len(bunch.images), _PILOT_STEPS * (256 if size == "auto" else size))
    some = np.random.default_rng(0).permutation(len(bunch.images))[:n]
    images = take(bunch.images, some)

    def fit(epochs):
        model = make_estimator(run.method, run.asked | {"max_epochs": epochs})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so short a training finds little
            started = time.monotonic()
            model.fit(images)
        return time.monotonic() - started, model.settings_["batch_size"]

    fit(1)
    (short, _), (long, size) = fit(1), fit(1 + _PILOT_EPOCHS)
    per_step = max(long - short, 1e-3) / _PILOT_EPOCHS / steps_per_epoch(n, size)
    n_unlabeled = 0 if bunch.unlabeled is None else len(bunch.unlabeled)
    steps = [steps_per_epoch(m, size) for m in (len(bunch.images), n_unlabeled) if m]
    return per_step * sum(steps)
