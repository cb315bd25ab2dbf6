"""Checkpoints: whole, safe, and of the right run."""

import errno
import hashlib
import io
import os
import pickle

import numpy as np
import pytest
import torch

from skcc import ContrastiveClustering
from skcc.exceptions import TrainingInterruptedWarning
from skcc.training.checkpoint import Checkpoint, fingerprint, remove_checkpoints


def test_what_is_saved_is_loaded(tmp_path):
    c = Checkpoint(tmp_path / "new" / "c.pt", {"rate": 0.1, "net": "conv4"}, 7)
    assert c.load() is None
    c.save({"weights": {"w": torch.arange(3)}, "history": [{"loss": 1.5}]})
    state = Checkpoint(c.path, {"rate": 0.1, "net": "conv4"}, None).load()
    assert torch.equal(state["weights"]["w"], torch.arange(3))
    assert (state["history"], state["seed"]) == ([{"loss": 1.5}], 7)
    assert [p.name for p in c.path.parent.iterdir()] == ["c.pt"]


def test_another_run_is_refused_and_the_difference_named(tmp_path):
    Checkpoint(tmp_path / "c.pt", {"rate": 0.1, "net": "a"}, 0).save({})
    with pytest.raises(ValueError, match=r"rate was 0.1 and is 0.2\. Give another"):
        Checkpoint(tmp_path / "c.pt", {"rate": 0.2, "net": "a"}, 0).load()


class FullDisk(io.FileIO):
    """A file on a disk that has room for a few bytes only."""

    def write(self, content):
        super().write(content[:4])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk(monkeypatch):
    monkeypatch.setattr("skcc.atomic.open", FullDisk, raising=False)


def failing_fsync(monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("skcc.atomic.os.fsync", fsync)


@pytest.mark.parametrize("fault", [full_disk, failing_fsync])
def test_a_write_that_fails_leaves_the_previous_checkpoint(tmp_path, monkeypatch, fault):
    c = Checkpoint(tmp_path / "c.pt", {}, 0)
    c.save({"epoch": 1})
    with monkeypatch.context() as patched:
        fault(patched)
        with pytest.raises(OSError, match="No space left") as caught:
            c.save({"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    assert c.load()["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def summed(contents):
    """With the checksum of a checkpoint."""
    return contents + hashlib.blake2b(contents, digest_size=32).digest() + b"skccsum1"


@pytest.mark.parametrize("with_checksum", [False, True])
@pytest.mark.parametrize("kind", ["truncated", "empty", "pickle", "hostile", "foreign", "list"])
def test_damaged_and_hostile_files_are_refused_and_execute_nothing(
    tmp_path, kind, with_checksum, capsys
):
    path = tmp_path / "c.pt"
    Checkpoint(path, {}, 0).save({"w": torch.zeros(1000)})
    whole = path.read_bytes()
    if kind in ("hostile", "foreign", "list"):
        torch.save({"hostile": Evil(), "foreign": {"other": 1}, "list": [1]}[kind], path)
        contents = path.read_bytes()
    else:
        contents = {"truncated": whole[:-500], "empty": b"", "pickle": pickle.dumps(Evil())}[kind]
    path.write_bytes(summed(contents) if with_checksum else contents)
    with pytest.raises(ValueError, match="no checkpoint that can be read"):
        Checkpoint(path, {}, 0).load()
    assert capsys.readouterr().out == ""


def test_what_a_finished_run_leaves_is_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "run"
    for phase in (0, 1):
        c = Checkpoint(folder / f"phase-{phase}.pt", {}, 0)
        c.save({})
        c.save({})
    (folder / "phase-1.pt.123abc.tmp").write_bytes(b"half")
    assert len(list(folder.iterdir())) == 5
    (folder / "mine.txt").write_text("")
    remove_checkpoints(folder)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    (folder / "mine.txt").unlink()
    remove_checkpoints(folder)
    assert not folder.exists()
    remove_checkpoints(folder)


def test_fingerprints_tell_data_apart():
    x = torch.arange(12, dtype=torch.uint8).view(3, 4)
    other = x.clone()
    other[2, 3] += 1
    prints = {fingerprint(t) for t in (x, other, x.flip(0), x.view(4, 3), x.float())}
    assert len(prints) == 5
    assert fingerprint(x) == fingerprint(x.clone())
    assert fingerprint(x.t()) == fingerprint(x.t().contiguous())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("random_state", [3, None])
def test_fit_continues_where_it_stopped(tmp_path, shapes, random_state):
    X = shapes[0]
    parameters = {"n_clusters": 3, "max_epochs": 4, "random_state": random_state, "batch_size": 40}
    first = ContrastiveClustering(**parameters, checkpoint_dir=tmp_path).fit(X)
    loaded = ContrastiveClustering(**parameters, checkpoint_dir=tmp_path).fit(X)
    assert loaded.history_ == first.history_
    np.testing.assert_array_equal(loaded.labels_, first.labels_)
    with pytest.raises(ValueError, match=r"max_epochs was 4 and is 5"):
        ContrastiveClustering(**parameters | {"max_epochs": 5}, checkpoint_dir=tmp_path).fit(X)
    as_before = r"X was changed: 120 samples of shape \(16, 16, 1\), uint8, as before, but other"
    with pytest.raises(ValueError, match=as_before):
        ContrastiveClustering(**parameters, checkpoint_dir=tmp_path).fit(X[::-1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_ctrl_c_leaves_the_last_finished_epoch_and_going_on_is_exact(tmp_path, shapes):
    X = shapes[0]
    parameters = {"n_clusters": 3, "max_epochs": 5, "random_state": 0, "batch_size": 40}
    calls = []

    def blur(images):
        calls.append(1)
        if len(calls) == 20:  # two calls a step, three steps an epoch
            raise KeyboardInterrupt
        return images + 0.1 * torch.randn_like(images)

    whole = ContrastiveClustering(**parameters, augment=blur)
    calls += [1] * 20
    whole.fit(X)
    calls.clear()
    model = ContrastiveClustering(**parameters, augment=blur, checkpoint_dir=tmp_path)
    with pytest.warns(TrainingInterruptedWarning, match="in epoch 4 of 5"):
        model.fit(X)
    state = torch.load(tmp_path / "phase-0.pt", weights_only=True)
    assert state["history"] == whole.history_[:3]
    model.fit(X)
    assert model.history_ == whole.history_
    for name, weights in whole.weights_.items():
        np.testing.assert_array_equal(model.weights_[name], weights)


def test_ctrl_c_as_an_error_leaves_the_estimator_as_it_was_and_the_checkpoint(tmp_path, shapes):
    def interrupted(images):
        raise KeyboardInterrupt

    model = ContrastiveClustering(3, augment=interrupted, checkpoint_dir=tmp_path, batch_size=40)
    with pytest.raises(TrainingInterruptedWarning):  # warnings are errors in tests
        model.fit(shapes[0])
    assert not hasattr(model, "labels_")
    assert list(tmp_path.iterdir()) == []  # not one epoch was finished
