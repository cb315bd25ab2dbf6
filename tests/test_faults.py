"""Training survives what happens to processes, disks, files and numbers.

What a process may suffer is in `faulty.py`, which runs in a process of its own.
"""

import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from methods_for_tests import METHODS
from PIL import Image

from skcc import ContrastiveClustering
from skcc.augment import NoAugmentation, Views
from skcc.data import Store
from skcc.exceptions import CheckpointWarning, DivergenceWarning, ImageReadError
from skcc.objective import Objective
from skcc.training import engine
from skcc.training.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:batches of"),
]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes as Linux has them")


# -- processes ------------------------------------------------------------------------------


class Server:
    """Runs tasks of `faulty.py`, one after the other."""

    def __init__(self, folder):
        self.folder, self.expected, self.seconds = folder, {}, {}
        self.photos = folder / "photos"
        self.photos.mkdir()
        for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (60, 9, 9))):
            Image.fromarray(pixels.astype(np.uint8)).save(self.photos / f"{i:02}.png")
        self.errors = open(folder / "errors", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("faulty.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip
        self._number = itertools.count()

    def run(self, fault, **task):
        """Status of a process, and its answer if it gave one."""
        out = self.folder / "answer.json"
        out.unlink(missing_ok=True)
        if "folder" not in task:
            task["folder"] = str(self.fresh())
        task |= {"fault": fault, "out": str(out), "photos": str(self.photos)}
        self.process.stdin.write(json.dumps(task, default=str) + "\n")
        self.process.stdin.flush()
        status = self.process.stdout.readline()
        assert status, (self.folder / "errors").read_text()
        answer = json.loads(out.read_text()) if int(status) == 0 else None
        return int(status), answer

    def fresh(self):
        return self.folder / f"run {next(self._number)}"

    def whole(self, scenario):
        """What an uninterrupted run gives, and about how long it takes."""
        if scenario not in self.expected:
            self.run("plain", scenario=scenario)  # warms up
            started = time.monotonic()
            self.expected[scenario] = self.result(scenario)
            self.seconds[scenario] = time.monotonic() - started
        return self.expected[scenario]

    def result(self, scenario, folder=None):
        task = {} if folder is None else {"folder": folder}
        status, answer = self.run("plain", scenario=scenario, **task)
        assert status == 0, (self.folder / "errors").read_text()
        return answer["digest"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("faults"))
    yield server
    server.process.stdin.close()
    assert server.process.wait(timeout=60) == 0
    server.process.stdout.close()
    server.errors.close()


def survive(server, scenario, kills, seed):
    """Kill a run at random moments and go on; each time that it ends, the result is the same."""
    expected = server.whole(scenario)
    moment, folder = random.Random(seed), server.fresh()
    counts = {"kills": 0, "while writing": 0, "ends": 0}
    for _ in range(10 * kills):
        after = moment.uniform(0, server.seconds[scenario])
        status, answer = server.run("plain", scenario=scenario, folder=folder, after=after)
        if status == 0:
            assert answer["digest"] == expected
            counts["ends"] += 1
            shutil.rmtree(folder)
            continue
        assert status == -signal.SIGKILL
        counts["kills"] += 1
        counts["while writing"] += any(folder.glob("*.tmp"))
        if counts["kills"] == kills:
            break
    assert server.result(scenario, folder) == expected
    phases = {"TwoPhases": 2}.get(scenario, 1)
    files = [f"phase-{i}{kind}.pt" for i in range(phases) for kind in (".previous", "")]
    assert sorted(p.name for p in folder.iterdir()) == files
    return counts


@on_linux
@pytest.mark.processes
@pytest.mark.parametrize("scenario", ["CC", "paths"])
def test_killed_at_three_random_moments_and_resumed_is_as_uninterrupted(server, scenario):
    survive(server, scenario, kills=3, seed=0)


@on_linux
@pytest.mark.processes
@pytest.mark.parametrize("method", METHODS, ids=lambda cls: cls.__name__)
def test_killed_in_a_method_of_another_kind(server, method):
    survive(server, method.__name__, kills=3, seed=0)


@on_linux
@pytest.mark.long
@pytest.mark.parametrize("scenario", ["CC", "TCC", "vectors", "paths"])
def test_killed_at_thirteen_random_moments(server, scenario):
    print(scenario, survive(server, scenario, kills=13, seed=1))


# A save calls torch.save, then os.fsync of the file, os.replace, os.fsync of the folder. From the
# second on os.fsync and os.replace come once more before that, for what becomes the one before.
MOMENTS = [("save", 1), ("save", 3), ("replace", 1), ("replace", 4), ("replace", 5)]
MOMENTS += [("fsync", number) for number in (1, 2, 6, 7, 8)]


@on_linux
@pytest.mark.processes
@pytest.mark.parametrize("scenario", ["TCC", "vectors"])
def test_killed_while_it_writes_the_checkpoint(server, scenario):
    expected = server.whole(scenario)
    for place, number in MOMENTS if scenario == "vectors" else MOMENTS[:2]:
        folder = server.fresh()
        status, _ = server.run("killed_at", scenario=scenario, folder=folder, at=[place, number])
        assert status == -signal.SIGKILL, (place, number)
        assert server.result(scenario, folder) == expected, (place, number)
        assert not list(folder.glob("*.tmp"))


@on_linux
@pytest.mark.processes
def test_sigterm_saves_the_last_finished_epoch_and_ends_the_process(server):
    folder, task = server.fresh(), {"scenario": "vectors", "signal": "SIGTERM"}
    _, whole = server.run("signalled", send=False, **task)
    status, _ = server.run("signalled", send=True, folder=folder, **task)
    assert status == -signal.SIGTERM
    said = (server.folder / "errors").read_text()
    assert "phase-0.pt holds 2 epochs, and the same fit goes on from there" in said
    assert [path.name for path in folder.iterdir()] == ["phase-0.pt"]
    assert len(torch.load(folder / "phase-0.pt", weights_only=True)["history"]) == 2
    status, answer = server.run("signalled", send=False, folder=folder, **task)
    assert (status, answer) == (0, whole)


@on_linux
@pytest.mark.processes
def test_ctrl_c_in_a_script_keeps_what_was_learned_and_going_on_is_exact(server):
    folder, task = server.fresh(), {"scenario": "CC", "signal": "SIGINT"}
    _, whole = server.run("signalled", send=False, **task)
    status, answer = server.run("signalled", send=True, folder=folder, **task)
    assert (status, answer["epochs"]) == (0, 2)
    assert len(torch.load(folder / "phase-0.pt", weights_only=True)["history"]) == 2
    assert server.run("signalled", send=False, folder=folder, **task) == (0, whole)


def test_a_handler_of_the_user_and_other_threads_are_left_alone(tmp_path, monkeypatch):
    handlers = []

    def look(batch):
        handlers.append(signal.getsignal(signal.SIGTERM))
        return batch

    def fit(**how):
        handlers.clear()
        ContrastiveClustering(2, augment=look, max_epochs=1, device="cpu", **how).fit(X)
        return set(handlers)

    X = np.random.default_rng(0).normal(size=(20, 4))
    assert fit() == {signal.SIG_DFL}  # nothing to be saved
    assert fit(checkpoint_dir=tmp_path / "1") != {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    signal.signal(signal.SIGTERM, own := lambda number, frame: None)
    try:
        assert fit(checkpoint_dir=tmp_path / "2") == {own}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    monkeypatch.setattr("threading.current_thread", lambda: None)
    assert fit(checkpoint_dir=tmp_path / "3") == {signal.SIG_DFL}


# -- disks and memory -----------------------------------------------------------------------


@on_linux
@pytest.mark.processes
def test_a_full_disk_costs_a_warning_and_not_the_result(server):
    _, whole = server.run("full_disk", scenario="vectors", send=False)
    assert whole["said"] == []
    folder = server.fresh()
    status, answer = server.run("full_disk", scenario="vectors", send=True, folder=folder)
    assert status == 0
    assert answer["digest"] == whole["digest"]
    assert len(answer["said"]) == 3
    for said in answer["said"]:
        assert "phase-0.pt could not be written: [Errno 27] File too large" in said
    # While there was no space, that of the second epoch; after the end, that of the fifth.
    both = ["phase-0.previous.pt", "phase-0.pt"]
    assert answer["on disk"] == [[2, both], [5, both]]
    assert server.run("full_disk", scenario="vectors", send=False, folder=folder)[1] == {
        **whole, "on disk": [[6, both]]
    }  # fmt: skip


@on_linux
@pytest.mark.processes
def test_a_disk_too_small_for_the_cache_is_told_and_nothing_is_left(server):
    cache = server.fresh()
    cache.mkdir()
    status, answer = server.run("full_cache", scenario="paths", cache=cache)
    assert status == 0
    assert "decoded images cannot be kept" in answer["said"]
    assert "File too large" in answer["said"]
    assert not [name for name in answer["left"] if not name.endswith(".json")]
    assert answer["digest"] == server.whole("paths")


@on_linux
@pytest.mark.processes
def test_want_of_memory_is_told_and_loses_no_epoch(server):
    folder = server.fresh()
    _, whole = server.run("no_memory", scenario="vectors", send=False)
    status, answer = server.run("no_memory", scenario="vectors", send=True, folder=folder)
    assert status == 0
    assert "a step on a batch of 20 samples needs more memory" in answer["said"]
    assert "smaller batch_size" in answer["said"]
    assert answer["fitted"] == []
    assert answer["on disk"] == [2, ["phase-0.pt"]]
    assert server.run("no_memory", scenario="vectors", send=False, folder=folder)[1] == whole


# -- checkpoints and images that changed ----------------------------------------------------


@pytest.fixture
def two(tmp_path):
    """A checkpoint of two epochs, and that of one epoch before it."""
    c = Checkpoint(tmp_path / "phase-0.pt", {"rate": 0.1}, 0)
    for epoch in (1, 2):
        c.save({"w": torch.full((500,), float(epoch)), "history": [{"loss": 0.5}] * epoch})
    return c


def read_again(c):
    return Checkpoint(c.path, {"rate": 0.1}, 0).load()


def test_the_one_before_is_kept(two):
    assert len(read_again(two)["history"]) == 2
    two.path.unlink()  # as if killed between two renames
    assert len(read_again(two)["history"]) == 1


def test_any_damage_is_seen_and_the_one_before_is_used(two):
    whole, chance = two.path.read_bytes(), random.Random(0)
    damaged = [whole[:length] for length in (0, 1, 39, 40, 41, 1000, len(whole) - 1)]
    damaged += [whole + b"\0", whole[1:], bytes(len(whole))]
    for _ in range(60):
        bit, flipped = chance.randrange(8 * len(whole)), bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for contents in damaged:
        two.path.write_bytes(contents)
        with pytest.warns(CheckpointWarning, match=r"phase-0\.pt is no checkpoint .* Going on"):
            assert len(read_again(two)["history"]) == 1
    c = Checkpoint(two.path, {"rate": 0.1}, 0)
    with pytest.warns(CheckpointWarning):
        c.load()
    c.save({"history": [{}] * 3})  # does not put the damaged one in the place of the good one
    assert len(read_again(two)["history"]) == 3
    two.path.unlink()
    assert len(read_again(two)["history"]) == 1


def test_both_damaged_is_an_error_that_names_them(two):
    for path in (two.path, two.previous):
        path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"phase-0\.pt is no .*phase-0\.previous\.pt is no .*Del"):
        read_again(two)


def test_other_versions(two, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.1+cu999")
    with pytest.warns(CheckpointWarning, match=r"saved with torch 2.*this is torch 9\.1: training"):
        assert len(read_again(two)["history"]) == 2
    monkeypatch.setattr("skcc.training.checkpoint.__version__", "99.0")
    with pytest.raises(ValueError, match=r"the version of skcc was '.*' and is '99\.0'"):
        read_again(two)
    monkeypatch.setattr("skcc.training.checkpoint._VERSION", 77)
    with pytest.raises(ValueError, match="has version 3; this skcc reads 77"):
        read_again(two)


def test_ctrl_c_while_writing_leaves_the_old_file(two, monkeypatch):
    def interrupted(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("skcc.atomic.os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        two.save({"w": torch.zeros(500)})
    assert len(read_again(two)["history"]) == 2


@pytest.mark.filterwarnings("ignore:max_seconds=")
def test_images_that_vanish_or_change_are_told(tmp_path, shapes):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(shapes[0][:60]):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    model = ContrastiveClustering(
        3, max_epochs=3, batch_size=20, random_state=0, image_size=8, device="cpu",
        checkpoint_dir=tmp_path / "run", max_seconds=1e-6,
    )  # fmt: skip
    paths = sorted(folder.iterdir())
    model.fit(paths)
    assert model.n_iter_ == 1
    whole = paths[7].read_bytes()
    Image.fromarray(255 - shapes[0][7]).save(paths[7])
    with pytest.raises(ValueError, match=r"another run: X was changed: 60 samples .* as before"):
        model.fit(paths)
    paths[7].unlink()
    with pytest.raises(ImageReadError, match=r"07\.png"):
        model.fit(paths)
    with pytest.raises(ValueError, match=r"another run: X was 60 samples .* and is 59 samples"):
        model.fit(folder)
    paths[7].write_bytes(whole)
    assert model.fit(folder).n_iter_ == 2


# -- numbers that are not finite ------------------------------------------------------------


class Line(Objective):
    """Fits the second column of vectors from the first; may come upon a batch that spoils it."""

    def __init__(self, spoilt=(), how="term"):
        super().__init__()
        self.line, self.spoilt, self.how, self.batches = torch.nn.Linear(1, 1), spoilt, how, []
        torch.nn.init.zeros_(self.line.weight)
        torch.nn.init.zeros_(self.line.bias)

    def forward(self, views, index):
        self.batches.append(index.tolist())
        error = (self.line(views[0][:, :1]) - views[0][:, 1:]) ** 2
        terms = {"squared": error.mean(), "bias": 1e-3 * self.line.bias.abs().sum()}
        if index.tolist() in self.spoilt:
            if self.how == "term":
                terms["squared"] = terms["squared"] * torch.nan
            else:  # 0 with a gradient that is not a number
                terms["bias"] = terms["bias"] + (0 * self.line.bias).sqrt().sum()
        return terms

    def assign(self, x):
        return self.line(x[:, :1])


def train(objective, folder=None, report=lambda *_: False):
    x = torch.linspace(-1, 1, 50)
    checkpoint = folder and Checkpoint(folder / "phase-0.pt", {"a": 1}, 0)
    return engine.train(
        objective, Store(torch.stack([x, 3 * x + 1], dim=1)), Views(NoAugmentation(), None),
        epochs=5, batch_size=25, learning_rate=0.1, weight_decay=0.0, schedule="one-cycle", seed=0,
        report=report, checkpoint=checkpoint,
    ).history  # fmt: skip


@pytest.fixture(scope="module")
def batches():
    """Those of the five epochs, two in each."""
    objective = Line()
    train(objective)
    return objective.batches


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_epoch_that_fails_is_repeated_with_other_draws(batches, epoch):
    spoilt, plain = Line([batches[2 * epoch]]), Line()
    with pytest.warns(
        DivergenceWarning, match=rf"'squared' term .* nan in epoch {epoch + 1}; the epoch is rep"
    ):
        history = train(spoilt)
    before = 2 * epoch
    assert spoilt.batches[: before + 2] == batches[: before + 2]
    assert spoilt.batches[before + 2 : before + 4] != batches[before : before + 2]
    assert spoilt.batches[before + 4 :] == batches[before + 2 :]
    assert history[:epoch] == train(plain)[:epoch]
    assert all(np.isfinite(list(terms.values())).all() for terms in history)


def test_weights_that_the_last_step_of_an_epoch_spoils_are_seen_in_time(batches):
    spoilt = Line([batches[5]], how="gradient")
    with pytest.warns(DivergenceWarning, match="the largest weight became nan in epoch 3"):
        history = train(spoilt)
    assert len(history) == 5
    assert torch.isfinite(spoilt.line.weight).all()


@pytest.mark.filterwarnings("ignore::skcc.exceptions.DivergenceWarning")
def test_a_repeated_epoch_is_repeated_alike_whenever_training_was_interrupted(batches, tmp_path):
    whole = Line([batches[4]])
    expected = train(whole)
    for epoch in range(1, 5):
        folder = tmp_path / str(epoch)
        train(Line([batches[4]]), folder, report=lambda history, _, e=epoch: len(history) == e)
        resumed = Line([batches[4]])
        assert train(resumed, folder) == expected
        assert torch.equal(resumed.line.weight, whole.line.weight)


@pytest.mark.filterwarnings("ignore::skcc.exceptions.DivergenceWarning")
@pytest.mark.parametrize("stops", [(), (3,), (2, 4)])
def test_the_second_time_stops_and_the_last_good_epoch_is_kept(batches, tmp_path, stops):
    for stop in stops:  # the chance that was taken is not given again
        train(Line([batches[2], batches[8]]), tmp_path, lambda h, _, s=stop: len(h) == s)
    message = r"'squared' term .* nan in epoch 5, although epoch 2 was repeated"
    with pytest.raises(FloatingPointError, match=message):
        train(Line([batches[2], batches[8]]), tmp_path)
    state = Checkpoint(tmp_path / "phase-0.pt", {"a": 1}, 0).load()
    assert len(state["history"]) == 4
    assert all(torch.isfinite(weight).all() for weight in state["objective"].values())


def test_views_that_are_not_numbers_at_times(shapes, tmp_path):
    calls = []

    def views(images):
        calls.append(1)
        return images * (torch.nan if len(calls) == 9 else 1)  # in the second epoch

    model = ContrastiveClustering(
        3, augment=views, max_epochs=3, batch_size=40, random_state=0, device="cpu",
        checkpoint_dir=tmp_path, readout="kmeans",
    )  # fmt: skip
    with pytest.warns(DivergenceWarning, match="'instance' term .* in epoch 2;"):
        model.fit(shapes[0])
    assert model.n_iter_ == 3
    assert all(np.isfinite(weights).all() for weights in model.weights_.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = ContrastiveClustering(**model.get_params()).fit(shapes[0])
    np.testing.assert_array_equal(loaded.labels_, model.labels_)
