"""The classical methods of the papers' table, on pixels: scikit-learn's, and the papers' own.

scikit-learn has no method of three of the papers' names, so for each of these there are two rows:
the nearest method of scikit-learn, and the papers' own, which is written out here.
"""

from functools import partial

import numpy as np
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.decomposition import NMF, PCA
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import kneighbors_graph
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.utils import check_random_state

from skcc import data
from skcc.readouts.linkage import MAX_SAMPLES, graph_degree_linkage, spread

MAX_SIDE = 32  # short side of the images in pixels
_N_NEIGHBORS = 10
_N_COMPONENTS = 50  # principal components from which the graphs of neighbours are made
_SCALE_NEIGHBOR = 7  # whose distance is the local scale of self-tuning affinities
_NMF_NEIGHBORS = 5
_NMF_GRAPH_WEIGHT = 100.0
_NMF_STEPS = 200
_SMALLEST = 1e-10  # keeps denominators positive


def pixels(images) -> np.ndarray:
    """Return images as rows of pixels."""
    store, _ = data.read(images, side=lambda short: min(short, MAX_SIDE))
    return store.samples.flatten(1).numpy().astype(np.float32) / 255


# -- by scikit-learn ------------------------------------------------------------------------


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
_PIPELINES = {
    "agglomerative": _agglomerative,
    "kmeans": _k_means,
    "nmf": _nmf,
    "spectral": _spectral,
}

# -- as the papers had them -----------------------------------------------------------------


def self_tuning_affinity(X: np.ndarray) -> np.ndarray:
    """Affinities of samples, each with a scale of its own (Zelnik-Manor, Perona, NIPS 2004).

    Parameters
    ----------
    X : ndarray of shape (n, d)
        One row per sample.

    Returns
    -------
    affinity : ndarray of shape (n, n)
        ``exp(-d_ij^2 / (s_i s_j))`` with s_i the distance of the 7th neighbour of i; 0 on the
        diagonal.
    """
    distances = pairwise_distances(X)
    scale = np.partition(distances, min(_SCALE_NEIGHBOR, len(X) - 1), axis=1)
    scale = scale[:, min(_SCALE_NEIGHBOR, len(X) - 1)].clip(_SMALLEST)
    affinity = np.exp(-(distances**2) / (scale[:, None] * scale))
    np.fill_diagonal(affinity, 0)
    return affinity


def self_tuning(X: np.ndarray, n_clusters: int, random_state: int | None = None) -> np.ndarray:
    """Cluster samples by spectral clustering of self-tuning affinities.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        One row per sample.

    n_clusters : int
        Number of clusters, which is given here; the paper may find it.

    random_state : int or None, default=None
        Seed.

    Returns
    -------
    labels : ndarray of shape (n,)
        By k-means of the eigenvectors, as the rows of the table were read off.
    """
    model = SpectralClustering(n_clusters, affinity="precomputed", random_state=random_state)
    return model.fit_predict(self_tuning_affinity(X))


def graph_nmf(
    X: np.ndarray,
    n_components: int,
    *,
    graph_weight: float = _NMF_GRAPH_WEIGHT,
    n_steps: int = _NMF_STEPS,
    random_state: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Factorise X so that neighbours have similar codes (Cai, He, Han, Huang, PAMI 2011).

    Minimised is ``|X - W H|^2 + graph_weight * tr(W' L W)`` by multiplicative updates, with L the
    Laplacian of the graph of the 5 nearest neighbours by cosine, an edge where one is a neighbour
    of the other.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Nonnegative rows; the weight suits rows of unit length.

    n_components : int
        Width of the codes.

    graph_weight : float, default=100.0
        Weight of the graph; 0 leaves plain NMF.

    n_steps : int, default=200
        Updates of both factors.

    random_state : int or None, default=None
        Seed of the initial factors.

    Returns
    -------
    W : ndarray of shape (n, n_components)
        Codes.

    H : ndarray of shape (n_components, d)
        Nonnegative basis.
    """
    rng = check_random_state(random_state)
    edges = neighbor_edges(X)
    degrees = np.asarray(edges.sum(axis=1)).reshape(-1, 1)
    scale = np.sqrt(X.mean() / n_components)
    W = scale * rng.uniform(size=(len(X), n_components))
    H = scale * rng.uniform(size=(n_components, X.shape[1]))
    for _ in range(n_steps):
        attract, repel = graph_weight * (edges @ W), graph_weight * (degrees * W)
        W *= (X @ H.T + attract) / (W @ (H @ H.T) + repel + _SMALLEST)
        H *= (W.T @ X) / ((W.T @ W) @ H + _SMALLEST)
    return W, H


def neighbor_edges(X: np.ndarray) -> sparse.csr_matrix:
    """Symmetric graph of the 5 nearest neighbours by cosine, with weights of 1."""
    k = min(_NMF_NEIGHBORS, len(X) - 1)
    directed = kneighbors_graph(normalize(X), k)
    return directed.maximum(directed.T)


def locality_nmf(X: np.ndarray, n_clusters: int, random_state: int | None = None) -> np.ndarray:
    """Cluster samples by k-means of their codes by `graph_nmf`.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Nonnegative rows; they are scaled to unit length.

    n_clusters : int
        Number of clusters, and width of the codes.

    random_state : int or None, default=None
        Seed.

    Returns
    -------
    labels : ndarray of shape (n,)
        Codes belong to a basis of rows of unit length, as in the authors' code.
    """
    W, H = graph_nmf(normalize(X), n_clusters, random_state=random_state)
    codes = W * np.linalg.norm(H, axis=1)
    return KMeans(n_clusters, n_init=10, random_state=random_state).fit_predict(codes)


def _graph_degree(X, n_clusters, random_state):
    return graph_degree_linkage(X, n_clusters)


def _by_sample(function, X, n_clusters, random_state):
    """Cluster a sample where all are too many; the others follow the nearest of it."""
    if len(X) <= MAX_SAMPLES:
        return function(X, n_clusters, random_state)
    order = check_random_state(random_state).permutation(len(X))
    sample = np.sort(order[:MAX_SAMPLES])
    return spread(X, sample, function(X[sample], n_clusters, random_state))


# Functions of X, the number of clusters and the random state that return labels.
_FUNCTIONS = {
    "graph-degree": partial(_by_sample, _graph_degree),
    "locality-nmf": locality_nmf,
    "self-tuning": partial(_by_sample, self_tuning),
}

CLASSICAL = (*_PIPELINES, *_FUNCTIONS)  # names of rows


def cluster(
    method: str, X: np.ndarray, n_clusters: int, random_state: int | None = None
) -> tuple[np.ndarray, str]:
    """Cluster rows of pixels by a classical method.

    Parameters
    ----------
    method : str
        One of `CLASSICAL`.

    X : ndarray of shape (n, d)
        From 0 to 1.

    n_clusters : int
        Number of clusters.

    random_state : int or None, default=None
        Seed.

    Returns
    -------
    labels : ndarray of shape (n,)
        From 0.

    steps : str
        What was done, by the names of scikit-learn's classes or of a function of this module.
    """
    if method in _FUNCTIONS:
        return _FUNCTIONS[method](X, n_clusters, random_state), method
    steps = _PIPELINES[method](n_clusters, random_state, min(X.shape))
    names = " | ".join(type(step).__name__ for step in steps)
    return make_pipeline(*steps).fit_predict(X), names
