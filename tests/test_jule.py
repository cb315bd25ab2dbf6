"""JULE: what is merged when, and the triplets that learn it."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import nn

from skcc import JULE
from skcc.experiments.recipes import RECIPES, make_estimator
from skcc.methods import jule
from skcc.methods.jule import AgglomerativeObjective, draw_partners, merging_plan
from skcc.objective import Epoch, Setup
from skcc.readouts import graph_degree_linkage, spread

OPTIONS = {"n_epochs": 6, "embedding_dim": 4, "unrolling_rate": 0.4, "margin": 0.2,
           "n_negatives": 5, "min_share": 0.25}  # fmt: skip


def samples(n=120):
    generator = torch.Generator().manual_seed(1)
    middle = 3 * torch.randn(6, 6, generator=generator)
    return middle[torch.arange(n) % 6] + torch.randn(n, 6, generator=generator)


def make(n_clusters=3, **changes):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
    return AgglomerativeObjective(Setup(backbone, 5, (6,), 120), n_clusters, **OPTIONS | changes)


def begin(objective, number):
    swept = []

    def sweep(function):
        objective.eval()
        with torch.no_grad():
            swept.append(function(samples()))
        objective.train()
        return swept[-1]

    objective.before_epoch(Epoch(number, sweep, torch.Generator().manual_seed(number)))
    return swept


# -- merging --------------------------------------------------------------------------------


def test_the_plan_falls_to_more_clusters_than_are_wanted():
    assert merging_plan(1797, 10, 0.9) == [44]
    assert merging_plan(10_000, 10, 0.9) == [250, 25]
    assert merging_plan(120, 3, 0.4) == [18, 10, 6]
    assert merging_plan(440, 10, 0.9) == [20]
    assert merging_plan(120, 3, 0.9) == [6]
    assert merging_plan(100, 10, 1.0) == [20]
    assert merging_plan(20, 10, 0.9) == [10]
    assert merging_plan(40, 2, 0.01) == [9, 8, 7, 6, 5, 4]


def test_the_first_clusters_are_those_of_pixels_and_the_next_those_of_embeddings():
    objective = make()
    assert objective.counts == [18, 18, 10, 10, 6, 6]
    for number, count in enumerate(objective.counts):
        before = objective.labels.clone()
        swept = begin(objective, number)
        if number % 2:
            assert not swept
            assert torch.equal(objective.labels, before)
            continue
        with torch.no_grad():
            expected = samples() if number == 0 else objective.eval().embed(samples())
        torch.testing.assert_close(swept[0], expected)
        merged = graph_degree_linkage(expected.numpy(), count)
        assert adjusted_rand_score(merged, objective.labels) == 1
        assert objective.labels.max() == count - 1


def test_of_too_many_samples_some_are_merged_and_the_others_follow(monkeypatch):
    monkeypatch.setattr(jule, "MAX_SAMPLES", 60)
    objective = make()
    assert objective.counts[0] == 9  # of 60 / 4 = 15
    X = begin(objective, 0)[0].numpy()
    sample = objective.sample.numpy()
    assert len(np.unique(sample)) == 60
    assert list(sample) == sorted(sample)
    merged = graph_degree_linkage(X[sample], 9)
    np.testing.assert_array_equal(objective.labels, spread(X, sample, merged))


# -- triplets -------------------------------------------------------------------------------


def test_triplets_are_those_of_the_definition():
    objective = make()
    generator = torch.Generator().manual_seed(3)
    z = nn.functional.normalize(torch.randn(30, 4, generator=generator).double(), dim=1)
    labels = torch.arange(30).remainder(4)
    labels[29] = 9  # alone: no positive
    keys = torch.rand(30, 2, generator=generator)
    losses = []
    for a in range(29):
        key = {j: (keys[a, 0] + keys[j, 1]).item() % 1 for j in range(30)}
        mates = [j for j in range(30) if labels[j] == labels[a] and j != a]
        others = [j for j in range(30) if labels[j] != labels[a]]
        p = max(mates, key=key.get)
        for n in sorted(others, key=key.get)[-5:]:
            near, far = (z[a] - z[p]).square().sum(), (z[a] - z[n]).square().sum()
            losses.append(max(0.0, (near - far + 0.2).item()))
    assert objective.triplets(z, labels, keys).item() == pytest.approx(np.mean(losses))


def test_each_partner_is_as_likely_as_any_other():
    labels, draws = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2]), 800
    keys = torch.rand(draws, 8, 2, generator=torch.Generator().manual_seed(0))
    positives, negatives = torch.zeros(8), torch.zeros(8)
    for key in keys:
        positive, negative, is_triplet = draw_partners(labels, key, 2)
        positives[positive[0]] += 1
        negatives[negative[0]] += 1
        assert is_triplet[:7].all()
        assert not is_triplet[7].any()  # alone
        assert len(set(negative[0].tolist())) == 2
    # Three standard deviations of a binomial distribution are .046 and .05.
    assert (positives / draws).tolist() == pytest.approx([0, *[1 / 4] * 4, 0, 0, 0], abs=0.046)
    assert (negatives / draws).tolist() == pytest.approx([0] * 5 + [2 / 3] * 3, abs=0.05)


def test_a_batch_without_triplets_has_a_loss_of_zero():
    objective = make()
    begin(objective, 0)
    for labels in (torch.zeros(120), torch.arange(120)):
        objective.labels.copy_(labels)
        term = objective((samples()[:30],), torch.arange(30))["triplets"]
        assert term.item() == 0
        objective.zero_grad()
        term.backward()
        assert not objective.embedding.weight.grad.any()


def test_learning_parts_the_clusters():
    objective = make(n_epochs=1, unrolling_rate=1.0)
    begin(objective, 0)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        term = objective((samples(),), torch.arange(120))["triplets"]
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < losses[0] / 4


# -- the result -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_merged_labels_are_kept_and_others_go_to_the_nearest_centre(shapes, tmp_path):
    X, _ = shapes
    model = JULE(3, max_epochs=2, image_size=8, batch_size=60, readout="head", random_state=0)
    model.fit(X)
    z, merged = model.transform(X), model.merged_labels_
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, rtol=1e-5)
    expected = graph_degree_linkage(z, 3, min_share=0.25)
    assert adjusted_rand_score(merged, expected) == 1
    assert list(np.bincount(merged)) == sorted(np.bincount(merged), reverse=True)
    centers = np.stack([z[merged == k].mean(axis=0) for k in range(3)])
    nearest = np.argmin(((z[:, None] - centers) ** 2).sum(axis=2), axis=1)
    assert adjusted_rand_score(model.labels_, nearest) == 1
    model.save(tmp_path / "model.safetensors")
    loaded = JULE.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.merged_labels_, merged)
    assert not {name for name in model.weights_ if name in ("labels", "keys", "sample")}


@pytest.mark.parametrize(
    ("name", "value"),
    [("embedding_dim", 0), ("unrolling_rate", 0), ("unrolling_rate", 1.1), ("margin", -0.1),
     ("n_negatives", 0), ("min_share", 2)],
)  # fmt: skip
def test_wrong_parameters_are_named(name, value, shapes):
    with pytest.raises(ValueError, match=name):
        JULE(3, **{name: value}).fit(shapes[0])


def test_the_recipe_and_the_defaults_are_the_authors():
    model = make_estimator("jule", RECIPES["jule", "cifar10"])
    assert (model.min_share, model.batch_size, model.augment) == (0.0, 100, "none")
    for each in (model, JULE()):
        assert (each.unrolling_rate, each.margin, each.n_negatives) == (0.9, 0.2, 20)
        assert each.embedding_dim == 160
