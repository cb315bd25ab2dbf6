"""Agglomerative clustering by graph-degree linkage (Zhang, Wang, Zhao, Tang, ECCV 2012).

Two clusters are the closer the more edges of the directed graph of nearest neighbours lead from
one to the other and back. The merging is exact: no affinity is approximated or outdated.
"""

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

N_NEIGHBORS = 20
MAX_SAMPLES = 10_000  # that are merged; further ones take the cluster of the nearest of these
_RIVALS = 5  # largest affinities of a cluster in the local term
_MANY = 100  # clusters above which the local term is used


def neighbor_weights(
    X: np.ndarray, n_neighbors: int = N_NEIGHBORS
) -> tuple[sparse.csr_array, np.ndarray]:
    """Make the directed graph of the nearest neighbours by Euclidean distance.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        One row per sample.

    n_neighbors : int, default=20
        Edges that leave a sample; at most n - 1 are made.

    Returns
    -------
    weights : csr_array of shape (n, n)
        ``exp(-d^2 / s)`` of the neighbours of each row, with s the mean of all these d^2.

    nearest : ndarray of shape (n,)
        The nearest neighbour of each row.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    n = len(X)
    k = min(n_neighbors, n - 1)
    model = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(X)
    distances, neighbors = model.kneighbors()
    squares = np.square(distances, dtype=np.float64)
    values = np.exp(-squares / max(squares.mean(), np.finfo(np.float64).tiny))
    ends = np.arange(0, n * k + 1, k)
    weights = sparse.csr_array((values.ravel(), neighbors.ravel(), ends), shape=(n, n))
    return weights, neighbors[:, 0]


def chains(nearest: np.ndarray, at_least: int) -> np.ndarray:
    """Join each sample with its nearest neighbour: about four samples per cluster.

    Parameters
    ----------
    nearest : ndarray of shape (n,)
        The nearest neighbour of each sample.

    at_least : int
        Clusters that are wanted; if there are fewer, each sample is a cluster.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0, without gaps.
    """
    n = len(nearest)
    edges = sparse.csr_array((np.ones(n), (np.arange(n), nearest)), shape=(n, n))
    count, labels = connected_components(edges, directed=False)
    return labels if count >= at_least else np.arange(n)


def agglomerate(
    weights: sparse.csr_array, labels: np.ndarray, n_clusters: int, *, min_size: float = 1
) -> np.ndarray:
    """Merge clusters, two at a time, until `n_clusters` are left.

    The affinity of clusters a and b is ``1' W_ab W_ba 1 / |a|^2 + 1' W_ba W_ab 1 / |b|^2``. Merged
    are a cluster and the one of largest affinity to it, where that affinity is largest. While there
    are more than 100 clusters, its mean lead over the next four affinities of that cluster is added
    (the local term of JULE).

    Parameters
    ----------
    weights : csr_array of shape (n, n)
        Nonnegative weights of the directed edges.

    labels : ndarray of shape (n,)
        Clusters to begin with, from 0 and without gaps; at least `n_clusters`.

    n_clusters : int
        Clusters to end with.

    min_size : float, default=1
        Smaller clusters do not count. The result is the last moment with `n_clusters` that do; if
        there is none, all count.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0, without gaps; -1 for samples of clusters that do not count.
    """
    found = labels = np.asarray(labels)
    while (count := labels.max() + 1) > n_clusters:
        # Halfway the table of affinities is made anew, since half of it is of merged clusters.
        merging = _Merging(weights, labels)
        while merging.count > max(n_clusters, count // 2):
            merging.step()
            if np.count_nonzero(merging.sizes >= min_size) >= n_clusters:
                found = merging.labels.copy()
        labels = np.unique(merging.labels, return_inverse=True)[1]
    sizes = np.bincount(found)
    if np.count_nonzero(sizes >= min_size) != n_clusters:
        return labels
    number = np.full(len(sizes), -1)
    number[sizes >= min_size] = np.arange(n_clusters)
    return number[found]


class _Merging:
    """Clusters and the table of their affinities, which each merge brings up to date."""

    def __init__(self, weights, labels):
        self.weights, self.transposed = weights, weights.T.tocsr()
        self.labels, self.count = labels.copy(), labels.max() + 1
        n, self.sizes = len(labels), np.bincount(labels).astype(np.float64)
        members = sparse.csr_array((np.ones(n), (np.arange(n), labels)), shape=(n, self.count))
        into, out = self.transposed @ members, self.weights @ members
        # Entry (a, b) is 1' W_ab W_ba 1: paths from a into b and back.
        self.paths = (into.multiply(out).T @ members).toarray()
        share = self.paths / np.square(self.sizes)[:, None]
        self.affinity = share + share.T
        np.fill_diagonal(self.affinity, -1)  # not to be merged
        self.top, self.lead = np.empty(self.count), np.empty(self.count)
        self._rank(np.arange(self.count))

    def _rank(self, rows):
        """Update the largest affinity of some clusters, and its lead over the next ones."""
        some = self.affinity[rows]
        k = min(_RIVALS, some.shape[1])
        some = np.sort(np.partition(some, -k, axis=1)[:, -k:], axis=1).clip(0)
        self.top[rows] = some[:, -1]
        self.lead[rows] = (some[:, -1:] - some[:, :-1]).mean(axis=1) if k > 1 else 0

    def step(self):
        """Merge once."""
        self._merge(*self._closest())

    def _closest(self):
        score = self.top + self.lead if self.count > _MANY else self.top
        a = score.argmax()
        if self.top[a] > 0:
            return a, self.affinity[a].argmax()
        # No edges lead to another cluster and back: the two smallest ones.
        alive = np.flatnonzero(self.sizes)
        return alive[np.argsort(self.sizes[alive], kind="stable")[:2]]

    def _merge(self, a, b):
        """Let cluster a take the samples of b."""
        self.labels[self.labels == b] = a
        self.sizes[a] += self.sizes[b]
        self.sizes[b] = 0
        self.count -= 1
        members = (self.labels == a).astype(np.float64)
        paths = (self.transposed @ members) * (self.weights @ members)
        self.paths[:, a] += self.paths[:, b]
        self.paths[b], self.paths[:, b] = 0, 0
        self.paths[a] = np.bincount(self.labels, paths, minlength=len(self.sizes))
        squares = np.square(self.sizes).clip(1)
        affinity = self.paths[a] / squares[a] + self.paths[:, a] / squares
        affinity[self.sizes == 0] = affinity[a] = -1
        self.affinity[a] = self.affinity[:, a] = affinity
        self.affinity[b] = self.affinity[:, b] = -1
        self.top[b], self.lead[b] = -np.inf, 0
        self._rank(np.append(np.flatnonzero(affinity > 0), a))


def graph_degree_linkage(
    X: np.ndarray,
    n_clusters: int,
    *,
    labels: np.ndarray | None = None,
    min_share: float = 0.0,
) -> np.ndarray:
    """Cluster samples by graph-degree linkage of their 20 nearest neighbours.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        One row per sample; all of them are merged, so memory grows with the square of n.

    n_clusters : int
        Clusters to end with.

    labels : ndarray of shape (n,), default=None
        Clusters to begin with, from 0 and without gaps. None joins each sample with its nearest
        neighbour.

    min_share : float, default=0.0
        Clusters below this share of the mean size n / `n_clusters` do not count; their samples go
        to the cluster of the nearest centre.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0, without gaps.
    """
    with threadpool_limits(limits=1):  # so that results repeat bit for bit, as in `k_means`
        weights, nearest = neighbor_weights(X)
        labels = chains(nearest, n_clusters) if labels is None else labels
        min_size = max(1, min_share * len(X) / n_clusters)
        labels = agglomerate(weights, labels, n_clusters, min_size=min_size)
        stray = labels < 0
        if stray.any():
            centers = np.stack([X[labels == k].mean(axis=0) for k in range(n_clusters)])
            labels[stray] = _nearest(X[stray], centers)
    return labels


def spread(X: np.ndarray, sample: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give all samples the clusters of the nearest of some of them.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        One row per sample.

    sample : ndarray of shape (m,)
        Indices of those whose clusters are known.

    labels : ndarray of shape (m,)
        Their clusters.

    Returns
    -------
    labels : ndarray of shape (n,)
        Clusters of all; those in `sample` keep theirs.
    """
    everywhere = np.empty(len(X), labels.dtype)
    everywhere[sample] = labels
    others = np.setdiff1d(np.arange(len(X)), sample)
    if len(others):
        with threadpool_limits(limits=1):
            everywhere[others] = labels[_nearest(X[others], X[sample])]
    return everywhere


def _nearest(X, rows):
    """Index of the nearest of some rows to each row of X."""
    from sklearn.neighbors import NearestNeighbors  # slow to import

    model = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(rows)
    return model.kneighbors(X, return_distance=False)[:, 0]
