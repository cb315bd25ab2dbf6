"""k-means, with the same result in every run and on all processes."""

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from skcc import distributed


def k_means(
    features: Tensor | np.ndarray, n_clusters: int, *, n_init: int = 10, random_state: int = 0
) -> tuple[Tensor, Tensor, float]:
    """Run scikit-learn's k-means, with the same result on all processes.

    It runs on one thread: with more, sums are added in an order that changes from run to run, and
    training that is resumed would not end bit for bit where an uninterrupted run does.

    Parameters
    ----------
    features : Tensor or ndarray of shape (n, d)
        One row per sample.

    n_clusters : int
        Number of clusters.

    n_init : int, default=10
        Initialisations, of which the best is taken.

    random_state : int, default=0
        Seed.

    Returns
    -------
    labels : Tensor of shape (n,) and dtype int64
        Cluster of each row.

    centers : Tensor of shape (n_clusters, d)
        In the type of the features.

    inertia : float
        Sum of squared distances to the nearest centre.
    """

    def fit():
        with threadpool_limits(limits=1):
            X = np.asarray(features)
            labels, centers, inertia = fit_k_means(X, n_clusters, n_init, random_state)
        return [torch.from_numpy(labels), torch.from_numpy(centers), inertia]

    return tuple(distributed.compute_on_rank_zero(fit))


def fit_k_means(
    features: np.ndarray, n_clusters: int, n_init: int, random_state: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Labels, centres and inertia of k-means, in this process alone."""
    from sklearn.cluster import KMeans  # slow to import

    model = KMeans(n_clusters, n_init=n_init, random_state=random_state).fit(features)
    return model.labels_.astype(np.int64), model.cluster_centers_, float(model.inertia_)
