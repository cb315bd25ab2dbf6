"""Several processes against one, and what becomes of them when one is lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from PIL import Image

from skcc import ContrastiveClustering, distributed

SCRIPT = Path(ranks.__file__)
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo"),
]


def environment(**more):
    path = os.pathsep.join([str(Path(distributed.__file__).parents[1]), str(SCRIPT.parent)])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def fill(folder, shapes):
    """What the tasks work on."""
    (folder / "files").mkdir(parents=True)
    np.save(folder / "pictures.npy", shapes[0])
    for i, picture in enumerate(shapes[0][:40]):
        Image.fromarray(picture).save(folder / "files" / f"{i:02}.png")
    whole = (folder / "files" / "07.png").read_bytes()
    (folder / "files" / "07.png").write_bytes(whole[:60])
    ranks.resumed(folder / "half-done", 2)
    return folder


def ranks_of(folder, world):
    """Start a group by hand; the processes, not yet ended."""
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder)],
            env=environment(RENDEZVOUS=f"file://{folder}/meet", MY_RANK=str(rank),
                            MY_WORLD=str(world)),
        )
        for rank in range(world)
    ]  # fmt: skip


def once_per_run(tmp_path_factory, name, make):
    """A folder that the first worker of a test run makes, and others wait for."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        folder = tmp_path_factory.mktemp(name)
        make(folder)
        return folder
    folder = tmp_path_factory.getbasetemp().parent / f"{name}-{run}"
    ended = folder.with_suffix(".ended")
    try:
        folder.mkdir()
    except FileExistsError:
        while not ended.exists():
            time.sleep(0.2)
        assert ended.read_text() == "well", f"the processes of {name} failed in another worker"
        return folder
    how = "badly"
    try:
        make(folder)
        how = "well"
    finally:
        ended.with_suffix(".partial").write_text(how)
        os.replace(ended.with_suffix(".partial"), ended)
    return folder


class Found(list):
    """What each rank found, and where."""

    def __init__(self, folder, world):
        super().__init__(
            torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)
        )
        self.folder = folder


@pytest.fixture(scope="session")
def two(tmp_path_factory, shapes):
    """What two processes found, that torchrun started."""

    def make(folder):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   "--nproc-per-node", "2", str(SCRIPT), str(fill(folder, shapes))]  # fmt: skip
        subprocess.run(command, check=True, env=environment(), timeout=540)

    folder = once_per_run(tmp_path_factory, "two", make)
    return Found(folder, 2)


@pytest.fixture(scope="session")
def three(tmp_path_factory, shapes):
    """What three processes found, in a group of the script's own."""

    def make(folder):
        started = ranks_of(fill(folder, shapes), 3)
        assert [process.wait(timeout=540) for process in started] == [0, 0, 0]

    folder = once_per_run(tmp_path_factory, "three", make)
    return Found(folder, 3)


@pytest.fixture(scope="session")
def one(tmp_path_factory, shapes):
    """What a process finds by itself; a function of the name of the task."""
    folder, found = fill(tmp_path_factory.mktemp("one"), shapes), {}

    def of(task):
        if task not in found:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[task] = getattr(ranks, task)(folder)
        return found[task]

    return of


@pytest.fixture(params=["two", "three"])
def several(request):
    return request.getfixturevalue(request.param)


def largest_difference(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item() for name in b)


STEPS = [
    "steps_contrastive", "steps_of_muon", "steps_of_pairs", "steps_twin", "steps_unlabeled",
    "steps_of_two_samples",
]  # fmt: skip


@pytest.mark.parametrize("task", STEPS)
def test_parameters_after_steps_are_those_of_one_process(several, one, task):
    alone = one(task)
    # Statistics of two rows, which are nearly the same, magnify what rounding leaves.
    allowed = 1e-9 if task in ("steps_of_two_samples", "steps_of_muon") else 1e-12
    for found in several:
        assert found[task]["state"].keys() == alone["state"].keys()
        assert largest_difference(found[task]["state"], alone["state"]) < allowed
        for epoch, expected in zip(found[task]["history"], alone["history"], strict=True):
            assert epoch == pytest.approx(expected, rel=allowed, abs=allowed)


