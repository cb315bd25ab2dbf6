"""Neighbours by pixels that clusters and features agree with, and training on their views."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skcc import ContrastiveClustering
from skcc.augment import NoAugmentation, Views
from skcc.data import HostStore, Store
from skcc.methods import contrastive
from skcc.objective import Objective
from skcc.readouts import FeatureSpace, pairs
from skcc.readouts.pairs import agreed_neighbors
from skcc.training.engine import train

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def slow_agreed_neighbors(X, features, labels, n_clusters, k):
    """By the definition, one pair after the other."""
    P, Z = (FeatureSpace.fit(A).transform(A).astype(np.float64) for A in (X, features))
    found = np.empty((len(X), k), int)
    for i in range(len(X)):
        similarity = P @ P[i]
        similarity[i] = -np.inf
        for place, j in enumerate(np.argsort(-similarity, kind="stable")[:k]):
            others = [m for m in range(len(X)) if m != i and Z[m] @ Z[i] > Z[j] @ Z[i] + 1e-6]
            is_close = len(others) < max(20, len(X) / (2 * n_clusters))
            found[i, place] = j if is_close and labels[i] == labels[j] else i
    return found


def test_agreed_neighbors_are_those_of_the_definition(monkeypatch):
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    X, labels = X[:300].astype(np.float32), np.where(rng.random(300) < 0.2, 0, y[:300] % 3)
    features = X @ rng.normal(size=(64, 20)).astype(np.float32)
    expected = slow_agreed_neighbors(X, features, labels, 3, 4)
    monkeypatch.setattr(pairs, "_BLOCK", 70)
    found = agreed_neighbors(X, features, labels, 3, n_neighbors=4)
    np.testing.assert_array_equal(found, expected)
    is_own = found == np.arange(300)[:, None]
    assert 0.05 < is_own.mean() < 0.95


def test_ranks_of_many_samples_are_estimated(monkeypatch):
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(2000, 5)).astype(np.float32)
    neighbors = rng.integers(0, 2000, (2000, 2))
    exact = pairs._ranks(Z, neighbors, 0)
    monkeypatch.setattr(pairs, "_REFERENCES", 1000)
    assert np.abs(pairs._ranks(Z, neighbors, 0) - exact).mean() < 0.02 * 2000


class Recorder(Objective):
    """Keeps which sample each view shows; each sample is its own number."""

    n_embedding = 1

    def __init__(self, table, first):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.table, self.first, self.is_known, self.seen = table, first, False, []

    def before_epoch(self, epoch):
        self.is_known = epoch.number >= self.first
        self.seen.append([])

    def partners(self):
        return self.table if self.is_known else None

    def forward(self, views, index):
        shown = [view[:, 0].long() for view in views]
        self.seen[-1].append(torch.stack([index, *shown], dim=1))
        return {"nothing": self.scale * 0}


@pytest.mark.parametrize("store", [Store, HostStore])
def test_half_of_the_second_views_show_a_partner(store):
    n, first = 400, 2
    table = (torch.arange(n)[:, None] + torch.tensor([1, 7])) % n
    objective = Recorder(table, first)
    views = Views(NoAugmentation(), None, n_views=3)
    train(objective, store(torch.arange(n).float()[:, None]), views, epochs=4, batch_size=50,
          learning_rate=1e-3, weight_decay=0.0, schedule="constant", seed=0)  # fmt: skip
    for number, steps in enumerate(objective.seen):
        assert all(len(step) == 50 for step in steps)
        index, one, two, three = torch.cat(steps).T
        assert torch.equal(index.sort().values, torch.arange(n))
        assert torch.equal(one, index)
        assert torch.equal(two, three)
        ahead = (two - index) % n
        shares = [(ahead == step).float().mean().item() for step in (0, 1, 7)]
        expected = [0.5, 0.25, 0.25] if number >= first else [1, 0, 0]
        assert shares == pytest.approx(expected, abs=0.1 * (number >= first))
        assert sum(shares) == pytest.approx(1)


def test_epochs_without_partners_are_as_without_the_hook(shapes):
    """The last third differs, and nothing before it."""
    settings = {"max_epochs": 3, "batch_size": 40, "random_state": 0, "readout": "head"}
    paired, plain = (
        ContrastiveClustering(3, neighbor_share=share, **settings).fit(shapes[0]).history_
        for share in (0.33, 0)
    )
    assert paired[:2] == plain[:2]
    assert paired[2] != plain[2]


def test_what_is_paired_resumes_and_is_not_saved(shapes, tmp_path):
    settings = {"batch_size": 40, "random_state": 0, "readout": "head", "neighbor_share": 0.6}
    whole = ContrastiveClustering(3, max_epochs=5, **settings).fit(shapes[0])
    cut = ContrastiveClustering(3, max_epochs=5, checkpoint_dir=tmp_path, **settings)
    cut.set_params(max_seconds=1e-6)
    for _ in range(4):
        with pytest.warns(ConvergenceWarning, match="max_seconds="):
            cut.fit(shapes[0])
    cut.set_params(max_seconds=None).fit(shapes[0])
    np.testing.assert_equal(cut.weights_, whole.weights_)
    assert not any("neighbors" in name for name in whole.weights_)
    whole.save(tmp_path / "model.safetensors")
    again = ContrastiveClustering.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict(shapes[0]), whole.labels_)


def test_vectors_and_an_untrained_head_have_no_partners(monkeypatch, shapes):
    def fail(*arguments, **options):
        raise AssertionError("looked for neighbours")

    monkeypatch.setattr(contrastive, "agreed_neighbors", fail)
    settings = {"max_epochs": 3, "batch_size": 40, "random_state": 0, "neighbor_share": 0.33}
    rows = shapes[0].reshape(120, -1)[:, ::8].astype(np.float32)
    ContrastiveClustering(3, readout="head", **settings).fit(rows)
    ContrastiveClustering(3, readout="kmeans", cluster_weight=0, **settings).fit(shapes[0])
    paired = ContrastiveClustering(3, **settings)
    with pytest.raises(AssertionError, match="looked for neighbours"):
        paired.fit(shapes[0])
    with pytest.raises(ValueError, match="neighbor_share"):
        paired.set_params(neighbor_share=1.5).fit(shapes[0])
