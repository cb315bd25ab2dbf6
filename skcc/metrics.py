"""Clustering accuracy; NMI and ARI are scikit-learn's."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils.validation import check_consistent_length, column_or_1d


def clustering_accuracy(y_true, y_pred) -> float:
    """Share of samples that are right under the best matching of clusters and classes.

    Each cluster is matched with at most one class and each class with at most one cluster. With
    more clusters than classes the members of unmatched clusters count as wrong; with fewer, the
    members of unmatched classes do.

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
    sklearn.metrics.adjusted_rand_score : Counts pairs, and is 0 on average by chance.
    sklearn.metrics.normalized_mutual_info_score : Shared information.

    Examples
    --------
    >>> from skcc.metrics import clustering_accuracy
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 2])
    0.75
    """
    y_true = column_or_1d(y_true)
    y_pred = column_or_1d(y_pred)
    check_consistent_length(y_true, y_pred)
    if len(y_true) == 0:
        raise ValueError("clustering_accuracy needs at least one sample; got 0")
    table = contingency_matrix(y_true, y_pred)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / np.sum(table))
