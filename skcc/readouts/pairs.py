"""Pairs of samples that are close in one space, as far as another space agrees."""

import numpy as np
import torch

from skcc.readouts.graph import nearest_neighbors
from skcc.readouts.space import FeatureSpace

_REFERENCES = 2048  # samples by which ranks are estimated
_CLOSEST = 20  # that always count as close
_BLOCK = 2048  # rows compared at a time


def agreed_neighbors(
    X: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    n_clusters: int,
    *,
    n_neighbors: int = 5,
    random_state: int = 0,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Find nearest neighbours in one space that are in the same cluster, and close in another.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Samples in the space of the neighbours, such as pixels.

    features : ndarray of shape (n, m)
        The same samples in the other space.

    labels : ndarray of shape (n,)
        Their clusters.

    n_clusters : int
        Number of clusters.

    n_neighbors : int, default=5
        Neighbours that are looked at.

    random_state : int, default=0
        Seed of the 2,048 samples by which ranks are estimated, where there are more.

    device : torch.device or str, default="cpu"
        Where neighbours are found.

    Returns
    -------
    neighbors : ndarray of shape (n, n_neighbors) and dtype int64
        Nearest first. The index of the sample itself stands for a neighbour in another cluster, or
        to which at least 20 samples, and more than half of a cluster of mean size, are closer by
        the features.
    """
    n = len(X)
    neighbors = nearest_neighbors(
        FeatureSpace.fit(X, random_state=random_state).transform(X), n_neighbors, device=device
    )
    Z = FeatureSpace.fit(features, random_state=random_state).transform(features)
    is_close = _ranks(Z, neighbors, random_state) < max(_CLOSEST, n / (2 * n_clusters))
    is_agreed = is_close & (labels[neighbors] == labels[:, None])
    return np.where(is_agreed, neighbors, np.arange(n)[:, None])


def _ranks(Z, neighbors, random_state):
    """How many samples are closer to a sample than its neighbours are; from some of the samples."""
    n = len(Z)
    some = np.arange(n)
    if n > _REFERENCES:
        some = np.random.RandomState(random_state).permutation(n)[:_REFERENCES]
    ranks = np.empty(neighbors.shape, np.float32)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        similarity = Z[rows] @ Z[some].T
        similarity[rows[:, None] == some] = -np.inf  # no sample is closer to itself
        own = np.einsum("nd,nkd->nk", Z[rows], Z[neighbors[rows]])
        for place in range(neighbors.shape[1]):
            # With a tolerance, since two ways of summing differ in the last bits.
            ranks[rows, place] = (similarity > own[:, place, None] + 1e-6).sum(axis=1)
    return ranks * (n / len(some))
