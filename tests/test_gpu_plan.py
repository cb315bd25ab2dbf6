"""The plan of measurements on a GPU goes on after errors and where it was cut off."""

import json
import platform
import time

import numpy as np
import pytest
from PIL import Image

from skcc import datasets
from skcc.benchmarks import gpu
from skcc.benchmarks.gpu import Step, join_parts
from skcc.cli import main
from skcc.cli.main import _build_parser

pytestmark = pytest.mark.experiments

PRINT = "import sys; print('{\"rate\": 3}'); print('note'); sys.exit(int(sys.argv[1]))"
EPOCHS = 'print(\'{"epochs": done, "planned_epochs": 3}\')'
SLEEP = "print('{\"rate\": 1}', flush=True); import time; time.sleep(60)"


def lines(folder):
    text = (folder / "gpu.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line and not line.startswith("{cut")]


def python(name, *arguments, minutes=1.0, **more):
    return Step(name, minutes, ("-I", "-S", "-c", *arguments), **more)


@pytest.fixture
def plan(monkeypatch):
    """The steps of the plan; tests change them."""
    steps = {}
    monkeypatch.setattr(gpu.Plan, "steps", lambda *_: list(steps.values()))
    return steps


def run(folder, **options):
    found = [(r["step"], r["status"]) for r in gpu.gpu(out=str(folder), **options)]
    return dict(found), [name for name, _ in found]


def test_it_goes_on_after_failures_and_where_it_was_cut_off(plan, tmp_path):
    plan["works"] = python("works", PRINT, "0")
    plan["fails"] = python("fails", PRINT, "3")
    plan["hangs"] = python("hangs", SLEEP, minutes=0.04)
    plan["trains"] = python("trains", EPOCHS.replace("done", "2"), is_training=True)
    started = time.monotonic()
    statuses, _ = run(tmp_path)
    assert time.monotonic() - started < 30
    assert statuses == {
        "works": "done", "fails": "failed", "hangs": "timeout", "trains": "unfinished"
    }  # fmt: skip
    written = lines(tmp_path)
    assert {"step": "works", "rate": 3} in written
    assert {"step": "hangs", "rate": 1} in written, "what came before the end of its time"
    assert "note" in next(r["output"] for r in written if r.get("status") == "failed")
    with open(tmp_path / "gpu.jsonl", "a") as file:
        file.write("{cut off")  # by a machine that went away
    plan["trains"] = python("trains", EPOCHS.replace("done", "3"), is_training=True)
    plan["fails"] = python("fails", PRINT, "0")
    plan["hangs"] = python("hangs", PRINT, "0")
    again, order = run(tmp_path)
    assert again == {"trains": "done", "fails": "done", "hangs": "done"}
    assert order[0] == "trains", "what had failed comes last"
    assert run(tmp_path) == ({}, [])


def test_a_step_gets_no_more_time_than_is_left(plan, tmp_path):
    plan["long"] = python("long", SLEEP, minutes=10)
    plan["next"] = python("next", PRINT, "0")
    assert run(tmp_path, minutes=0.01)[0] == {"long": "timeout"}
    statuses, order = run(tmp_path, minutes=0.05)
    assert order == ["next", "long"], "the next call begins with what was not reached"
    assert statuses["next"] == "done"


def the_plan(data, tiny=False):
    return gpu.Plan(target="cuda", data=data, out="results", tiny=tiny)


@pytest.mark.parametrize("tiny", [False, True])
def test_every_step_is_a_command_that_exists(tiny):
    steps = the_plan("cifar10.npz", tiny).steps(30, True)
    assert sum(step.minutes for step in steps[:4]) < 10, "the first call of ten minutes"
    assert len({step.name for step in steps}) == len(steps)
    for step in steps:
        if step.arguments[:2] == ("-m", "skcc"):
            options = _build_parser().parse_args(step.arguments[2:])
            assert options.device == "cuda"
    training = [step.arguments for step in steps if step.is_training]
    assert len(training) == 2
    assert all(("cuda_graphs=auto" in arguments) != tiny for arguments in training)
    without = the_plan("", tiny).steps(30, True)
    assert len(without) == len(steps) - 2


def test_training_captures_graphs_only_if_the_checks_passed():
    for passed, expected in [(True, "cuda_graphs=auto"), (False, "cuda_graphs=False")]:
        steps = the_plan("cifar10.npz").steps(30, passed)
        assert all(expected in step.arguments for step in steps if step.is_training)


def test_parts_of_a_data_set_are_joined(tmp_path):
    rng = np.random.default_rng(0)
    strips = {f"{split}-{kind}-00": rng.integers(0, 256, (12, 4, 3), dtype=np.uint8)
              for split in ("test", "train") for kind in ("cat", "dog")}  # fmt: skip
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, strip in strips.items():
        Image.fromarray(strip).save(folder / f"{name}.webp", lossless=True)
    joined = join_parts(folder, tmp_path / "out" / "all.npz")
    bunch = datasets.load("cifar10", joined)
    assert bunch.target_names == ["cat", "dog"]
    np.testing.assert_array_equal(bunch.target, [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3)
    expected = np.concatenate([strip.reshape(3, 4, 4, 3) for strip in strips.values()])
    np.testing.assert_array_equal(bunch.images, expected)
    assert join_parts(joined, tmp_path / "other.npz") == joined
    with pytest.raises(ValueError, match="no folder of images named NAME-CLASS-NUMBER"):
        join_parts(tmp_path, tmp_path / "other.npz")


@pytest.mark.long
def test_the_rehearsal_on_a_cpu_does_every_step(tmp_path, capsys):
    rng = np.random.default_rng(0)
    data = tmp_path / "data.npz"
    np.savez(data, images=rng.integers(0, 256, (40, 8, 8, 3), np.uint8), target=np.arange(40) % 2)
    out = tmp_path / "results"
    options = ["--target", "cpu", "--data", str(data), "--out", str(out), "--tiny", "1"]
    assert main(["bench", "gpu", *options]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    failed = {r["step"]: r["output"] for r in records if r["status"] != "done"}
    assert failed == {}
    assert len(records) == 16
    written = lines(out)
    assert {"variants", "step", "predict", "augment"} <= {r.get("bench") for r in written}
    assert written[0]["versions"]["python"] == platform.python_version()
