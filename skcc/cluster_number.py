"""How many clusters there may be: several criteria in one fixed space, as a table."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import ArpackError, eigsh
from sklearn.metrics import adjusted_rand_score, silhouette_samples
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from skcc import data
from skcc.ambient import default_torch_state
from skcc.readouts import (
    FeatureSpace,
    contingency,
    nearest_neighbors,
    neighbor_graph,
    refine,
    vector_scale,
)
from skcc.readouts.candidates import spectral
from skcc.readouts.graph import smooth
from skcc.readouts.kmeans import fit_k_means
from skcc.training.settings import check_device
from skcc.validation import check_choice, check_integer

MAX_SIDE = 32  # short side of images whose pixels are compared
_GRAPH_NEIGHBORS = 15  # of the eigengaps
_N_GAPS = 3
_SPLITS = 10  # of the stability
_SILHOUETTE_ROWS = 2000
_ENTROPY_WEIGHT = 0.8  # in the criterion of information
_SEPARATE_PURITY = 0.96  # share of neighbours in one cluster above which clusters hardly touch
_SMALL_COMPONENT = 0.01  # share of the samples below which a component is a few outliers


@dataclass(frozen=True)
class ClusterNumbers:
    """What several criteria say about the number of clusters; made by `suggest_n_clusters`.

    ``print`` shows a table; ``pandas.DataFrame(numbers.table)`` is one.

    Parameters
    ----------
    table : dict of str to ndarray of shape (n_candidates,)
        One row per number of clusters: "n_clusters", "eigengap", "silhouette", "stability",
        "stability_error" (standard error of the mean) and "information" (nats). Larger is better.
        The information is NaN where clusters touch, since there it says nothing.

    suggestions : dict of str to list of int
        By criterion. Of "eigengap" the three largest gaps, largest first, since several may be
        right: coarse and fine ones; of the others the best, and none if nothing can be said.

    n_components : int
        Connected components of the graph of nearest neighbours that hold at least a hundredth of
        the samples. Two or more are clusters that do not touch at all.

    n_samples : int
        Number of samples that were looked at.
    """

    table: dict[str, np.ndarray]
    suggestions: dict[str, list[int]]
    n_components: int
    n_samples: int

    def __str__(self) -> str:
        names = ["n_clusters", "eigengap", "silhouette", "stability", "information"]
        lines = ["{:>10}  {:>10}  {:>10}  {:>15}  {:>11}".format(*names)]
        for row in zip(*self.table.values(), strict=True):
            k, gap, silhouette, stability, error, information = row
            said = "-" if np.isnan(information) else f"{information:.3f}"
            lines.append(
                f"{k:>10}  {gap:>10.4f}  {silhouette:>10.3f}  {stability:>8.3f} +-{error:.3f}"
                f"  {said:>11}"
            )
        for name, numbers in self.suggestions.items():
            lines.append(f"{name}: {', '.join(map(str, numbers)) or 'says nothing here'}")
        lines.append(f"components of the graph of neighbours: {self.n_components}")
        return "\n".join(lines)


@default_torch_state()
def suggest_n_clusters(
    X,
    n_clusters: Iterable[int] = range(2, 21),
    *,
    max_samples: int = 5000,
    random_state: int = 0,
    device: str = "auto",
    n_jobs: int | None = None,
    on_error: str = "raise",
) -> ClusterNumbers:
    """Ask several criteria how many clusters there are.

    The answer is a table and not a number: no criterion is right everywhere, and data may have a
    coarse and a fine division. All are computed in one space that does not depend on the number of
    clusters; comparing models trained with different numbers, each in its own space, is invalid.

    Parameters
    ----------
    X : array-like, tensor, str, Path or list
        Vectors, best those of a network: ``ImageEmbedder().fit_transform(images)``, or
        ``estimator.transform(X)`` of a fitted estimator. Images (as in `fit` of the estimators)
        are compared by their pixels, at no more than 32 pixels on the short side.

    n_clusters : iterable of int, default=range(2, 21)
        Candidates, from 2 to less than the number of samples.

    max_samples : int, default=5000
        Larger sets are looked at through so many samples, drawn at random.

    random_state : int, default=0
        Seed of the samples, the initial centres and the splits.

    device : str, default="auto"
        Where neighbours are found.

    n_jobs : int, default=None
        Threads that decode files; None means 1 and -1 means all cores.

    on_error : {"raise", "warn"}, default="raise"
        Whether an image that cannot be read is an error, or is left out with a warning.

    Returns
    -------
    numbers : ClusterNumbers
        The table, and what each criterion suggests.

    Raises
    ------
    ValueError
        If a candidate or another parameter is out of range, or X cannot be clustered.

    See Also
    --------
    skcc.plotting.ClusterNumberDisplay : Draws the table.

    Notes
    -----
    Of vectors and pixels alike, rows are scaled to unit length and projected to 128 principal axes.

    - eigengap: difference of the eigenvalues k and k + 1 of the normalised adjacency matrix of the
      symmetric graph of 15 nearest neighbours [1]_.
    - silhouette: mean over the clusters of k-means of their mean silhouette, so that large clusters
      do not decide alone; of at most 2,000 samples.
    - stability: k-means of one half of the samples gives labels to the other half, which are
      compared with k-means of that half by the adjusted Rand index; mean of ten splits [2]_.
    - information: mutual information of the clusters of neighbours less .8 times their entropy, of
      the best refined partition, see `NeighborClustering`.

    What these find on data with known classes is in docs/number-of-clusters.md.

    References
    ----------
    .. [1] U. von Luxburg. "A tutorial on spectral clustering". Statistics and Computing 17, 2007.

    .. [2] T. Lange, V. Roth, M. L. Braun, J. M. Buhmann. "Stability-based validation of clustering
       solutions". Neural Computation 16, 2004.

    Examples
    --------
    >>> from skcc import suggest_n_clusters
    >>> from skcc.datasets import load_digits
    >>> numbers = suggest_n_clusters(load_digits().images[:300], range(5, 13))
    >>> sorted(numbers.suggestions)
    ['eigengap', 'information', 'silhouette', 'stability']
    """
    candidates = _check_candidates(n_clusters)
    check_integer("max_samples", max_samples, 10)
    check_integer("random_state", random_state, 0)
    device = check_device(device)
    check_choice("on_error", on_error, ("raise", "warn"))
    rows, keep_lengths = _read(X, n_jobs, on_error)
    if len(rows) > max_samples:
        some = np.random.RandomState(random_state).permutation(len(rows))[:max_samples]
        rows = rows[np.sort(some)]
    if candidates[-1] >= len(rows):
        raise ValueError(
            f"n_clusters holds {candidates[-1]}; wanted less than the {len(rows)} samples"
        )
    # Sums of several threads would not repeat bit for bit. That a graph has several components, or
    # samples fewer distinct values than clusters, is part of the answer.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        space = FeatureSpace.fit(rows, keep_lengths=keep_lengths, random_state=random_state)
        Z = space.transform(rows).astype(np.float32)
        return _compare(Z, candidates, random_state, device)


def _check_candidates(n_clusters):
    if isinstance(n_clusters, (int, np.integer, str)) or not isinstance(n_clusters, Iterable):
        raise TypeError(f"n_clusters={n_clusters!r}; wanted several numbers, such as range(2, 21)")
    numbers = list(n_clusters)
    for number in numbers:
        check_integer("each of n_clusters", number, 2)
    if not numbers:
        raise ValueError("n_clusters is empty; wanted numbers to compare, such as range(2, 21)")
    return sorted({int(number) for number in numbers})


def _read(X, n_jobs, on_error):
    """Rows of numbers, and whether their lengths mean something."""
    side = partial(min, MAX_SIDE)
    store, fmt = data.read(X, side=side, n_jobs=n_jobs, on_error=on_error)
    if isinstance(store, data.SourceStore):
        store = store.read()
    samples = store.samples.cpu()
    if fmt.is_image:
        return _small_pixels(samples), False
    rows = samples.numpy().astype(np.float32)
    mean, scale, is_table = vector_scale(rows)
    return ((rows - mean) / scale).astype(np.float32), is_table


def _small_pixels(samples):
    """Pixels of images of shape (n, height, width, channels), averaged down to 32."""
    height, width = samples.shape[1:3]
    shrink = max(1, min(height, width) / MAX_SIDE)
    size = [max(1, round(side / shrink)) for side in (height, width)]
    blocks = [
        F.interpolate(block.movedim(-1, 1).float() / 255, size=size, mode="area").flatten(1)
        for block in samples.split(256)
    ]
    return torch.cat(blocks).numpy()


def _compare(Z, candidates, seed, device):
    n, ks = len(Z), np.array(candidates)
    neighbors = nearest_neighbors(Z, min(n - 1, 20), device=device)
    n_components, gaps = _eigengaps(neighbors[:, :_GRAPH_NEIGHBORS], ks[-1])
    labels = [fit_k_means(Z, k, 5, seed)[0] for k in candidates]
    stability = np.array([_stability(Z, k, seed) for k in candidates])
    table = {
        "n_clusters": ks,
        "eigengap": gaps[ks - 1],
        "silhouette": _silhouettes(Z, labels, seed),
        "stability": stability.mean(axis=1),
        "stability_error": stability.std(axis=1, ddof=1) / np.sqrt(_SPLITS),
        "information": np.array(
            [
                _information(Z, neighbors, k, start, seed)
                for k, start in zip(ks, labels, strict=True)
            ]
        ),
    }
    suggestions = {"eigengap": _largest(ks, table["eigengap"], _N_GAPS)}
    for name in ("silhouette", "stability", "information"):
        suggestions[name] = _largest(ks, table[name], 1)
    return ClusterNumbers(table, suggestions, n_components, n)


def _largest(ks, values, n):
    order = [i for i in np.argsort(-values, kind="stable") if values[i] > 0]
    return [int(ks[i]) for i in order[:n]]


def _eigengaps(neighbors, largest):
    """Number of components, and l_k - l_(k+1) at index k - 1; NaN where ARPACK fails."""
    graph = neighbor_graph(neighbors)
    n = graph.shape[0]
    sizes = np.bincount(sparse.csgraph.connected_components(graph, directed=False)[1])
    n_components = int(np.count_nonzero(sizes >= _SMALL_COMPONENT * n))
    scale = sparse.diags_array(1 / np.sqrt(graph.sum(axis=1)))
    normalised = scale @ graph @ scale
    count = int(min(largest + 1, n))
    if count > n // 2:  # ARPACK wants far fewer than n
        values = np.linalg.eigvalsh(normalised.toarray())
    else:
        try:
            values = eigsh(
                normalised, count, sigma=1 + 1e-3, v0=np.ones(n), return_eigenvectors=False
            )
        except (ArpackError, RuntimeError):
            return n_components, np.full(largest, np.nan)
    values = np.sort(values)[::-1][:count]
    return n_components, np.append(values[:-1] - values[1:], np.nan)[:largest]


def _silhouettes(Z, labels, seed):
    """Mean over clusters of the mean silhouette, for each partition of some of the samples."""
    some = np.random.RandomState(seed).permutation(len(Z))[:_SILHOUETTE_ROWS]
    found = []
    for of_all in labels:
        own = of_all[some]
        used = np.unique(own)
        if not 1 < len(used) < len(own):
            found.append(np.nan)
            continue
        values = silhouette_samples(Z[some], own)
        found.append(np.mean([values[own == k].mean() for k in used]))
    return np.array(found)


def _stability(Z, k, seed):
    """Agreement of the clusters of one half with those that the other half gives it, per split."""
    found = []
    for i in range(_SPLITS):
        order = np.random.RandomState((seed + i) % 2**32).permutation(len(Z))
        halves = order[: len(Z) // 2], order[len(Z) // 2 :]
        if min(map(len, halves)) < k:
            return [np.nan] * _SPLITS
        centers = fit_k_means(Z[halves[0]], k, 3, seed + i)[1]
        own = fit_k_means(Z[halves[1]], k, 3, seed + i)[0]
        distances = (centers**2).sum(axis=1) - 2 * Z[halves[1]] @ centers.T
        found.append(adjusted_rand_score(own, distances.argmin(axis=1)))
    return found


def _information(Z, neighbors, k, start, seed):
    """Mutual information of neighbours less a part of the entropy; NaN where clusters touch."""
    n = len(Z)
    graph = neighbor_graph(neighbors[:, : min(n - 1, int(np.clip(n // (8 * k), 3, 10)))])
    starts = [start, fit_k_means(smooth(Z, neighbors[:, :10]), k, 3, seed)[0]]
    starts += [labels for labels in [spectral(neighbors[:, :9], k, seed)] if labels is not None]
    refined = [refine(labels, graph, k, 0.65) for labels in starts]
    P = contingency(max(refined, key=lambda pair: pair[1])[0], graph, k)
    if np.trace(P) < _SEPARATE_PURITY:
        return np.nan
    shares = P.sum(axis=1)
    shares = shares[shares > 0]
    entropy = -(shares * np.log(shares)).sum()
    joint = P[P > 0]
    return (joint * np.log(joint)).sum() + 2 * entropy - _ENTROPY_WEIGHT * entropy
