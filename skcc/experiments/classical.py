"""The classical methods of the papers' table, by scikit-learn, on pixels."""

from functools import partial

import numpy as np
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.decomposition import NMF, PCA
from sklearn.neighbors import kneighbors_graph

from skcc import data

MAX_SIDE = 32  # short side of the images in pixels
_N_NEIGHBORS = 10
_N_COMPONENTS = 50  # principal components from which the graphs of neighbours are made


def pixels(images) -> np.ndarray:
    """Return images as rows of pixels."""
    store, _ = data.read(images, side=lambda short: min(short, MAX_SIDE))
    return store.samples.flatten(1).numpy().astype(np.float32) / 255


def _k_means(n_clusters, random_state, rank):
    return [KMeans(n_clusters, n_init=10, random_state=random_state)]


def _spectral(n_clusters, random_state, rank):
    return [
        PCA(min(_N_COMPONENTS, rank), random_state=random_state),
        SpectralClustering(
            n_clusters,
            affinity="nearest_neighbors",
            n_neighbors=_N_NEIGHBORS,
            assign_labels="cluster_qr",
            random_state=random_state,
        ),
    ]


def _agglomerative(n_clusters, random_state, rank):
    graph = partial(kneighbors_graph, n_neighbors=_N_NEIGHBORS)
    return [
        PCA(min(_N_COMPONENTS, rank), random_state=random_state),
        AgglomerativeClustering(n_clusters, linkage="ward", connectivity=graph),
    ]


def _nmf(n_clusters, random_state, rank):
    return [
        NMF(n_clusters, init="nndsvda", max_iter=1000, random_state=random_state),
        *_k_means(n_clusters, random_state, rank),
    ]


# Functions of the number of clusters, the random state and the largest possible rank of X that
# return the steps of a pipeline. `records.STANDS_FOR` lists the differences to the papers' methods.
CLASSICAL = {
    "agglomerative": _agglomerative,
    "kmeans": _k_means,
    "nmf": _nmf,
    "spectral": _spectral,
}
