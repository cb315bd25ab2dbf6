"""JULE: joint learning of representations and clusters (Yang, Parikh, Batra, CVPR 2016).

Clusters are merged, the network learns them by triplets, and the features that it has then decide
what is merged next.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import compute_on_rank_zero, gather
from skcc.objective import Objective, Phase, Setup
from skcc.readouts.linkage import MAX_SAMPLES, graph_degree_linkage, spread
from skcc.validation import check_integer, check_real

CHAIN_LENGTH = 4  # samples per cluster before the first merge, about


def merging_plan(n: int, n_clusters: int, unrolling_rate: float) -> list[int]:
    """How many clusters each period of training learns.

    They are at least twice as many as are wanted: a network that learns the last clusters confirms
    their mistakes.

    Parameters
    ----------
    n : int
        Samples that are merged; they begin as n / 4 clusters.

    n_clusters : int
        Clusters of the last merging, which follows training.

    unrolling_rate : float
        Share of the clusters that is merged away before a period.

    Returns
    -------
    counts : list of int
        Falling, at least ``2 * n_clusters``, or as many as there are if these are fewer.
    """
    start = n // CHAIN_LENGTH
    counts, count = [], start - math.ceil(unrolling_rate * start)
    while count >= 2 * n_clusters:
        counts.append(count)
        count -= math.ceil(unrolling_rate * count)
    return counts or [max(n_clusters, min(2 * n_clusters, start))]


def draw_partners(labels: Tensor, keys: Tensor, n_negatives: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one positive and several negatives for each sample of a batch.

    They depend on the keys alone, so they are the same for any number of processes.

    Parameters
    ----------
    labels : Tensor of shape (n,)
        Clusters.

    keys : Tensor of shape (n, 2)
        Uniform numbers from 0 to 1: of each sample as the one that has partners, and as a partner.

    n_negatives : int
        How many at most.

    Returns
    -------
    positive : Tensor of shape (n, 1)
        Index of another sample of the same cluster.

    negative : Tensor of shape (n, m)
        Indices of samples of other clusters.

    is_triplet : Tensor of bool of shape (n, m)
        False where there is no such sample.
    """
    same = labels[:, None] == labels
    order = (keys[:, :1] + keys[:, 1]) % 1  # uniform, and another one for each sample
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = order.masked_fill(~same | itself, -1).max(dim=1, keepdim=True)
    negative = order.masked_fill(same, -1).topk(min(n_negatives, len(labels)), dim=1)
    is_triplet = (positive.values >= 0) & (negative.values >= 0)
    return positive.indices, negative.indices, is_triplet


