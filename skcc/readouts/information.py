"""How much the cluster of a sample tells about the clusters of its neighbours.

With P the K x K table of the clusters of neighbours and a its row sums, the score is
J_c = sum P log P - 2 c sum a log a. For c = 1 it is the mutual information in nats, and the profile
log-likelihood of a degree-corrected stochastic block model (Karrer & Newman 2011). Smaller c reward
equal sizes less, so that large clusters are not divided and small ones not joined.
"""

import numpy as np
from scipy import sparse

_MAX_PASSES = 50
_BLOCK = 2**22  # entries of a dense block of samples x clusters


def contingency(labels: np.ndarray, graph: sparse.csr_array, n_clusters: int) -> np.ndarray:
    """Tabulate the clusters of neighbours.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        From 0 to ``n_clusters - 1``.

    graph : csr_array of shape (n, n)
        Symmetric, without negative weights.

    n_clusters : int
        Side of the table.

    Returns
    -------
    P : ndarray of shape (n_clusters, n_clusters)
        Share of the graph's weight between two clusters; sums to one.
    """
    rows = np.repeat(np.arange(graph.shape[0]), np.diff(graph.indptr))
    pairs = labels[rows] * n_clusters + labels[graph.indices]
    table = np.bincount(pairs, weights=graph.data, minlength=n_clusters**2)
    return table.reshape(n_clusters, n_clusters) / max(graph.data.sum(), 1e-300)


def score(P: np.ndarray, c: float) -> float:
    """Compute J_c of a table of neighbours.

    Parameters
    ----------
    P : ndarray of shape (n_clusters, n_clusters)
        From `contingency`.

    c : float
        Weight of the entropy of sizes, from 0.5 to 1.

    Returns
    -------
    J : float
        In nats. 0 for one cluster, at most (2c - 1) log n_clusters.
    """
    return float(_x_log_x(P).sum() - 2 * c * _x_log_x(P.sum(axis=1)).sum())


def refine(
    labels: np.ndarray, graph: sparse.csr_array, n_clusters: int, c: float
) -> tuple[np.ndarray, float]:
    """Let each sample take the cluster that its neighbours make likeliest, until none changes.

    All samples change at once, which is a greedy ascent of J_c. The pass of largest J_c is kept
    that uses as many clusters as the start, so the result is never worse than the start.

    Parameters
    ----------
    labels : ndarray of shape (n,)
        From 0 to ``n_clusters - 1``.

    graph : csr_array of shape (n, n)
        Symmetric, without negative weights.

    n_clusters : int
        Number of clusters.

    c : float
        Weight of the entropy of sizes, from 0.5 to 1.

    Returns
    -------
    labels : ndarray of shape (n,)
        Refined.

    J : float
        Their score.
    """
    P = contingency(labels, graph, n_clusters)
    best, best_score, n_used = labels, score(P, c), _n_used(P)
    for _ in range(_MAX_PASSES):
        changed = _likeliest(labels, graph, P, c)
        if (changed == labels).all():
            break
        labels, P = changed, contingency(changed, graph, n_clusters)
        if (J := score(P, c)) > best_score and _n_used(P) >= n_used:
            best, best_score = labels, J
    return best, best_score


def _n_used(P):
    return np.count_nonzero(P.any(axis=1))


def _likeliest(labels, graph, P, c):
    """The cluster k of largest sum over neighbours of log P_kl - c log a_k - c log a_l."""
    n_clusters = len(P)
    P = P + 1e-6
    size = np.log(P.sum(axis=1))
    gain = np.log(P) - c * size[:, None] - c * size[None, :]
    n = len(labels)
    of_each = sparse.csr_array((np.ones(n), labels, np.arange(n + 1)), shape=(n, n_clusters))
    votes = graph @ of_each
    step = max(1, _BLOCK // n_clusters)
    blocks = [(votes[i : i + step] @ gain).argmax(axis=1) for i in range(0, n, step)]
    return np.concatenate(blocks).astype(labels.dtype)


def _x_log_x(x):
    return x * np.log(np.where(x > 0, x, 1))
