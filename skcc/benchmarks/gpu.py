"""``skcc bench gpu``: all that is to be measured on a GPU, in order of value, within some minutes.

Each step is a process of its own, so that none takes memory from another or ends the rest by an
error. Everything is written as it comes, and the next call goes on where one was cut off.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

_GRACE = 20  # seconds between SIGTERM and SIGKILL; training saves its state in them
_TAIL = 1500  # characters of the output that are kept of a step that fails
_TWIN = (  # the other method is trained by its defaults
    "batch_size=512", "learning_rate=1e-3", "weight_decay=0.01", "momentum=0.99",
    "instance_queue=8", "instance_temperature=0.2", "augment=natural-moco",
)  # fmt: skip
_TINY = {
    "step": {"backbone": "conv4", "side": 8, "batch": 4, "steps": 2, "repeats": 1},
    "graphs": {"methods": "iic", "backbone": "conv4", "side": 8, "batch": 4, "steps": 2},
    "predict": {"n": 12, "side": 8, "repeats": 1},
    "augment": {"size": 8, "batch": 4, "repeats": 1},
}
_DESCRIBE = """
import json, sys, torch
from skcc.experiments.runs import commit, versions
found = {"versions": versions(), "commit": commit(), "cuda": torch.version.cuda}
if torch.cuda.is_available():
    card = torch.cuda.get_device_properties(0)
    found |= {"card": card.name, "gibibytes": card.total_memory / 2**30}
    found |= {"cudnn": torch.backends.cudnn.version(), "processors": card.multi_processor_count}
print(json.dumps(found))
sys.exit(sys.argv[1] == "cuda" and not torch.cuda.is_available())
"""


@dataclass(frozen=True)
class Step:
    """A command of the plan.

    Parameters
    ----------
    name : str
        Under which its records are kept.

    minutes : float
        After which it is ended.

    arguments : tuple of str
        Of Python.

    is_training : bool, default=False
        Whether it continues itself when it is called again, and says so in its record.
    """

    name: str
    minutes: float
    arguments: tuple[str, ...]
    is_training: bool = False


def gpu(
    *,
    target: str = "cuda",
    data: str = "",
    out: str = "results",
    minutes: float = 30.0,
    tiny: int = 0,
) -> Iterator[dict]:
    """Everything that is to be measured on a GPU, in order of value, as far as time allows.

    Parameters
    ----------
    target : str, default="cuda"
        Device of all steps.

    data : str, default=""
        CIFAR-10 as a .npz of "images" and "target", or as a folder for `join_parts`. Without it
        nothing is trained.

    out : str, default="results"
        Folder of the results. Its file gpu.jsonl gets each record as soon as its step has ended.

    minutes : float, default=30.0
        Time of this call. The next one goes on, and tries again what had failed.

    tiny : int, default=0
        1 makes all sizes tiny, for a rehearsal on a CPU.

    Yields
    ------
    record : dict
        Name, status ("done", "failed", "timeout" or "unfinished") and seconds of each step.
    """
    folder, ends = Path(out), time.monotonic() + 60 * minutes
    data = str(join_parts(Path(data), folder / "cifar10.npz")) if data else ""
    plan = Plan(target=target, data=data, out=out, tiny=bool(tiny))
    for name in _order([step.name for step in plan.steps(minutes, False)], folder):
        left = (ends - time.monotonic()) / 60
        if left <= 0:
            return
        graphs = _statuses(folder).get("checks") == "done"
        step = next(step for step in plan.steps(left, graphs) if step.name == name)
        yield run_step(step, folder, 60 * min(step.minutes, left))


def _order(names, folder):
    """Names of the steps that are not done: first those that have not failed."""
    statuses = _statuses(folder)
    left = [name for name in names if statuses.get(name) != "done"]
    return sorted(left, key=lambda name: statuses.get(name) in ("failed", "timeout"))


def _statuses(folder):
    """The last status of each step that is on record."""
    path, statuses = folder / "gpu.jsonl", {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # cut off
            continue
        if "status" in record:
            statuses[record["step"]] = record["status"]
    return statuses


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be measured on one machine.

    Parameters
    ----------
    target : str
        Device of all steps.

    data : str
        A .npz file of CIFAR-10, or "" if nothing is to be trained.

    out : str
        Folder of the results.

    tiny : bool
        Whether all sizes are tiny.
    """

    target: str
    data: str
    out: str
    tiny: bool

    def steps(self, minutes: float, graphs: bool) -> list[Step]:
        """List the steps in order of value; the first nine take half an hour.

        Parameters
        ----------
        minutes : float
            What is left, for a training run that begins now.

        graphs : bool
            Whether training may capture its steps, since the tests of that have passed.

        Returns
        -------
        steps : list of Step
            Those of training only if there is data.
        """
        resnet = {"backbone": "resnet18-small", "side": 32, "batch": 512}
        shown = {"peer": 0, "repeats": 3}
        trained = [self._train(method, minutes, graphs) for method in ("contrastive", "twin")]
        bench, engine = self._bench, "tests/test_engine.py"
        return [
            Step("environment", 1, ("-c", _DESCRIBE, self.target)),
            _tests("checks", 3, engine, "tests/test_on_gpu.py", "-k",
                   "not compile_step and not labels"),
            bench("graphs", 2.5, "graphs", repeats=1),
            bench("variants", 3, "variants", **resnet, **shown, steps=60),
            bench("step", 1, "step", **resnet),
            bench("step of twins", 1, "step", "--method", "twin", **resnet),
            bench("predict", 1, "predict", n=60_000, side=32),
            *(trained if self.data else []),
            bench("compiled variants", 4, "variants", "--compiled", "1", **resnet, **shown,
                  steps=60),
            _tests("compiled checks", 4, engine, "-k", "compile_step"),
            bench("resnet34", 3, "variants", **{**resnet, "backbone": "resnet34-small"}, **shown),
            bench("pillow", 2, "variants", **resnet, steps=10, repeats=1),
            bench("resnet34 at 224", 3, "variants", backbone="resnet34-image", side=224,
                  batch=256, steps=20, **shown),
            bench("augment at 224", 1, "augment", size=224, batch=256),
            _tests("all tests", 10),
        ]  # fmt: skip

    def _bench(self, name, minutes, *arguments, **options):
        if self.tiny:
            options = _TINY.get(arguments[0], _TINY["step"])
        chosen = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        command = ("-m", "skcc", "bench", *arguments, "--device", self.target, *chosen)
        return Step(name, minutes, command)

    def _train(self, method, left, graphs):
        """Training on CIFAR-10 in 7.5 minutes, or what is left; reading out takes another one."""
        minutes = max(0.05, min(7.5, left - 1.5))
        changes = [f"cuda_graphs={'auto' if graphs else False}"]
        changes += _TWIN if method == "twin" else ()
        if self.tiny:
            changes = ["backbone=conv4", "max_epochs=1"]
        arguments = ("-m", "skcc", "reproduce", "cifar10", "--method", method, "--root", self.data)
        arguments += ("--out", self.out, "--minutes", f"{minutes:.3f}", "--device", self.target)
        return Step(f"train {method}", 9.5, (*arguments, "--set", *changes), is_training=True)


