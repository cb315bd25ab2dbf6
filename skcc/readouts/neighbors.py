"""Clusters read off any features by their nearest neighbours."""

import warnings
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn import functional as F

from skcc.readouts.candidates import partitions, spectral
from skcc.readouts.classifier import teach, tune
from skcc.readouts.graph import nearest_neighbors
from skcc.readouts.selection import choose, choose_unrefined
from skcc.readouts.space import FeatureSpace

_NEIGHBORS = 20  # found once, for all candidates
_SPECTRAL_NEIGHBORS = 10  # where spectral clustering is asked for
_FEW = 5  # samples per cluster below which neighbours say too little


@dataclass(frozen=True)
class FeatureClassifier:
    """From features to soft assignments; a linear classifier of centred unit vectors.

    Parameters
    ----------
    space : FeatureSpace
        From features to centred unit vectors.

    weights : ndarray of shape (n_clusters, width)
        In that space.

    bias : ndarray of shape (n_clusters,)
        Very negative for clusters that no sample may have.
    """

    space: FeatureSpace
    weights: np.ndarray
    bias: np.ndarray

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Compute soft assignments of features.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Features.

        Returns
        -------
        p : ndarray of shape (n, n_clusters)
            Rows sum to one.
        """
        logits = self.space.transform(X) @ self.weights.T + self.bias
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def state(self) -> dict[str, np.ndarray]:
        """Return arrays from which `from_state` makes the same classifier.

        Returns
        -------
        arrays : dict of str to ndarray
            "mean", "weights", "bias", "constant" and, if the space has them, "axes".
        """
        arrays = {"mean": self.space.mean, "weights": self.weights, "bias": self.bias}
        arrays["constant"] = np.float32(self.space.constant)[None]
        return arrays if self.space.axes is None else arrays | {"axes": self.space.axes}

    def reordered(self, order: np.ndarray) -> "FeatureClassifier":
        """Return the same classifier with its clusters in another order.

        Parameters
        ----------
        order : ndarray of shape (n_clusters,)
            Cluster i of the result is cluster ``order[i]`` of this one.

        Returns
        -------
        classifier : FeatureClassifier
            A new one.
        """
        return FeatureClassifier(self.space, self.weights[order], self.bias[order])

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray]) -> "FeatureClassifier":
        """Rebuild a classifier from its arrays.

        Parameters
        ----------
        arrays : dict of str to ndarray
            From `state`.

        Returns
        -------
        classifier : FeatureClassifier
            The same.
        """
        space = FeatureSpace(arrays["mean"], arrays.get("axes"), float(arrays["constant"][0]))
        return cls(space, arrays["weights"], arrays["bias"])


class TorchClassifier:
    """A `FeatureClassifier` on a device."""

    def __init__(self, arrays: dict[str, np.ndarray], device: torch.device):
        _check_shapes(**arrays)
        tensors = {name: torch.tensor(value, device=device) for name, value in arrays.items()}
        self.mean, self.axes = tensors["mean"], tensors.get("axes")
        self.constant = float(arrays["constant"][0])
        self.weights, self.bias = tensors["weights"].T.contiguous(), tensors["bias"]

    def __call__(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            z = features.float()
            z = F.pad(z, (0, 1), value=self.constant) if self.constant else z
            z = F.normalize(z, dim=1) - self.mean
            z = F.normalize(z if self.axes is None else z @ self.axes, dim=1)
            return F.softmax(z @ self.weights + self.bias, dim=1)


def _check_shapes(mean, weights, bias, constant, axes=None):
    """Raise ValueError if the arrays of a classifier, maybe from a file, do not fit each other."""
    width = len(mean) if axes is None else axes.shape[1]
    is_right = mean.ndim == 1 and weights.shape == (len(bias), width) and constant.shape == (1,)
    if not is_right or (axes is not None and axes.shape[0] != len(mean)):
        raise ValueError("the arrays of its read-out have shapes that do not fit each other")


@dataclass(frozen=True)
class Readout:
    """Clusters of features, and how they were found.

    Parameters
    ----------
    classifier : FeatureClassifier
        Gives samples their clusters.

    name : str
        The chosen candidate: "head", "kmeans", "smoothed kmeans 1", "spectral 5" and so on.

    scores : dict of str to float
        How much the clusters of each candidate tell about those of neighbours, in nats. They
        compare partitions of one set of features into one number of clusters.

    agreement : float
        Mean share of samples on which the other refined candidates agree with the clusters; 1 if
        there was one candidate.
    """

    classifier: FeatureClassifier
    name: str
    scores: dict[str, float]
    agreement: float


def read_out(
    X: np.ndarray,
    n_clusters: int,
    *,
    method: str = "auto",
    head: np.ndarray | None = None,
    keep_lengths: bool = False,
    random_state: int = 0,
    device: torch.device | str = "cpu",
) -> Readout:
    """Cluster features by what is known of their nearest neighbours.

    Several partitions are refined on the graph of nearest neighbours. The ones that tell most about
    the clusters of neighbours vote, and a linear classifier learns the result.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Features, finite.

    n_clusters : int
        Number of clusters, at most n.

    method : {"auto", "spectral"}, default="auto"
        "spectral" takes spectral clustering of the graph of 10 neighbours as it is.

    head : ndarray of shape (n,), default=None
        A partition that is known already, such as that of a trained network; from 0 to
        ``n_clusters - 1``.

    keep_lengths : bool, default=False
        Whether rows that differ in length alone are different, as in a table.

    random_state : int, default=0
        Seed.

    device : torch.device or str, default="cpu"
        Where neighbours are found.

    Returns
    -------
    readout : Readout
        The clusters of `X` are the largest entries of ``readout.classifier.predict_proba(X)``.
    """
    # Sums of several threads would not repeat bit for bit. What candidates warn of, such as several
    # components of the graph, says little about the result.
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read_out(
            np.asarray(X, np.float32),
            n_clusters,
            method=method,
            head=head,
            keep_lengths=keep_lengths,
            random_state=random_state,
            device=device,
        )


def _read_out(X, n_clusters, *, method, head, keep_lengths, random_state, device):
    space = FeatureSpace.fit(X, keep_lengths=keep_lengths, random_state=random_state)
    Z = space.transform(X)
    n = len(Z)
    neighbors = nearest_neighbors(Z, min(_NEIGHBORS, n - 1), device=device)
    k = min(n - 1, int(np.clip(n // (8 * n_clusters), 3, 10)))
    if method == "spectral":
        candidates = _spectral_alone(neighbors, n_clusters, random_state)
    else:
        candidates = {} if head is None else {"head": np.asarray(head, np.int64)}
        candidates |= _partitions(Z, neighbors, n_clusters, random_state)
    few = method == "spectral" or n < _FEW * n_clusters
    select = choose_unrefined if few else choose
    choice = select(candidates, neighbors[:, :k], n_clusters)
    smooth = not choice.is_separate
    weights, bias = teach(Z, choice.labels, n_clusters, smooth=smooth, random_state=random_state)
    if smooth:
        weights = tune(Z, neighbors[:, :k], weights, bias, random_state)
    classifier = FeatureClassifier(space, weights, bias)
    return Readout(classifier, choice.name, choice.scores, choice.agreement)


def _partitions(Z, neighbors, n_clusters, random_state):
    """Those that come into question; of few samples, only what asks no neighbours."""
    names = partitions(Z, neighbors, n_clusters, random_state)
    return dict(islice(names, 1)) if len(Z) < _FEW * n_clusters else dict(names)


def _spectral_alone(neighbors, n_clusters, random_state):
    labels = spectral(neighbors[:, :_SPECTRAL_NEIGHBORS], n_clusters, random_state)
    if labels is None:
        raise ValueError(
            f"readout='spectral' found no {n_clusters} eigenvectors of the graph of "
            f"{len(neighbors)} samples; wanted more samples or fewer clusters, or readout='auto'"
        )
    return {"spectral": labels}
