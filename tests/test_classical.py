"""The classical rows as the papers had them."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import non_negative_factorization

from skcc.experiments import classical
from skcc.experiments.classical import cluster, graph_nmf, neighbor_edges, self_tuning_affinity
from skcc.metrics import clustering_scores


def digits():
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def test_self_tuning_affinities_are_those_of_the_definition():
    X = np.random.default_rng(0).normal(size=(20, 3))
    affinity = self_tuning_affinity(X)
    distance = np.array([[np.linalg.norm(a - b) for b in X] for a in X])
    scale = [sorted(row)[7] for row in distance]  # the first is the sample itself
    for i in range(20):
        for j in range(20):
            expected = np.exp(-(distance[i, j] ** 2) / (scale[i] * scale[j])) if i != j else 0
            assert affinity[i, j] == pytest.approx(expected)


def test_self_tuning_gives_on_digits_what_an_independent_script_gave():
    X, y = digits()
    labels, _ = cluster("self-tuning", X, 10, 0)
    assert clustering_scores(y, labels)["acc"] == pytest.approx(0.584, abs=0.01)


def test_nmf_without_a_graph_is_scikit_learns():
    X = np.random.default_rng(0).random((30, 12))
    W, H = graph_nmf(X, 3, graph_weight=0, n_steps=25, random_state=0)
    rng, scale = np.random.RandomState(0), np.sqrt(X.mean() / 3)
    start = scale * rng.uniform(size=(30, 3)), scale * rng.uniform(size=(3, 12))
    theirs = non_negative_factorization(
        X, *start, n_components=3, init="custom", solver="mu", max_iter=25, tol=0
    )
    np.testing.assert_allclose(W, theirs[0], rtol=1e-5)
    np.testing.assert_allclose(H, theirs[1], rtol=1e-5)


def test_nmf_with_a_graph_lowers_its_cost_in_each_step():
    X = np.random.default_rng(0).random((40, 12))
    edges = neighbor_edges(X).toarray()
    laplacian = np.diag(edges.sum(axis=1)) - edges
    np.testing.assert_array_equal(edges, edges.T)
    assert set(np.unique(edges)) == {0, 1}
    assert edges.sum(axis=1).min() >= 5

    def cost(steps):
        W, H = graph_nmf(X, 4, graph_weight=3.0, n_steps=steps, random_state=0)
        return ((X - W @ H) ** 2).sum() + 3 * np.trace(W.T @ laplacian @ W)

    costs = [cost(steps) for steps in range(0, 40, 4)]
    assert all(later < before for before, later in pairwise(costs))


def test_the_graph_makes_nmf_a_clustering_of_digits():
    X, y = digits()
    labels, _ = cluster("locality-nmf", X, 10, 0)
    assert clustering_scores(y, labels)["acc"] > 0.75  # NMF alone: .503 (docs/results.md)


@pytest.mark.parametrize("method", ["self-tuning", "graph-degree"])
def test_what_is_too_much_follows_a_sample(method, monkeypatch):
    X, _ = digits()
    X = X[:300]
    monkeypatch.setattr(classical, "MAX_SAMPLES", 200)
    labels, _ = cluster(method, X, 10, 0)
    sample = np.sort(np.random.RandomState(0).permutation(300)[:200])
    monkeypatch.undo()
    alone, _ = cluster(method, X[sample], 10, 0)
    np.testing.assert_array_equal(labels[sample], alone)
    for i in np.setdiff1d(np.arange(300), sample):
        nearest = sample[np.argmin(((X[sample] - X[i]) ** 2).sum(axis=1))]
        assert labels[i] == labels[nearest]
