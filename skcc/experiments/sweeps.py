"""The papers' table and ablations as sweeps of runs, and training within a budget of time.

Each finished run is a line of the file DATASET.jsonl in the folder of results, and is not run
again. An interrupted run has a checkpoint below that folder, and is resumed.
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
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch

from skcc.atomic import atomic_write
from skcc.datasets import take
from skcc.experiments import recipes, records, runs
from skcc.experiments.classical import CLASSICAL
from skcc.methods import METHODS
from skcc.training.settings import steps_per_epoch

# Parameters that each row of an ablation sets; tables 4 and 5 of Contrastive Clustering among them.
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
_TRAINING_SHARE = 0.9  # of the time budget; the rest is for reading, read-out and evaluation
_PILOT_STEPS = 32  # enough that DeepCluster finds new labels in each epoch, as on all images


# -- sweeps ---------------------------------------------------------------------------------


def table(
    bunch: Bunch,
    methods: Iterable[str],
    *,
    seeds: int,
    out,
    parameters: dict,
    recipe: str | None = None,
    minutes: float | None = None,
) -> Iterator[dict]:
    """Run methods on a data set, as in the papers' table of results.

    Parameters
    ----------
    bunch : Bunch
        A data set as returned by `skcc.datasets.load`.

    methods : iterable of str
        Keys of `skcc.methods.METHODS` and `skcc.experiments.classical.CLASSICAL`.

    seeds : int
        Each method is run with ``random_state`` 0, 1, ..., seeds - 1.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Parameters of all estimators; classical methods use ``n_clusters`` only.

    recipe : {"paper"} or None, default=None
        Settings that `parameters` changes.

    minutes : float or None, default=None
        Train each estimator for as many epochs as fit into this wall-clock time on this machine,
        by a few steps that are timed before; the last ones are left out if they took longer. None
        stands for the number of epochs that the parameters say.

    Yields
    ------
    record : dict
        Of each run that was not on record yet.

    Raises
    ------
    ValueError
        If a method or parameter is unknown, there is no recipe for the data set, or the time is not
        positive.
    """
    if minutes is not None:
        _check_minutes(minutes)
    methods = tuple(methods)
    known = {*METHODS, *CLASSICAL}
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    rows = {}
    for method in methods:
        row_parameters = recipes.recipe(recipe, method, bunch.name) | parameters
        if method in CLASSICAL:
            row_parameters = {k: v for k, v in parameters.items() if k == "n_clusters"}
        rows[method] = method, row_parameters, ()
    yield from _sweep("table", bunch, rows, seeds, Path(out), minutes=minutes)


def ablation(
    study: str, bunch: Bunch, *, seeds: int, out, parameters: dict, recipe: str | None = None
) -> Iterator[dict]:
    """Run an ablation of Contrastive Clustering on a data set.

    Parameters
    ----------
    study : str
        A key of `ABLATIONS`.

    bunch : Bunch
        A data set as returned by `skcc.datasets.load`.

    seeds : int
        Each row is run with ``random_state`` 0, 1, ..., seeds - 1.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Parameters of all rows, except those that the ablation varies.

    recipe : {"paper"} or None, default=None
        Settings that `parameters` changes.

    Yields
    ------
    record : dict
        Of each run that was not on record yet.

    Raises
    ------
    ValueError
        If a parameter is unknown, or there is no recipe for the data set.
    """
    base = recipes.recipe(recipe, "contrastive", bunch.name) | parameters
    rows = {
        row: ("contrastive", base | varied, tuple(varied))
        for row, varied in ABLATIONS[study].items()
    }
    yield from _sweep(study, bunch, rows, seeds, Path(out))


def _sweep(study, bunch, rows, seeds, out, *, minutes=None):
    """Do the runs that are not on record, seed by seed, so that each row has a result early."""
    for method, parameters, _ in rows.values():
        if method in METHODS:
            recipes.make_estimator(method, parameters)  # raises before anything is run
    path = out / f"{bunch.name}.jsonl"
    finished = _records_by_identity(path)
    for seed in range(seeds):
        for row, (method, parameters, varied) in rows.items():
            budget = minutes if method in METHODS else None
            seeded = parameters | {"random_state": seed}
            run = _Run(study, row, method, bunch, seeded, minutes=budget)
            if run.identity in finished:
                continue
            folder = run.folder(out)
            is_resumed = folder.exists()
            if budget:
                record = run.train_for(budget, folder) | {"varied": (*varied, "max_epochs")}
            else:
                extra = {"checkpoint_dir": folder} if method in METHODS else {}
                record = run.execute(extra) | {"varied": varied}
            if is_resumed:
                record["continued"] = True  # "seconds" are those since then
            records.append(path, record)
            _remove(folder)
            yield record


def _remove(folder):
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # other runs are unfinished
        folder.parent.rmdir()


def _records_by_identity(path):
    if not path.exists():
        return {}
    return {record["identity"]: record for record in records.read(path) if "identity" in record}


class _Run:
    """One row of a study with one seed, identified by a hash of all that decides its result."""

    def __init__(self, study, row, method, bunch, parameters, *, minutes=None):
        self.study, self.row, self.method, self.bunch = study, row, method, bunch
        self.budget = {} if minutes is None else {"minutes": minutes}
        if bunch.target is not None:
            parameters = {"n_clusters": len(np.unique(bunch.target)), **parameters}
        self.parameters = parameters
        settings = {k: v for k, v in parameters.items() if k not in records.NOT_RECORDED}
        content = [study, row, method, len(bunch.images), settings, *self.budget.values()]
        content = json.dumps(content, sort_keys=True)
        self.identity = hashlib.blake2b(content.encode(), digest_size=6).hexdigest()

    def folder(self, out):
        """Return the folder of the checkpoint."""
        return out / "unfinished" / f"{self.bunch.name}-{self.study}-{self.row}-{self.identity}"

    def execute(self, extra):
        """Run with extra parameters for resuming and stopping, and return the record."""
        record = runs.run(self.method, self.bunch, self.parameters | extra)
        record["parameters"] = {k: v for k, v in record["parameters"].items()
                                if k not in ("checkpoint_dir", "max_seconds")}  # fmt: skip
        of_study = {"study": self.study, "row": self.row, "identity": self.identity}
        return of_study | self.budget | record

    def train_for(self, minutes, folder):
        """Train for some minutes, and return the record; `folder` keeps what a next call needs."""
        started = time.monotonic()
        plan = _load_or_make_plan(self, minutes, folder)
        planning = time.monotonic() - started
        remaining = max(60 * minutes - planning, 1e-3)
        self.parameters |= {"max_epochs": plan["max_epochs"]}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "max_seconds=", ConvergenceWarning)  # was asked for
            record = self.execute({"checkpoint_dir": folder, "max_seconds": remaining})
        plan["calls"].append(round(planning + record["seconds"], 2))
        _save_plan(plan, folder)
        record |= {"varied": (), "calls": plan["calls"]}
        record["seconds"] = round(sum(plan["calls"]), 2)
        return record


# -- training within a budget ---------------------------------------------------------------


def train_for_minutes(
    minutes: float,
    bunch: Bunch,
    *,
    method: str = "contrastive",
    seed: int = 0,
    out,
    parameters: dict,
    recipe: str | None = None,
) -> dict:
    """Train for some minutes, in several calls if one is not enough.

    The first call fixes the number of epochs of the run: ``max_epochs``, or as many as fit into
    this call. Each call resumes where the one before stopped; the last one adds the record.

    Parameters
    ----------
    minutes : float
        Wall-clock time of this call.

    bunch : Bunch
        A data set as returned by `skcc.datasets.load`.

    method : str, default="contrastive"
        A key of `skcc.methods.METHODS`.

    seed : int, default=0
        Random state.

    out : str or Path
        Folder of the results.

    parameters : dict of str to object
        Parameters of the estimator.

    recipe : {"paper"} or None, default=None
        Settings that `parameters` changes.

    Returns
    -------
    record : dict
        Like a row of the table. The run is finished when ``epochs`` equals ``planned_epochs``;
        ``calls`` lists the seconds of each call, without the evaluation.

    Raises
    ------
    ValueError
        If the time is not positive, or the method or a parameter is unknown.
    """
    _check_minutes(minutes)
    parameters = recipes.recipe(recipe, method, bunch.name) | parameters | {"random_state": seed}
    run = _Run("table", method, method, bunch, parameters)
    path = Path(out) / f"{bunch.name}.jsonl"
    finished = _records_by_identity(path)
    if run.identity in finished:
        return finished[run.identity]
    folder = run.folder(Path(out))
    record = run.train_for(minutes, folder)
    if record["epochs"] == record["planned_epochs"]:
        records.append(path, record)
        _remove(folder)
    return record


def _check_minutes(minutes):
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be a finite number > 0; got {minutes!r}")


def _save_plan(plan, folder):
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "plan.json") as file:
        file.write(json.dumps(plan).encode())


def _load_or_make_plan(run, minutes, folder):
    """Return the number of epochs of a run, and the seconds of its calls so far."""
    if (folder / "plan.json").exists():
        return json.loads((folder / "plan.json").read_text())
    epochs = run.parameters.get("max_epochs", "auto")
    if epochs == "auto":
        started = time.monotonic()
        seconds = _seconds_per_epoch(run)
        remaining = 60 * minutes - (time.monotonic() - started)
        epochs = max(1, int(_TRAINING_SHARE * remaining / seconds))
    plan = {"max_epochs": epochs, "calls": []}
    _save_plan(plan, folder)
    return plan


def _seconds_per_epoch(run):
    """Estimate from two fits of some images, whose difference is two epochs without overhead."""
    bunch, size = run.bunch, run.parameters.get("batch_size", "auto")
    size = 256 if size == "auto" else size
    order = np.random.default_rng(0).permutation(len(bunch.images))

    def fit(n, epochs):
        changes = {"max_epochs": epochs, "readout": "kmeans"}
        model = recipes.make_estimator(run.method, run.parameters | changes)
        images = take(bunch.images, order[:n])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as empty clusters
            started = time.monotonic()
            size = model.fit(images).settings_["batch_size"]
        return time.monotonic() - started, size

    n = min(len(bunch.images), _PILOT_STEPS * size)
    fit(min(n, 2 * size), 1)  # warm-up
    (short, size), (long, _) = fit(n, 2), fit(n, 4)  # two layers may share the epochs evenly
    if (long - short) / 2 < 0.6 * min(short / 2, long / 4):  # others may have slowed the first
        short = min(short, fit(n, 2)[0])
    per_epoch = min((long - short) / 2, short / 2, long / 4)
    per_step = max(per_epoch, 1e-3) / steps_per_epoch(n, size)
    n_unlabeled = 0 if bunch.unlabeled is None else len(bunch.unlabeled)
    steps = [steps_per_epoch(m, size) for m in (len(bunch.images), n_unlabeled) if m]
    return per_step * sum(steps)
