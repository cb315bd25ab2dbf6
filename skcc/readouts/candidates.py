"""Partitions of features that come into question."""

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from skcc.readouts.graph import smooth
from skcc.readouts.kmeans import fit_k_means

LARGE = 5000  # samples; above, fewer and cheaper candidates
_TOO_LARGE_FOR_SPECTRAL = 20_000


def partitions(
    Z: np.ndarray, neighbors: np.ndarray, n_clusters: int, random_state: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Cluster features by k-means, k-means of smoothed features, and spectral clustering.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Rows of unit length.

    neighbors : ndarray of shape (n, k)
        Indices of the nearest neighbours of each row, nearest first.

    n_clusters : int
        Number of clusters.

    random_state : int, default=0
        Seed.

    Yields
    ------
    name : str
        "kmeans", "smoothed kmeans 1" and so on, "spectral 5" and so on.

    labels : ndarray of shape (n,) and dtype int64
        Cluster of each row.
    """
    n = len(Z)
    is_large = n > LARGE

    def cluster(rows, n_init, seed):
        return fit_k_means(rows, n_clusters, n_init, seed)[0]

    yield "kmeans", cluster(Z, 3 if is_large else 10, random_state)
    smoothed = smooth(Z, neighbors[:, :10])
    for i in range(8 if is_large else 4):
        yield f"smoothed kmeans {i + 1}", cluster(smoothed, 1, random_state + i)
    if n <= _TOO_LARGE_FOR_SPECTRAL:
        for q in [5] if is_large else [5, 10, 20]:
            labels = spectral(neighbors[:, : q - 1], n_clusters, random_state)
            if labels is not None:
                yield f"spectral {q}", labels


def spectral(neighbors: np.ndarray, n_clusters: int, random_state: int = 0) -> np.ndarray | None:
    """Cluster the graph of nearest neighbours by its leading eigenvectors.

    Parameters
    ----------
    neighbors : ndarray of shape (n, k)
        Indices of the nearest neighbours of each row.

    n_clusters : int
        Number of clusters.

    random_state : int, default=0
        Seed.

    Returns
    -------
    labels : ndarray of shape (n,) and dtype int64, or None
        Cluster of each row; None if the eigenvectors could not be found.
    """
    from sklearn.cluster import SpectralClustering  # slow to import

    n, k = neighbors.shape
    if n_clusters >= n - 1:
        return None
    ends = np.arange(0, n * k + 1, k)
    directed = sparse.csr_matrix((np.ones(n * k), neighbors.ravel(), ends), shape=(n, n))
    graph = (directed + directed.T) * 0.5 + sparse.identity(n, format="csr")
    model = SpectralClustering(
        n_clusters,
        affinity="precomputed",
        assign_labels="cluster_qr",
        random_state=random_state,
    )
    try:
        return model.fit_predict(graph.tocsr()).astype(np.int64)
    except (RuntimeError, ValueError, np.linalg.LinAlgError):  # ARPACK did not converge
        return None