class AgglomerativeObjective(Objective):
    """Embeddings in which the clusters of a merging are apart, and the merging of embeddings.

    Parameters
    ----------
    setup : Setup
        Backbone, its width, number of samples.

    n_clusters : int
        Clusters of the last merging.

    n_epochs : int
        Epochs of training, divided equally among the periods.

    embedding_dim : int
        See `JULE`.

    unrolling_rate, margin : float
        See `JULE`.

    n_negatives : int
        See `JULE`.

    min_share : float
        See `JULE`.
    """

    n_views = 1
    capturable = True

    def __init__(
        self, setup: Setup, n_clusters: int, *, n_epochs: int, embedding_dim: int,
        unrolling_rate: float, margin: float, n_negatives: int, min_share: float,
    ):  # fmt: skip
        super().__init__()
        n = setup.n_samples
        self.n_clusters, self.n_embedding = n_clusters, embedding_dim
        self.margin, self.n_negatives, self.min_share = margin, n_negatives, min_share
        self.backbone = setup.backbone
        self.embedding = nn.Linear(setup.n_features, embedding_dim)
        n_merged = min(n, max(MAX_SAMPLES, n_clusters))
        plan = merging_plan(n_merged, n_clusters, unrolling_rate)
        self.counts = [plan[epoch * len(plan) // n_epochs] for epoch in range(n_epochs)]
        self.register_buffer("sample", torch.arange(n_merged))  # indices of those that are merged
        self.register_buffer("labels", torch.zeros(n, dtype=torch.long))
        self.register_buffer("keys", torch.zeros(n, 2))  # by which triplets are drawn
        self.register_buffer("centers", torch.zeros(n_clusters, embedding_dim))
        self.register_buffer("variance", torch.ones(()))

    def before_epoch(self, epoch):
        self.keys.copy_(torch.rand(self.keys.shape, generator=epoch.generator))
        number = epoch.number
        if number == 0:
            order = torch.randperm(len(self.labels), generator=epoch.generator)
            self.sample.copy_(order[: len(self.sample)].sort().values)
            pixels = epoch.sweep(lambda images: images.flatten(1))  # new weights know nothing
            self._merge(pixels, self.counts[0])
        elif self.counts[number] < self.counts[number - 1]:
            self._merge(epoch.sweep(self.embed), self.counts[number])

    def _merge(self, features, n_clusters):
        """Cluster features anew, from nearest neighbours to `n_clusters`."""
        sample = self.sample.cpu().numpy()
        min_share = self.min_share if n_clusters == self.n_clusters else 0.0

        def merge():
            X = features.numpy()
            labels = graph_degree_linkage(X[sample], n_clusters, min_share=min_share)
            return torch.from_numpy(spread(X, sample, labels))

        self.labels.copy_(compute_on_rank_zero(merge))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        z, index = gather(self.embed(views[0]), index)
        return {"triplets": self.triplets(z, self.labels[index], self.keys[index])}

    def triplets(self, z: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        """Compute the loss of one positive and several negatives of each sample.

        Parameters
        ----------
        z : Tensor of shape (n, embedding_dim)
            Rows of unit length.

        labels : Tensor of shape (n,)
            Clusters.

        keys : Tensor of shape (n, 2)
            See `draw_partners`.

        Returns
        -------
        loss : Tensor of shape ()
            Mean over the triplets; 0 if there are none.
        """
        positive, negative, is_triplet = draw_partners(labels, keys, self.n_negatives)
        squared = 2 - 2 * z @ z.T
        excess = squared.gather(1, positive) - squared.gather(1, negative)
        loss = is_triplet * (excess + self.margin).clamp_min(0)
        return loss.sum() / is_triplet.sum().clamp_min(1)

    def after_training(self, epoch):
        z = epoch.sweep(self.embed)
        self._merge(z, self.n_clusters)
        labels = self.labels.cpu()
        centers = torch.stack([z[labels == k].mean(dim=0) for k in range(self.n_clusters)])
        self.centers.copy_(centers)
        self.variance.copy_((z - centers[labels]).square().mean().clamp_min(1e-9))

    def assign(self, images: Tensor) -> Tensor:
        z = self.embed(images)
        squared = torch.cdist(z, self.centers.to(z.dtype)).square()
        return F.softmax(-squared / (2 * self.variance), dim=1)

    def embed(self, images: Tensor) -> Tensor:
        z = self.embedding(self.backbone(images))
        return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=1)

    def release(self):
        self.sample = self.labels = self.keys = None


class JULE(BaseDeepClusterer):
    """Cluster images by merging clusters while the network learns them (JULE).

    At first an image and its nearest neighbour by pixels are a cluster, and clusters are merged by
    how densely the graph of nearest neighbours connects them, until a tenth is left. The network
    learns to keep these apart: an image should be nearer to one of its cluster than to others, by a
    margin. Then the images are merged again, by its features, to a tenth of these clusters, and so
    on while that is at least twice `n_clusters`. At the end they are merged to `n_clusters` [1]_.

    Parameters
    ----------
    embedding_dim : int, default=160
        Width of the embedding, whose rows have unit length.

    unrolling_rate : float, default=0.9
        Share of the clusters that is merged away between two periods of training, above 0 and
        below 1. Smaller values make more periods.

    margin : float, default=0.2
        By how much the squared distance to an image of another cluster should be larger.

    n_negatives : int, default=20
        Images of other clusters with which one is compared in a step.

    min_share : float, default=0.25
        Clusters below this share of the mean size are not among the `n_clusters`; their images go
        to the nearest ones. With 0, as in the paper, a few odd images are a cluster of their own,
        and two of the others are merged.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch: "triplets".

    merged_labels_ : ndarray of shape (n_samples,)
        Clusters of the last merging, numbered by size; -1 for images that could not be read. They
        are the result of the paper, which says nothing about other images. `labels_` and `predict`
        go by the nearest centre instead, if `readout` is "head".

    See Also
    --------
    DeepCluster : Learns clusters of k-means.

    Notes
    -----
    From the paper and the authors' code: the graph of 20 nearest neighbours, the affinities and the
    local term, the unrolling rate, the loss with its margin and 20 negatives, width and length of
    the embedding, pixels before the first period, and that the result is merged anew.

    Ours are augmented views and one positive per image and step; and, since mistakes of a merging
    were learned and stayed (docs/log.md), `min_share`; that each merging begins from the nearest
    neighbours, where the authors go on from the clusters before; and that the last clusters are not
    learned. The merging is exact up to 10,000 images. Of more, a random 10,000 are merged, and the
    others follow the nearest of them.

    References
    ----------
    .. [1] J. Yang, D. Parikh, D. Batra. "Joint Unsupervised Learning of Deep Representations and
       Image Clusters". CVPR 2016.

    .. [2] W. Zhang, X. Wang, D. Zhao, X. Tang. "Graph Degree Linkage: Agglomerative Clustering on a
       Directed Graph". ECCV 2012.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import JULE
    >>> images = load_digits().images[:60] / 16
    >>> model = JULE(n_clusters=3, max_epochs=4, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    embedding_dim: int = 160
    unrolling_rate: float = 0.9
    margin: float = 0.2
    n_negatives: int = 20
    min_share: float = 0.25

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("embedding_dim", self.embedding_dim, 1)
        check_integer("n_negatives", self.n_negatives, 1)
        check_real("unrolling_rate", self.unrolling_rate, 0, 1, closed=False)
        check_real("margin", self.margin, 0)
        check_real("min_share", self.min_share, 0, 1)

    def _phases(self, setup):
        options = self._parameters_for(AgglomerativeObjective)
        options["n_epochs"] = self.settings_["max_epochs"]
        yield Phase(AgglomerativeObjective(setup, **options))

    def _set_fitted_attributes(self, objective, store):
        labels = objective.labels.cpu().numpy()
        counts = super()._set_fitted_attributes(objective, store)
        order = np.argsort(-np.bincount(labels, minlength=self.n_clusters), kind="stable")
        self.merged_labels_ = store.scatter_to_input(order.argsort()[labels], -1)
        return counts
