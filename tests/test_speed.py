"""Benchmarks run everywhere at tiny sizes, and what they compare is the same thing."""

import json
import math
import re

import pytest
import torch
from torch.nn import functional as F

from skcc import datasets
from skcc.benchmarks import baselines, timing
from skcc.benchmarks.goals import ROWS
from skcc.benchmarks.workload import Workload
from skcc.cli import main
from skcc.losses import cluster_contrast, nt_xent

pytestmark = pytest.mark.experiments

TINY = {
    "augment": "--size 16 --batch 4 --repeats 1",
    "losses": "--clusters 3 4 --batches 8 --repeats 1",
    "decode": "--n 20 --sides 16 40 --stored 20 --repeats 1",
    "embed": "--n 6 --network shufflenet_v2_x0_5 --size 32 --file_side 40 --repeats 1",
    "step": "--side 8 --batch 8 --steps 2 --repeats 1",
    "predict": "--n 40 --side 8 --repeats 1",
    "scaling": "--n 16 --batch 8 --repeats 1",
    "import": "--repeats 1",
    "programs": "--most 1 --epochs 1 --repeats 1",
    "readout": "--n 60 --epochs 1",
    "graphs": "--methods iic,dec --backbone conv4 --side 8 --batch 4 --steps 2 --repeats 1",
    "variants": "--backbone conv4 --side 8 --batch 4 --steps 2 --repeats 1",
}


def bench(capsys, name, *options):
    threads = torch.get_num_threads()
    assert main(["bench", name, *options]) == 0
    torch.set_num_threads(threads)
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("name", TINY)
def test_each_prints_json_lines_of_finite_positive_numbers(capsys, name):
    options = TINY[name] + (" --precision bf16" if name == "step" else "")
    records = bench(capsys, name, *options.split())
    assert records
    for record in records:
        assert record["bench"] == name
        assert record["threads"] == 1
        assert record["versions"].keys() >= {"python", "skcc", "torch"}
        tables = [v.values() for v in record.values() if isinstance(v, dict)]
        found = [v for values in (record.values(), *tables) for v in values]
        numbers = [v for v in found if isinstance(v, float)]
        assert numbers
        assert all(math.isfinite(v) and v > 0 for v in numbers)
    for row in ROWS:
        if row.name == name and "method" not in row.options:
            assert all(math.isfinite(goal.value(records)) for goal in row.goals)


def test_the_shares_of_a_step_are_those_of_a_whole(capsys):
    (record,) = bench(capsys, "step", *TINY["step"].split())
    assert set(record["shares"]) == {"data", "augmentation", "forward", "backward", "optimizer"}
    assert sum(record["shares"].values()) == pytest.approx(1)
    assert 300 < record["operations"] < 3000


def test_the_step_of_twins_is_held_against_that_of_contrastive(capsys):
    records = bench(capsys, "step", "--method", "twin", *TINY["step"].split())
    assert [r["method"] for r in records] == ["twin", "twin, symmetric"]
    # One direction: a pass with gradient and one without, against two with.
    arithmetic = [r["gigaflops"] / r["images_per_second"] for r in records]
    assert arithmetic[0] < arithmetic[1]
    assert all(r["engine_over_contrastive"] > 0 for r in records)
    (row,) = (row for row in ROWS if row.options == {"method": "twin"})
    ratios = [r["engine_over_contrastive"] for r in records]
    assert [goal.value(records) for goal in row.goals] == ratios


def test_variants_begin_with_the_published_recipe(capsys):
    names = [r["variant"] for r in bench(capsys, "variants", *TINY["variants"].split())]
    assert names == [
        "views by Pillow, fp32, masks", "fp32", "+ channels last", "+ one forward, joint statistics"
    ]  # fmt: skip


@pytest.mark.long
def test_memory_of_predict_does_not_grow_with_the_files(capsys):
    (record,) = bench(capsys, "memory", "--n", "2000")
    few, many = record["predict_mib"].values()
    assert many < few + 20
    assert record["fit_mib"] < 1500


@pytest.mark.parametrize("n", [4, 9])
def test_the_plain_losses_are_oracles(n):
    torch.manual_seed(0)
    a, b = (F.normalize(torch.randn(n, 5, dtype=torch.float64), dim=1) for _ in range(2))
    p, q = (F.softmax(torch.randn(n, 6, dtype=torch.float64), dim=1) for _ in range(2))
    torch.testing.assert_close(nt_xent(a, b, temperature=0.5), baselines.masked_nt_xent(a, b, 0.5))
    torch.testing.assert_close(
        cluster_contrast(p, q, temperature=0.7), baselines.broadcast_cluster_contrast(p, q, 0.7)
    )


def test_the_bare_loop_trains_what_the_engine_trains():
    """Same losses after an epoch with the same draws, so the ratio compares like with like."""
    sizes = {"backbone": "conv4", "side": 8, "batch": 8, "n": 32, "clusters": 3, "device": "cpu"}
    workloads = [Workload(**sizes) for _ in range(2)]
    weights = [w.objective.instance_head[0].weight.clone() for w in workloads]
    torch.testing.assert_close(*weights)
    workloads[0].train_epoch()
    baselines.plain_epoch(workloads[1])
    moved = [
        (w.objective.instance_head[0].weight - before).norm()
        for w, before in zip(workloads, weights, strict=True)
    ]
    assert all(m > 0 for m in moved)
    assert 0.2 < moved[0] / moved[1] < 5  # the engine's step size rises and falls


def test_medians_take_turns_and_drop_the_first_call():
    calls = []
    candidates = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = timing.medians(candidates, repeats=2, device=torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert set(times) == {"a", "b"}


def test_shares_of_what_the_device_can_do(capsys):
    (record,) = bench(capsys, "step", "--ceilings", *TINY["step"].split())
    assert 0.1 < record["ceilings"]["gigaflops"] < 1e5
    assert 0.1 < record["ceilings"]["gigabytes_per_second"] < 1e4
    share = record["gigaflops"] / record["ceilings"]["gigaflops"]
    assert record["share_of_gigaflops"] == pytest.approx(share)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_quality_tells_when_accuracies_were_reached(capsys, monkeypatch):
    pytest.importorskip("sklearn.callback")
    options = ["--variants", "half", "joint", "--seeds", "0", "1"]
    monkeypatch.setattr("skcc.training.settings.auto_epochs", lambda *_: 3)
    some = datasets.load("digits", n_images=200)
    monkeypatch.setattr("skcc.datasets.load", lambda *_: some)
    records = bench(capsys, "quality", *options)
    assert [(r["variant"], r["seed"], r["epochs"]) for r in records] == [
        ("half", 0, 2), ("half", 1, 2), ("joint", 0, 3), ("joint", 1, 3)
    ]  # fmt: skip
    for record in records:
        assert 0.1 < record["acc"] < 0.9
        assert record["cpu_seconds_to"] == {"0.90": None, "0.95": None, "0.97": None}
        assert 0 < record["cpu_seconds"] < 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["graphs", "--methods", "iic,best"],
            r"no methods \['best'\]; there are contrastive, twin",
        ),
        (["quality", "--variants", "best"], r"no variants \['best'\]"),
        (["quality", "--data", "folder"], "the data set 'folder' needs --root"),
        (["step", "--method", "best"], "no method 'best'; there are contrastive, twin"),
        (["step", "--device", "cuda:99"], "device='cuda:99' cannot be used here"),
    ],
)
def test_errors_are_one_line(capsys, options, message):
    assert main(["bench", *options]) == 1
    err = capsys.readouterr().err
    assert re.search(message, err)
    assert err.count("\n") == 1
