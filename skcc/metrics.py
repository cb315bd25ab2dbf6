"""Clustering accuracy and the confusion table that it is computed from.

NMI and ARI are those of scikit-learn.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils.validation import check_consistent_length, column_or_1d


def clustering_accuracy(y_true, y_pred) -> float:
    """Fraction of samples that are correct under the best matching of clusters and classes.

    Each cluster is matched with at most one class, and each class with at most one cluster, by the
    Hungarian algorithm. Samples of unmatched clusters or classes count as errors.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Classes; numbers or strings.

    y_pred : array-like of shape (n_samples,)
        Clusters; numbers or strings.

    Returns
    -------
    accuracy : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If there are no samples, or the lengths differ.

    See Also
    --------
    sklearn.metrics.adjusted_rand_score : Agreement of pairs, adjusted for chance.
    sklearn.metrics.normalized_mutual_info_score : Normalised mutual information.

    Examples
    --------
    >>> from skcc.metrics import clustering_accuracy
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 2])
    0.75
    """
    y_true, y_pred = _check_labels(y_true, y_pred, "clustering_accuracy")
    table = contingency_matrix(y_true, y_pred)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / np.sum(table))


def matched_confusion(y_true, y_pred) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confusion table of classes and clusters, with matched pairs on the diagonal.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Classes; numbers or strings.

    y_pred : array-like of shape (n_samples,)
        Clusters; numbers or strings.

    Returns
    -------
    table : ndarray of shape (n_classes, n_clusters)
        Number of samples by class (row) and cluster (column). The diagonal holds the samples that
        `clustering_accuracy` counts as correct.

    classes : ndarray of shape (n_classes,)
        Class of each row, sorted; unmatched classes are last.

    clusters : ndarray of shape (n_clusters,)
        Cluster of each column, in the order of the matched classes; unmatched clusters are last.

    Raises
    ------
    ValueError
        If there are no samples, or the lengths differ.

    Examples
    --------
    >>> from skcc.metrics import matched_confusion
    >>> table, classes, clusters = matched_confusion(["a", "a", "b", "b"], [1, 1, 0, 2])
    >>> table
    array([[2, 0, 0],
           [0, 1, 1]])
    >>> clusters
    array([1, 0, 2])
    """
    y_true, y_pred = _check_labels(y_true, y_pred, "matched_confusion")
    table = contingency_matrix(y_true, y_pred)
    rows, columns = linear_sum_assignment(table, maximize=True)
    rows = np.append(rows, np.setdiff1d(np.arange(table.shape[0]), rows))
    columns = np.append(columns, np.setdiff1d(np.arange(table.shape[1]), columns))
    return table[rows][:, columns], np.unique(y_true)[rows], np.unique(y_pred)[columns]


def _check_labels(y_true, y_pred, name):
    """Convert both to arrays of one dimension; raise ValueError if they are empty or differ."""
    y_true = column_or_1d(y_true)
    y_pred = column_or_1d(y_pred)
    check_consistent_length(y_true, y_pred)
    if len(y_true) == 0:
        raise ValueError(f"{name} needs at least one sample; got 0")
    return y_true, y_pred


def clustering_scores(target, labels) -> dict[str, float | None]:
    """Accuracy, normalised mutual information and adjusted Rand index of a clustering.

    Parameters
    ----------
    target : array-like of shape (n_samples,) or None
        Classes; None if they are unknown.

    labels : array-like of shape (n_samples,)
        Clusters.

    Returns
    -------
    scores : dict of str to float or None
        Keys "acc", "nmi" and "ari"; all values are None if the classes are unknown.
    """
    if target is None:
        return dict.fromkeys(("acc", "nmi", "ari"))
    return {
        "acc": clustering_accuracy(target, labels),
        "nmi": float(normalized_mutual_info_score(target, labels)),
        "ari": float(adjusted_rand_score(target, labels)),
    }