def _tests(name, minutes, *arguments):
    return Step(name, minutes, ("-m", "pytest", "-q", "-W", "default", "-m", "gpu", *arguments))


def run_step(step: Step, folder: Path, seconds: float) -> dict:
    """Run a step in a process of its own, and append its records and its status.

    Parameters
    ----------
    step : Step
        What is run.

    folder : Path
        Of the file gpu.jsonl; the output of the step goes into a folder below it.

    seconds : float
        After which the process is ended.

    Returns
    -------
    record : dict
        Name, status and seconds, and the end of the output of a step that failed.
    """
    name = step.name.replace(" ", "-")
    output = folder / "steps" / f"{name}.out"
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(output, "w") as file:
        process = subprocess.Popen(  # nosec B603 # this Python and constant arguments, without a shell
            [sys.executable, *step.arguments], stdout=file, stderr=subprocess.STDOUT
        )
        status = _wait(process, seconds)
    text = output.read_text(errors="replace")
    records = [record for line in text.splitlines() if (record := _parse(line)) is not None]
    if status == "done" and step.is_training:
        last = records[-1] if records else {}
        is_finished = last.get("epochs") is not None
        is_finished &= last.get("epochs") == last.get("planned_epochs")
        status = "done" if is_finished else "unfinished"
    ended = {"bench": "gpu", "step": step.name, "status": status}
    ended["seconds"] = round(time.monotonic() - started, 1)
    if status in ("failed", "timeout"):
        ended["output"] = text[-_TAIL:]
    _append(folder / "gpu.jsonl", [{"step": step.name, **r} for r in records] + [ended])
    return ended


def _wait(process, seconds):
    """Wait for a process, and end it when its time is over or this one is interrupted."""
    try:
        return "failed" if process.wait(seconds) else "done"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _parse(line):
    """The record on a line of output, if there is one."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def _append(path, lines):
    """Append records to a file, and wait until they are on disk."""
    with open(path, "a+b") as file:
        # A line that was cut off is ended first; empty lines are passed over.
        file.write(b"".join(b"\n" + json.dumps(line).encode() for line in lines) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def join_parts(path: Path, joined: Path) -> Path:
    """Make one .npz file of a data set that comes in parts, as for a transfer of limited size.

    Parameters
    ----------
    path : Path
        A .npz file, which is returned as it is, or a folder of images NAME-CLASS-NUMBER, such as
        train-cat-03.webp, each of which is a column of square images of that class.

    joined : Path
        Where the file is written, unless it is there already.

    Returns
    -------
    path : Path
        Of the .npz file with "images" and "target".

    Raises
    ------
    ValueError
        If the folder has no such images.
    """
    if path.suffix == ".npz" or joined.exists():
        return joined if joined.exists() else path
    images, target = [], []
    for file in sorted(path.glob("*-*-*.*")):
        with Image.open(file) as strip:
            column = np.asarray(strip.convert("RGB"))
        side = column.shape[1]
        images.append(column.reshape(-1, side, side, 3))
        target += [file.stem.split("-")[1]] * len(images[-1])
    if not images:
        raise ValueError(f"{path} is no .npz file, and no folder of images named NAME-CLASS-NUMBER")
    joined.parent.mkdir(parents=True, exist_ok=True)
    partial = joined.with_suffix(".partial.npz")
    np.savez(partial, images=np.concatenate(images), target=np.array(target))
    os.replace(partial, joined)
    return joined