def test_methods_of_other_kinds_give_the_parameters_of_one_process(several, one):
    """Two phases, two turns, k-means, resets, weights, four views, state of every sample."""
    for method, alone in one("steps_of_small_methods").items():
        for found in several:
            found = found["steps_of_small_methods"][method]
            assert found["state"].keys() == alone["state"].keys()
            assert largest_difference(found["state"], alone["state"]) < 1e-12, method
            for epoch, expected in zip(found["history"], alone["history"], strict=True):
                assert epoch == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_the_steps_were_many_enough_to_tell():
    untrained = ranks.objective_of("contrastive").state_dict()
    trained = ranks.train(ranks.objective_of("contrastive"))["state"]
    assert largest_difference(untrained, trained) > 1e-2


def test_batch_norm_is_that_of_the_whole_batch(several, one):
    for name, alone in one("layers_of_batch_norm").items():
        for found in several:
            found = found["layers_of_batch_norm"][name]
            torch.testing.assert_close(found["output"], alone["output"], rtol=1e-11, atol=1e-11)
            for ours, theirs in zip(found["gradients"], alone["gradients"], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
            for buffer, value in alone["buffers"].items():
                torch.testing.assert_close(found["buffers"][buffer], value, rtol=1e-11, atol=0)


def test_whole_fits_give_the_labels_of_one_process_on_every_rank(two, one):
    for kind, alone in one("fits").items():
        for found in two:
            if kind == "contrastive":  # the others are not trained until classes are found
                assert torch.equal(found["fits"][kind]["labels"], alone["labels"])
                assert found["fits"][kind]["score"] == pytest.approx(alone["score"], abs=0.1)
            assert found["fits"][kind]["epochs"] == alone["epochs"]
            assert largest_difference(found["fits"][kind]["weights"],
                                      two[0]["fits"][kind]["weights"]) == 0  # fmt: skip


def test_files_are_decoded_by_parts_and_labels_keep_their_places(two, one):
    alone = one("paths")
    for kind in ("memory", "new cache", "old cache"):
        for found in two:
            assert found["paths"][kind]["invalid"] == [7]
            assert torch.equal(found["paths"][kind]["labels"], alone[kind]["labels"])
        total = sum(found["paths"][kind]["decoded"] for found in two)
        # A file that could not be read is tried again by every process that uses the cache.
        tried_again = 1 if kind == "old cache" else 0
        assert total == (40 if kind != "old cache" else tried_again * len(two))
    for found in two:
        assert torch.equal(found["paths"]["predicted"], alone["predicted"])


def test_an_error_of_one_process_is_one_of_all(two):
    for found in two:
        for message in found["paths"]["errors"]:
            assert "07.png" in message


def test_calls_that_differ_are_refused_everywhere(two):
    for found in two:
        assert "differ in X" in found["misuse"]["data"]
        assert "differ in entropy_weight" in found["misuse"]["parameters"]
        assert "sync_batchnorm=True" in found["misuse"]["batches"]


def test_the_first_process_alone_writes_and_prints(two):
    for rank, found in enumerate(two):
        found = found["manners"]
        assert bool(found["printed"]) == (rank == 0)
        kinds = {name.split("-")[0] for name in found["files"]}
        assert kinds >= {"checkpoint", "saved"} if rank == 0 else not kinds
        assert found["epochs"] == 1
        assert found["statistics"] == two[0]["manners"]["statistics"]


def test_training_goes_on_with_another_number_of_processes(several, tmp_path):
    uninterrupted = ranks.resumed(tmp_path, 4)
    for found in several:
        assert len(found["goes_on"]["half"]["history"]) == 2
        whole = found["goes_on"]["whole"]
        assert len(whole["history"]) == 4
        assert largest_difference(whole["state"], uninterrupted["state"]) < 1e-12
    shutil.copytree(several.folder / f"half-of-{len(several)}", tmp_path / "half")
    alone = ranks.resumed(tmp_path / "half", 4)
    assert largest_difference(alone["state"], uninterrupted["state"]) < 1e-12


def test_the_command_line_runs_under_torchrun(two):
    assert [found["command"]["codes"] for found in two] == [[0, 0], [0, 0]]
    assert "report.html" in two[0]["command"]["text"]
    for table in ("labels", "predicted"):
        lines = (two.folder / "command-2" / f"{table}.csv").read_text().splitlines()
        assert len(lines) == 41
        assert [line.split(",")[1] == "-1" for line in lines].index(True) == 8
    assert two[1]["command"]["text"] == ""


LOST = """
import os, signal, sys
import numpy as np
import torch.distributed as dist
import skcc
from skcc import ContrastiveClustering, distributed
from skcc.exceptions import LostRankError

folder, kill = sys.argv[1], sys.argv[2] == "kill"
rank = int(os.environ["MY_RANK"])
dist.init_process_group("gloo", init_method=os.environ["RENDEZVOUS"], rank=rank, world_size=2)
seen = []

def views(x):
    seen.append(len(x))
    if kill and rank == 1 and len(seen) == 20:
        os.kill(os.getpid(), 9)
    return x

model = ContrastiveClustering(3, augment=views, max_epochs=8, batch_size=40, image_size=8,
                              random_state=0, checkpoint_dir=folder + "/state")
try:
    model.fit(np.load(folder + "/pictures.npy"))
except LostRankError as error:
    print(error, flush=True)
    os._exit(7)
np.save(f"{folder}/{kill}-{rank}.npy", model.labels_)
os._exit(0)
"""


def test_a_lost_process_ends_the_others_and_training_goes_on_from_the_checkpoint(tmp_path, shapes):
    np.save(tmp_path / "pictures.npy", shapes[0])

    def start(kill, meeting):
        return [
            subprocess.Popen(
                [sys.executable, "-c", LOST, str(tmp_path), kill],
                stdout=subprocess.PIPE,
                text=True,
                env=environment(RENDEZVOUS=f"file://{tmp_path}/{meeting}", MY_RANK=str(rank)),
            )
            for rank in range(2)
        ]  # fmt: skip

    first, second = start("kill", "a")
    second.communicate(timeout=300)
    assert second.returncode == -signal.SIGKILL
    lost_at = time.monotonic()
    words, _ = first.communicate(timeout=300)
    assert time.monotonic() - lost_at < 60
    assert first.returncode == 7
    assert "rank 0 of 2 has lost another one" in words
    assert "checkpoint" in words
    saved = torch.load(next((tmp_path / "state").glob("phase-0.pt")), weights_only=True)
    assert (
        len(saved["history"]) == 3
    )  # three batches of two views per epoch; the 20th is in the 4th
    for process in start("go on", "b"):
        process.communicate(timeout=300)
        assert process.returncode == 0
    assert np.array_equal(np.load(tmp_path / "False-0.npy"), np.load(tmp_path / "False-1.npy"))


def test_a_process_by_itself_is_the_first_and_only_one():
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.is_rank_zero()
    assert distributed.all_gather_object({"a": [1]}) == [{"a": [1]}]
    assert distributed.rank_slice(7) == range(7)
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather(rows)[0] is rows
    with pytest.raises(KeyError), distributed.raise_on_all_ranks():
        raise KeyError("mine")


def test_parts_are_those_of_tensor_split(monkeypatch):
    for world in (2, 3, 7):
        monkeypatch.setattr(distributed, "world_size", lambda world=world: world)
        for n in (0, 1, 5, 21):
            expected = [t.tolist() for t in torch.arange(n).tensor_split(world)]
            parts = []
            for rank in range(world):
                monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
                parts.append(list(distributed.rank_slice(n)))
            assert parts == expected
            monkeypatch.setattr(distributed, "rank", lambda: 0)
            assert distributed.rank_slice(21, block=10) == range({2: 20, 3: 10, 7: 10}[world])


def test_children_of_a_process_that_torchrun_started_are_not_ranks(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert distributed.world_size() == 2
    monkeypatch.setattr("multiprocessing.process._current_process.name", "LokyProcess-1",
                        raising=False)  # fmt: skip
    assert distributed.world_size() == 1


@pytest.mark.filterwarnings("ignore:max_seconds=")
def test_resuming_takes_any_seed_of_a_random_state(tmp_path, shapes):
    def fit(**how):
        model = ContrastiveClustering(3, max_epochs=2, batch_size=40, checkpoint_dir=tmp_path,
                                      random_state=np.random.RandomState(1), **how)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two epochs find little
            return model.fit(shapes[0])

    assert fit(max_seconds=1e-9).n_iter_ == 1
    assert fit().n_iter_ == 2
