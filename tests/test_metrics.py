"""Accuracy against trying all matchings; the matched table; scores by name."""

from itertools import permutations

import numpy as np
import pytest

from skcc.metrics import clustering_accuracy, clustering_scores, matched_confusion


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


def test_scores_of_a_clustering_by_name():
    target, labels = ["a", "a", "b", "b"], [1, 1, 0, 2]
    scores = clustering_scores(target, labels)
    assert list(scores) == ["acc", "nmi", "ari"]
    assert scores["acc"] == clustering_accuracy(target, labels)
    # Entropies are 1 and 1.5 bits, the mutual information is 1 bit; one pair of six is split.
    assert scores["nmi"] == pytest.approx(1 / 1.25)
    assert scores["ari"] == pytest.approx((1 - 1 / 3) / (1.5 - 1 / 3))
    assert clustering_scores(None, labels) == {"acc": None, "nmi": None, "ari": None}


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
