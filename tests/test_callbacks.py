"""What verbose shows."""

import sys

import pytest

from skcc.callbacks import Progress


def epochs(progress, n=3):
    with progress as report:
        for epoch in range(n):
            report(epoch, {"instance": 2.5, "cluster": 1.25}, 0.5)


def test_silent(capfd):
    epochs(Progress("X", 3, 100, 0))
    assert capfd.readouterr() == ("", "")


def test_a_bar_shows_epoch_terms_speed_and_time_left(capfd):
    epochs(Progress("Fit", 3, 100, 1))
    out, err = capfd.readouterr()
    assert out == ""
    for word in ("Fit", "3/3", "instance=2.500", "cluster=1.250", "images/s=200", "00:00"):
        assert word in err


def test_lines_without_tqdm(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    epochs(Progress("Fit", 3, 100, 1))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["epoch 1/3", "epoch 3/3"]
    assert "instance 2.500" in lines[0]
    assert "images/s 200" in lines[0]
    assert lines[-1].endswith("0 s left")


def test_a_resumed_bar_counts_what_was_done(capfd):
    with Progress("Fit", 10, 100, 1) as report:
        report(7, {}, 1.0)
    assert "8/10" in capfd.readouterr().err


@pytest.mark.parametrize("verbose", [1, True])
def test_fit_shows_progress(capfd, shapes, verbose):
    from skcc import ContrastiveClustering

    ContrastiveClustering(1, max_epochs=2, random_state=0, device="cpu", verbose=verbose).fit(
        shapes[0]
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("ContrastiveClustering: backbone=conv4, augment=gray, max_epochs=2, ")
    assert "2/2" in err
