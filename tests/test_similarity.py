"""Similarities of pairs, against plain loops."""

import math
import statistics

import numpy as np
import pytest
import sklearn

from skcc import ContrastiveClustering, TwinContrastClustering
from skcc.plotting import SimilarityDisplay
from skcc.similarity import PAIRS, SimilarityMonitor, pair_similarity

HAS_CALLBACKS = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
with_callbacks = pytest.mark.skipif(not HAS_CALLBACKS, reason="scikit-learn before 1.9")
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def cosine(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True)) / math.sqrt(
        sum(a * a for a in x) * sum(b * b for b in y)
    )


def by_loops(z, p):
    """All samples in one batch."""
    found = {name: [] for name in PAIRS}
    for kind, rows in (("instances", z), ("clusters", p.transpose(2, 1, 0))):
        views = [(i, v, rows[i, v]) for i in range(len(rows)) for v in range(2)]
        for at, (i, _, x) in enumerate(views):
            for j, _, y in views[at + 1 :]:
                sign = "positive" if i == j else "negative"
                found[f"{sign} {kind}"].append(cosine(x, y))
    return {name: (statistics.mean(c), statistics.pstdev(c)) for name, c in found.items()}


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    p = rng.random((9, 2, 4))
    return rng.normal(size=(9, 2, 5)), p / p.sum(axis=2, keepdims=True)


def test_it_is_what_loops_find(pairs):
    found, expected = pair_similarity(*pairs), by_loops(*pairs)
    assert list(found) == list(PAIRS)
    for name in PAIRS:
        assert found[name] == pytest.approx(expected[name], abs=1e-12)


def test_batches_are_told_apart(pairs):
    """With batches of one order, the mean over two halves weighs their pairs alike."""
    z, p = pairs[0][:8], pairs[1][:8]
    found = pair_similarity(z, p, batch_size=4, random_state=3)
    order = np.random.RandomState(3).permutation(8)
    halves = [by_loops(z[part], p[part]) for part in (order[:4], order[4:])]
    for name in PAIRS:
        assert found[name][0] == pytest.approx(np.mean([h[name][0] for h in halves]), abs=1e-12)


def test_extremes():
    z = np.eye(6)[:, None].repeat(2, axis=1)
    p = np.eye(3)[np.arange(6) % 3][:, None].repeat(2, axis=1)
    sure = pair_similarity(z, p)
    assert sure["positive instances"] == pytest.approx((1, 0))
    assert sure["negative instances"] == pytest.approx((0, 0))
    assert sure["positive clusters"] == pytest.approx((1, 0))
    assert sure["negative clusters"] == pytest.approx((0, 0))
    one = pair_similarity(z, p[..., :1])
    assert np.isnan(one["negative clusters"]).all()


@pytest.mark.parametrize(
    ("z", "p"), [((3, 2, 4), (3, 4)), ((3, 4), (3, 2, 4)), ((1, 2, 3), (1, 2, 3))]
)
def test_other_shapes_are_refused(z, p):
    with pytest.raises(ValueError, match="must have shapes"):
        pair_similarity(np.ones(z), np.ones(p))


@with_callbacks
@pytest.mark.parametrize("cls", [ContrastiveClustering, TwinContrastClustering])
def test_a_monitor_sees_every_epoch_and_changes_nothing(cls, shapes):
    how = {"max_epochs": 10, "batch_size": 40, "random_state": 0, "readout": "head"}
    monitor = SimilarityMonitor()
    watched = cls(3, **how).set_callbacks(monitor).fit(shapes[0])
    alone = cls(3, **how).fit(shapes[0])
    assert watched.history_ == alone.history_
    assert len(monitor.similarity_) == 10
    last = monitor.similarity_[-1]
    assert last["positive instances"][0] > last["negative instances"][0] + 0.1
    assert last["positive clusters"][0] > last["negative clusters"][0]
    for mean, spread in last.values():
        assert -1 <= mean <= 1
        assert 0 <= spread <= 1


@with_callbacks
def test_the_display_trains_a_clone(shapes, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    model = ContrastiveClustering(3, max_epochs=3, batch_size=40, random_state=0)
    display = SimilarityDisplay.from_estimator(model, shapes[0])
    assert not hasattr(model, "labels_")
    lines = {line.get_label(): line for line in display.ax_.get_lines()}
    assert set(lines) == set(PAIRS)
    for name, line in lines.items():
        assert list(line.get_xdata()) == [1, 2, 3]
        assert line.get_ydata()[-1] == pytest.approx(display.similarity[-1][name][0])
        assert line.get_linestyle() == ("--" if "clusters" in name else "-")
    assert len(display.ax_.collections) == 4


def test_the_display_of_what_was_kept(pairs, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    z, p = pairs
    display = SimilarityDisplay.from_predictions(
        [z, z], [p, p], epochs=[5, 10], batch_size=4, random_state=1
    )
    assert list(display.ax_.get_lines()[0].get_xdata()) == [5, 10]
    assert display.similarity[0] == pair_similarity(z, p, batch_size=4, random_state=1)
    with pytest.raises(ValueError, match="zip"):
        SimilarityDisplay.from_predictions([z, z], [p])
