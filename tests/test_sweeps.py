"""Sweeps that continue, ablations, training within a budget, and rows of scikit-learn."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.utils import Bunch

from skcc import ContrastiveClustering, datasets
from skcc.backbones import BACKBONES
from skcc.cli import main
from skcc.experiments import recipes, records, runs, sweeps
from skcc.experiments.classical import CLASSICAL, pixels
from skcc.methods.contrastive import ContrastiveObjective
from skcc.metrics import clustering_scores

pytestmark = [
    pytest.mark.experiments,
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
    # Pictures of three kinds are not joined by a graph of ten neighbours.
    pytest.mark.filterwarnings("ignore:Graph is not fully connected"),
    pytest.mark.filterwarnings("ignore:the number of connected components"),
]
QUICK = {"max_epochs": 2, "batch_size": 40, "image_size": 8, "readout": "head"}


@pytest.fixture
def bunch(shapes):
    images, kinds = shapes
    return Bunch(name="shapes", images=images, target=kinds, target_names=list("abc"),
                 unlabeled=None)  # fmt: skip


def table(bunch, out, methods=("contrastive",), seeds=2, **parameters):
    return list(sweeps.table(bunch, methods, seeds=seeds, out=out, parameters=QUICK | parameters))


# -- sweeps ---------------------------------------------------------------------------------


def test_a_record_of_each_row_and_seed(bunch, tmp_path):
    methods = ("contrastive", "twin", *CLASSICAL)
    made = table(bunch, tmp_path, methods, seeds=2)
    assert records.read(tmp_path) == json.loads(json.dumps(made))
    assert [(r["row"], r["parameters"]["random_state"]) for r in made] == [
        (row, seed) for seed in range(2) for row in methods
    ]
    model = ContrastiveClustering(3, random_state=1, **QUICK).fit(bunch.images)
    same = next(r for r in made if r["row"] == "contrastive" and "1" in str(r["parameters"]))
    ours = next(
        r for r in made if r["row"] == "contrastive" and r["parameters"]["random_state"] == 1
    )
    assert {k: ours[k] for k in ("acc", "nmi", "ari")} == clustering_scores(
        bunch.target, model.labels_
    )
    assert same["dataset"] == "shapes"
    assert ours["clusters"] == len(set(model.labels_))
    assert ours["image_forwards"] == 2 * 120 * 2  # two views of 3 whole batches in 2 epochs
    assert ours["kmeans"]["acc"] > 0.3
    assert "checkpoint_dir" not in ours["parameters"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shapes.jsonl"]


def test_nothing_is_made_twice(bunch, tmp_path):
    assert len(table(bunch, tmp_path, ("contrastive", "kmeans"), seeds=1)) == 2
    assert len(table(bunch, tmp_path, ("contrastive", "kmeans"), seeds=2)) == 2
    assert table(bunch, tmp_path, ("contrastive", "kmeans"), seeds=2) == []
    assert table(bunch, tmp_path, seeds=1, device="cpu") == []  # where, is not what
    assert len(table(bunch, tmp_path, seeds=1, entropy_weight=0.5)) == 1
    assert len(table(bunch, tmp_path, seeds=1, n_clusters=4)) == 1


@pytest.mark.long
def test_a_killed_sweep_continues(tmp_path):
    """A real process, killed in mid-training: what is on record stays, the rest is the same."""
    arguments = ["reproduce", "table", "--dataset", "digits", "--images", "60", "--seeds", "2"]
    arguments += ["--set", "max_epochs=20", "batch_size=30"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main([*arguments, "--out", str(whole)]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "skcc", *arguments, "--out", str(cut)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    process.stdout.readline()  # the first run is done, the second has begun
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(records.read(cut)) == 1
    assert main([*arguments, "--out", str(cut)]) == 0
    scores = [[{k: r[k] for k in ("acc", "nmi", "score")} for r in records.read(folder)]
              for folder in (whole, cut)]  # fmt: skip
    assert len(scores[0]) == 2
    assert scores[0] == scores[1]


@pytest.mark.filterwarnings("ignore:max_seconds=")
def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(bunch, tmp_path, monkeypatch):
    run = sweeps._Run("table", "contrastive", "contrastive", bunch, QUICK | {"random_state": 0})
    part = {"checkpoint_dir": run.folder(tmp_path), "max_seconds": 1e-6}
    assert run.execute(part)["epochs"] == 1
    (record,) = table(bunch, tmp_path, seeds=1)
    assert record["continued"] is True
    assert record["epochs"] == 2
    (straight,) = table(bunch, tmp_path / "other", seeds=1)
    assert record["score"] == straight["score"]
    assert "continued" not in straight


def test_ctrl_c_leaves_no_record_of_half_a_training(bunch, tmp_path, monkeypatch):
    (straight,) = table(bunch, tmp_path / "straight", seeds=1)
    steps = iter(range(99))
    monkeypatch.setattr(ContrastiveObjective, "after_step", lambda self: stop_at(4, next(steps)))
    with pytest.raises(KeyboardInterrupt, match="the same command goes on from it"):
        table(bunch, tmp_path / "cut", seeds=1)
    assert not (tmp_path / "cut" / "shapes.jsonl").exists()
    monkeypatch.undo()
    (continued,) = table(bunch, tmp_path / "cut", seeds=1)
    assert (continued["score"], continued["epochs"]) == (straight["score"], 2)
    assert continued["continued"] is True


def stop_at(step, now):
    if now == step:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        ("augmentation", {"both": (2, 1, 1, "auto"), "one": (1, 1, 1, "auto"),
                          "none": (0, 1, 1, "auto")}),
        ("heads", {"both": (2, 1, 1, "auto"), "instance": (2, 1, 0, "kmeans"),
                   "cluster": (2, 0, 1, "auto")}),
    ],
)  # fmt: skip
def test_ablations_vary_one_thing(bunch, tmp_path, monkeypatch, study, expected):
    seen = []
    run = runs.run

    def watched(method, bunch, parameters):
        seen.append(recipes.make_estimator(method, parameters))
        return run(method, bunch, parameters)

    monkeypatch.setattr(runs, "run", watched)
    parameters = QUICK | {"readout": "auto"}
    made = list(sweeps.ablation(study, bunch, seeds=1, out=tmp_path, parameters=parameters))
    found = {}
    for record, model in zip(made, seen, strict=True):
        found[record["row"]] = (
            model.augmented_views, model.instance_weight, model.cluster_weight, model.readout
        )  # fmt: skip
    assert found == expected
    ((title, rows),) = records.tables(made)
    assert f", {study} (" in title
    assert all("augmented_views" not in row["settings"] for row in rows)  # the row says it


def test_backbones_of_the_ablation_exist():
    for settings in sweeps.ABLATIONS["backbones"].values():
        assert settings["backbone"] in BACKBONES


def test_errors_come_before_the_first_run(bunch, tmp_path):
    with pytest.raises(
        ValueError, match="no method magic; there are adc, agglomerative, autoencoder, contrastive"
    ):
        table(bunch, tmp_path, ("kmeans", "magic"))
    with pytest.raises(ValueError, match="no parameter 'colour'"):
        table(bunch, tmp_path, ("kmeans", "contrastive"), colour=3)
    with pytest.raises(ValueError, match="no settings for contrastive on shapes"):
        list(sweeps.table(bunch, ["kmeans", "contrastive"], seeds=1, out=tmp_path,
                             parameters={}, recipe="paper"))  # fmt: skip
    assert not list(tmp_path.iterdir())


# -- rows of scikit-learn -------------------------------------------------------------------


def test_k_means_of_pixels_is_scikit_learns(bunch):
    record = runs.run("kmeans", bunch, {"random_state": 3})
    X = bunch.images.reshape(120, -1) / np.float32(255)
    labels = KMeans(3, n_init=10, random_state=3).fit_predict(X)
    assert record["acc"] == clustering_scores(bunch.target, labels)["acc"]
    assert record["image_forwards"] == 0


@pytest.mark.parametrize("method", CLASSICAL)
def test_classical_rows_take_files_and_find_what_is_easy(method, tmp_path):
    """A band at three places, which anything can tell apart."""
    rng = np.random.default_rng(0)
    for kind in range(3):
        (tmp_path / str(kind)).mkdir()
        for i in range(20):
            image = 30 + rng.integers(0, 20, (40, 50))
            image[13 * kind : 13 * kind + 13] += 150
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / str(kind) / f"{i}.png")
    bunch = datasets.load("folder", tmp_path)
    record = runs.run(method, bunch, {"random_state": 0})
    assert record["acc"] == 1
    assert pixels(bunch.images).shape == (60, 32 * 40)
    bunch.target = None
    with pytest.raises(ValueError, match=f"{method} needs n_clusters"):
        runs.run(method, bunch, {"random_state": 0})
    assert runs.run(method, bunch, {"n_clusters": 3})["clusters"] == 3


# -- within a budget ------------------------------------------------------------------------


def train_for(minutes, bunch, out, **parameters):
    return sweeps.train_for_minutes(
        minutes, bunch, out=out, parameters={"batch_size": 40} | parameters
    )


def test_calls_in_a_row_make_the_run_of_one(bunch, tmp_path):
    whole = train_for(10, bunch, tmp_path / "whole", max_epochs=4)
    assert whole["epochs"] == whole["planned_epochs"] == 4
    for call in range(1, 5):
        part = train_for(1e-9, bunch, tmp_path / "parts", max_epochs=4)
        assert (part["epochs"], len(part["calls"])) == (call, call)
        assert (tmp_path / "parts" / "shapes.jsonl").exists() == (call == 4)
    for name in ("acc", "nmi", "ari", "score", "kmeans"):
        assert part[name] == whole[name]
    assert part["seconds"] == pytest.approx(sum(part["calls"]), abs=0.02)
    assert train_for(1e-9, bunch, tmp_path / "parts", max_epochs=4) == json.loads(json.dumps(part))
    assert len(records.read(tmp_path / "parts")) == 1
    ((_, rows),) = records.tables(records.read(tmp_path / "parts"))
    assert rows[0]["settings"] == "batch_size=40 max_epochs=4"


@pytest.mark.parametrize(
    ("n", "n_unlabeled", "seconds"), [(400, 0, 4), (400, 1000, 14), (8000, 0, 80 + 8)]
)
def test_time_per_epoch_is_that_of_its_steps_and_of_what_follows_them(
    bunch, monkeypatch, n, n_unlabeled, seconds
):
    """A clock that knows what a fit costs: 5 s whatever happens, .5 s a step, 40 s to warm up.

    Of many images, .001 s for each come on top whenever 32 steps are done.
    """
    assert clocked_seconds_per_epoch(bunch, monkeypatch, n, n_unlabeled) == pytest.approx(seconds)


@pytest.mark.parametrize(("slow", "seconds"), [(1, 4), (2, 13 / 2)])
def test_a_pilot_that_was_disturbed_misleads_little(bunch, monkeypatch, slow, seconds):
    """One of its fits, which take 13 and 21 s otherwise, takes thrice as long."""
    found = clocked_seconds_per_epoch(bunch, monkeypatch, 400, 0, slow=slow)
    assert found == pytest.approx(seconds)


def test_time_per_epoch_is_the_mean_over_two_layers(bunch, monkeypatch):
    """The second layer, which has every other epoch, takes thrice as long as the first."""
    assert clocked_seconds_per_epoch(bunch, monkeypatch, 400, 0, second=3) == pytest.approx(8)


def clocked_seconds_per_epoch(bunch, monkeypatch, n, n_unlabeled, slow=None, second=1):
    clock, fits = [0.0, 40.0], []

    class Fake:
        def __init__(self, epochs):
            self.epochs, self.settings_ = epochs, {"batch_size": 50}

        def fit(self, images):
            steps = -(-len(images) // 50)
            between = 0.001 * len(images) * -(-self.epochs // -(-32 // steps)) if n > 400 else 0
            epochs = -(-self.epochs // 2) + second * (self.epochs // 2)
            seconds = 5.0 + 0.5 * epochs * steps + between
            clock[0] += clock[1] + seconds * (3 if len(fits) == slow else 1)
            clock[1] = 0.0
            fits.append(self)
            return self

    monkeypatch.setattr(recipes, "make_estimator", lambda _, asked: Fake(asked["max_epochs"]))
    monkeypatch.setattr(sweeps.time, "monotonic", lambda: clock[0])
    bunch.images = np.zeros((n, 4, 4), np.uint8)
    bunch.target = None
    bunch.unlabeled = np.zeros((n_unlabeled, 4, 4), np.uint8) if n_unlabeled else None
    asked = {"batch_size": 50, "random_state": 0}
    run = sweeps._Run("table", "contrastive", "contrastive", bunch, asked)
    return sweeps._seconds_per_epoch(run)


def test_a_plan_is_settled_by_the_first_call(bunch, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "_seconds_per_epoch", lambda run: 10.0)
    first = train_for(0.5, bunch, tmp_path)
    monkeypatch.setattr(sweeps, "_seconds_per_epoch", lambda run: 1e-3)
    assert first["planned_epochs"] == 2  # .9 of 30 s
    second = train_for(0.5, bunch, tmp_path)
    assert second["planned_epochs"] == 2


def test_each_row_of_a_table_gets_the_epochs_that_fit_into_the_time(bunch, tmp_path, monkeypatch):
    per_epoch = {"contrastive": 5.0, "dec": 10.0}
    monkeypatch.setattr(sweeps, "_seconds_per_epoch", lambda run: per_epoch[run.method])

    def made(minutes):
        asked = {"batch_size": 40, "image_size": 8, "readout": "head"}
        methods = ("contrastive", "dec", "kmeans")
        return list(sweeps.table(bunch, methods, seeds=1, out=tmp_path, parameters=asked,
                                 minutes=minutes))  # fmt: skip

    first = made(0.5)
    # In .9 of 30 s; two phases of two epochs.
    assert [r.get("planned_epochs") for r in first] == [5, 4, None]
    assert [r.get("epochs") for r in first] == [5, 4, None]
    assert [r.get("minutes") for r in first] == [0.5, 0.5, None]
    assert made(0.5) == []
    assert not (tmp_path / "unfinished").exists()
    second = made(1e-9)  # neither a row of another time, nor one that is left unfinished
    assert [(r["epochs"], r["minutes"]) for r in second] == [(1, 1e-9), (1, 1e-9)]
    ((_, rows),) = records.tables(records.read(tmp_path))
    shown = {row["settings"] for row in rows if "CC" in row["row"]}
    assert {text.split(" readout")[0] for text in shown} == {
        "batch_size=40 image_size=8 minutes=0.5", "batch_size=40 image_size=8 minutes=1e-09",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "used"), [*(("dec", used) for used in records.OTHER_READOUTS), ("dccm", "head")]
)
def test_scores_by_other_readouts_are_those_of_fits_with_them(bunch, method, used):
    """The same seed trains the same network, whatever reads clusters off its features."""
    asked = {"max_epochs": 2, "batch_size": 40, "image_size": 8, "random_state": 3}
    record = runs.run(method, bunch, asked | {"readout": used})
    assert record[used] is None
    for readout in {*records.OTHER_READOUTS} - {used}:
        other = runs.run(method, bunch, asked | {"readout": readout})
        assert record[readout] == {name: other[name] for name in ("acc", "nmi", "ari")}


def test_no_score_by_a_head_that_there_is_not(bunch):
    record = runs.run("autoencoder", bunch, QUICK | {"readout": "auto"})
    assert record["head"] is None
    assert record["kmeans"]["acc"] > 0.3


def test_a_run_is_finished_after_its_last_phase(bunch, tmp_path):
    asked = {"batch_size": 40, "max_epochs": 1, "image_size": 8, "readout": "head"}
    for call in range(1, 3):
        part = sweeps.train_for_minutes(1e-9, bunch, method="dec", out=tmp_path, parameters=asked)
        assert (part["epochs"], part["planned_epochs"]) == (call, 2)
        assert (tmp_path / "shapes.jsonl").exists() == (call == 2)


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_time_must_be_positive(bunch, tmp_path, minutes):
    with pytest.raises(ValueError, match="minutes must be a finite number > 0"):
        train_for(minutes, bunch, tmp_path)
    with pytest.raises(ValueError, match="minutes must be a finite number > 0"):
        list(sweeps.table(bunch, ["dec"], seeds=1, out=tmp_path, parameters={}, minutes=minutes))


@pytest.mark.data
@pytest.mark.long
def test_cifar10_end_to_end_on_2000_images(real_images, tmp_path, capsys):
    strips = sorted((real_images / "cifar10").glob("test-*-00.webp"))
    images = np.concatenate([np.asarray(Image.open(s).convert("RGB")).reshape(-1, 32, 32, 3)
                             for s in strips])  # fmt: skip
    target = np.repeat([s.stem.split("-")[1] for s in strips], 500)
    np.savez(tmp_path / "cifar10.npz", images=images, target=target)
    root = str(tmp_path / "cifar10.npz")
    arguments = ["reproduce", "cifar10", "--root", root, "--images", "2000"]
    arguments += ["--out", str(tmp_path / "results"), "--set", "max_epochs=3", "image_size=16"]
    assert main([*arguments, "--minutes", "60"]) == 0  # never reached, however slow the machine
    record = json.loads(capsys.readouterr().out)
    assert record["dataset"] == "cifar10"
    assert record["n"] == 2000
    assert record["settings"]["augment"] == "natural-wide"
    assert record["acc"] > 0.13  # ten classes
    assert main(["table", str(tmp_path / "results")]) == 0
    shown = capsys.readouterr().out
    assert "CC (contrastive)" in shown
    assert ".790" in shown
