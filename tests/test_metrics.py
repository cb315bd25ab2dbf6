"""Accuracy against trying all matchings."""

from itertools import permutations

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import adjusted_rand_score, make_scorer

from skcc.metrics import clustering_accuracy, matched_confusion


def by_all_matchings(y_true, y_pred):
    classes, clusters = sorted(set(y_true)), sorted(set(y_pred))
    size = max(len(classes), len(clusters))
    classes += [None] * (size - len(classes))
    best = 0
    for order in permutations(classes):
        name = dict(zip(clusters, order, strict=False))
        best = max(best, sum(name[p] == t for t, p in zip(y_true, y_pred, strict=True)))
    return best / len(y_true)


@pytest.mark.parametrize(("n_classes", "n_clusters"), [(3, 3), (2, 5), (5, 2), (4, 1), (1, 4)])
def test_accuracy_is_that_of_the_best_matching(n_classes, n_clusters):
    rng = np.random.default_rng(n_classes * 10 + n_clusters)
    for _ in range(5):
        t, p = rng.integers(n_classes, size=15).tolist(), rng.integers(n_clusters, size=15).tolist()
        assert clustering_accuracy(t, p) == pytest.approx(by_all_matchings(t, p))


def test_any_labels():
    assert clustering_accuracy(["cat", "cat", "dog"], [-1, -1, 7]) == 1.0
    assert clustering_accuracy(np.array([True, False, True]), ["x", "y", "x"]) == 1.0


def test_bad_labels():
    with pytest.raises(ValueError, match="inconsistent numbers"):
        clustering_accuracy([0, 1], [0])
    with pytest.raises(ValueError, match="at least one"):
        clustering_accuracy([], [])


def test_it_makes_a_scorer():
    class Model(BaseEstimator):
        def predict(self, X):
            return X

    assert make_scorer(clustering_accuracy)(Model(), [1, 1, 0], [0, 0, 1]) == 1.0


def test_an_accuracy_bounds_the_rand_index_from_below():
    """ACC .906 on ten equal classes, with all errors in one cluster: the least ARI there is, .768.

    Other ways to be as wrong, at random, have a larger one; so a published row of .906 and .733
    cannot be (docs/twin-contrast.md).
    """
    target = np.repeat(np.arange(10), 1000)
    wrong = np.arange(10_000) % 1000 < 104
    sink = np.where(wrong, 0, target)
    assert clustering_accuracy(target, sink) == pytest.approx(0.906, abs=1e-3)
    least = adjusted_rand_score(target, sink)
    assert least == pytest.approx(0.768, abs=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        where = np.array([rng.choice(10, p=rng.dirichlet(np.full(10, 0.1))) for _ in range(10)])
        labels = np.where(wrong, where[target], target)
        labels[wrong & (labels == target)] = (target[wrong & (labels == target)] + 1) % 10
        if clustering_accuracy(target, labels) < 0.907:
            assert adjusted_rand_score(target, labels) > least - 5e-3


@pytest.mark.parametrize("n_clusters", [3, 5, 8])
def test_the_diagonal_of_the_matched_table_is_the_accuracy(n_clusters):
    rng = np.random.default_rng(n_clusters)
    y_true = np.array(list("abcde"))[rng.integers(0, 5, 200)]
    y_pred = rng.integers(0, n_clusters, 200) * 10
    table, classes, clusters = matched_confusion(y_true, y_pred)
    for row, name in enumerate(classes):
        for column, cluster in enumerate(clusters):
            assert table[row, column] == np.sum((y_true == name) & (y_pred == cluster))
    assert np.trace(table) / 200 == pytest.approx(clustering_accuracy(y_true, y_pred))
    assert sorted(classes) == list("abcde")
    assert sorted(clusters) == list(range(0, 10 * n_clusters, 10))
    matched = min(5, n_clusters)
    assert list(classes[:matched]) == sorted(classes[:matched])
