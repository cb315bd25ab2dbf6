"""Contrastive Clustering (Li et al., AAAI 2021).

One departure from the paper: several cluster heads may share the backbone, an idea of Invariant
Information Clustering (Ji et al., ICCV 2019). Each is trained like the single head of the paper.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import cluster_contrast, negative_entropy, nt_xent
from skcc.objective import (
    ClusterHeads,
    Epoch,
    Objective,
    Phase,
    Setup,
    features_per_view,
    mlp_head,
    soft_assignments,
)
from skcc.readouts.pairs import agreed_neighbors
from skcc.validation import check_choice, check_integer, check_real

_N_NEIGHBORS = 5  # by pixels, that views may be paired with
_MAX_PIXELS = 1024  # values of an image by which neighbours are found


def _small_images(images):
    """Images as rows of at most 1,024 values, by averages of squares of pixels."""
    channels, height, width = images.shape[1:]
    side = math.isqrt(_MAX_PIXELS // channels)
    size = min(height, side), min(width, side)
    return F.adaptive_avg_pool2d(images, size).flatten(1)


class ContrastiveObjective(Objective):
    """The two heads of Contrastive Clustering and their losses.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    n_clusters : int
        Width of the assignments.

    projection_dim, n_heads : int
        See `ContrastiveClustering`.

    instance_temperature, cluster_temperature : float
        See `ContrastiveClustering`.

    instance_weight, cluster_weight, entropy_weight : float
        See `ContrastiveClustering`.

    augmented_views : int, default=2
        See `ContrastiveClustering`.

    pairing_epoch : int or None, default=None
        Epoch before which neighbours are found whose views are then paired; None for none.
    """

    joined = ("backbone",)
    draws_ahead = True
    capturable = True

    def __init__(
        self,
        setup: Setup,
        n_clusters: int,
        *,
        projection_dim: int,
        n_heads: int,
        instance_temperature: float,
        cluster_temperature: float,
        instance_weight: float,
        cluster_weight: float,
        entropy_weight: float,
        augmented_views: int = 2,
        pairing_epoch: int | None = None,
    ):
        super().__init__()
        width = self.n_embedding = setup.n_features
        self.n_augmented = augmented_views
        self.backbone = setup.backbone
        self.instance_head = mlp_head(width, projection_dim)
        # One head is as in the paper. Several of full width cost more and are no better.
        n_hidden = width if n_heads == 1 else max(1, width // 2)
        self.cluster_heads = ClusterHeads(
            mlp_head(width, n_clusters, n_hidden) for _ in range(n_heads)
        )
        self.instance_temperature = instance_temperature
        self.cluster_temperature = cluster_temperature
        self.instance_weight = instance_weight
        self.cluster_weight = cluster_weight
        self.entropy_weight = entropy_weight
        self.pairing_epoch, self.n_clusters = pairing_epoch, n_clusters
        shape = setup.n_samples, min(_N_NEIGHBORS, setup.n_samples - 1)
        is_paired = pairing_epoch is not None and all(shape)
        self.register_buffer("neighbors", torch.full(shape, -1) if is_paired else None)

    def before_epoch(self, epoch: Epoch) -> None:
        if epoch.number == self.pairing_epoch and self.neighbors is not None:
            self.neighbors.copy_(self._find_neighbors(epoch))

    def _find_neighbors(self, epoch):
        """Neighbours by pixels in the same cluster that are close by features, too."""
        pixels, features = epoch.sweep(_small_images), epoch.sweep(self.embed)
        labels = epoch.sweep(self.assign).argmax(dim=1)
        arrays = (tensor.numpy() for tensor in (pixels, features, labels))
        return torch.from_numpy(
            agreed_neighbors(
                *arrays,
                self.n_clusters,
                n_neighbors=self.neighbors.shape[1],
                device=self.neighbors.device,
            )
        )

    def partners(self) -> Tensor | None:
        is_known = self.neighbors is not None and self.neighbors[0, 0] >= 0
        return self.neighbors if is_known else None

    def release(self) -> None:
        self.neighbors = None

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self.losses(*features_per_view(self.backbone, views))

    def losses(self, h_a: Tensor, h_b: Tensor) -> dict[str, Tensor]:
        """Compute the loss terms from the features of the two views.

        Parameters
        ----------
        h_a, h_b : Tensor of shape (n, n_features)
            Row ``i`` of both belongs to one image.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Weighted; their sum is minimised.
        """
        terms = self._instance_losses(h_a, h_b) if self.instance_weight else {}
        if self.cluster_weight:
            contrast, entropy = self._cluster_losses(h_a, h_b)
            terms["cluster"] = self.cluster_weight * contrast.mean()
            terms["entropy"] = self.cluster_weight * self.entropy_weight * entropy.mean()
        return terms

    def unlabeled(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self._instance_losses(*features_per_view(self.backbone, views))

    def _instance_losses(self, h_a, h_b):
        z_a, z_b = gather(self.instance_head(h_a), self.instance_head(h_b))
        loss = nt_xent(z_a, z_b, temperature=self.instance_temperature)
        return {"instance": self.instance_weight * loss}

    def _cluster_losses(self, h_a, h_b):
        """Contrast and entropy of each cluster head, of shape (n_heads,)."""
        contrast, entropy = [], []
        views = [soft_assignments(head(h)) for head in self.cluster_heads for h in (h_a, h_b)]
        views = gather(*views)
        for p, q in zip(views[::2], views[1::2], strict=True):
            contrast.append(cluster_contrast(p, q, temperature=self.cluster_temperature))
            entropy.append(negative_entropy(p) + negative_entropy(q))
        contrast, entropy = torch.stack(contrast), torch.stack(entropy)
        self.cluster_heads.update(contrast + self.entropy_weight * entropy)
        return contrast, entropy

    def assign(self, images: Tensor) -> Tensor:
        return self.cluster_heads.best(self.backbone(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def project(self, images: Tensor) -> Tensor:
        return self.instance_head(self.backbone(images))


class BaseContrastiveClusterer(BaseDeepClusterer):
    """Base of methods that contrast instances with each other, and clusters with each other.

    Parameters
    ----------
    projection_dim : int, default=128
        Dimension in which instances are contrasted.

    n_heads : int, default=5
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    instance_temperature : float, default=0.5
        Temperature of the contrast between instances. Smaller is sharper.

    cluster_temperature : float, default=1.0
        Temperature of the contrast between clusters. Smaller is sharper.

    instance_weight : float, default=1.0
        Weight of the contrast between instances. 0 uses only that between clusters.

    cluster_weight : float, default=1.0
        Weight of the contrast between clusters and of the entropy. 0 uses only the contrast
        between instances, and excludes ``readout="head"``.

    entropy_weight : float, default=1.0
        Weight of the term that wants clusters of equal size. Smaller values suit clusters of
        unequal size; too small ones let clusters run empty.

    augmented_views : {0, 1, 2}, default=2
        How many of the two views are augmented. With 1 the other view is the plain image, with
        0 both are.
    """

    projection_dim: int = 128
    n_heads: int = 5
    instance_temperature: float = 0.5
    cluster_temperature: float = 1.0
    instance_weight: float = 1.0
    cluster_weight: float = 1.0
    entropy_weight: float = 1.0
    augmented_views: int = 2

    _auto_optimizer = "muon"
    _bfloat16_on_cpus = True

    _collapse_remedies = (
        "More epochs", "a larger entropy_weight", "an augmentation that fits the images",
        "fewer clusters",
    )  # fmt: skip

    def _check_parameters(self):
        super()._check_parameters()
        check_choice("augmented_views", self.augmented_views, [0, 1, 2])
        check_integer("projection_dim", self.projection_dim, 1)
        check_integer("n_heads", self.n_heads, 1)
        for name in ("instance_temperature", "cluster_temperature"):
            check_real(name, getattr(self, name), 0, closed=False)
        for name in ("instance_weight", "cluster_weight", "entropy_weight"):
            check_real(name, getattr(self, name), 0)
        if self.instance_weight == 0 and self.cluster_weight == 0:
            raise ValueError("instance_weight and cluster_weight are both 0; nothing to train")

    def _check_unlabeled(self):
        if self.instance_weight == 0:
            raise ValueError("unlabeled images are of use for an instance_weight > 0; got 0")

    def _head_is_trained(self):
        return self.cluster_weight > 0

    def _trains_on(self, shape):
        how = self.backbone, self.augment, self.max_epochs
        is_left_open = all(isinstance(value, str) and value == "auto" for value in how)
        return len(shape) == 3 or self.readout == "head" or not is_left_open


class ContrastiveClustering(BaseContrastiveClusterer):
    """Cluster images by contrasting both instances and clusters.

    Two random views of each image pass through one backbone. A first head pulls the two views
    of an image together and pushes other images away; a second head gives soft cluster
    assignments and does the same with its *columns*, so that a cluster is a set of images on
    which both views agree. Images go to the cluster of largest assignment [1]_.

    Parameters
    ----------
    neighbor_share : float, default=0.0
        Share of the epochs, the last ones, in which half of the second views show one of the five
        nearest neighbours by pixels in place of the image itself. A neighbour counts only if it is
        in the same cluster and close by the features, too, when these epochs begin. It may help
        where images of a class differ by more than augmentation changes; over five sets it did not,
        and the paper has none. Only for images.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch: "instance", "cluster" and "entropy", weighted, in nats.

    See Also
    --------
    TwinContrastClustering : Contrasts clusters by the sums of their members' features.

    sklearn.cluster.KMeans : Clusters the pixels, or the features of another network.

    Notes
    -----
    The objective is that of the paper, which has one cluster head; each of several has a hidden
    layer of half the width. The default network, sizes, epochs and optimizer are chosen for small
    images and a CPU; `skcc.experiments.recipes.RECIPES` holds the paper's own settings.

    References
    ----------
    .. [1] Y. Li, P. Hu, Z. Liu, D. Peng, J. T. Zhou, X. Peng. "Contrastive Clustering". AAAI
       2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import ContrastiveClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = ContrastiveClustering(n_clusters=3, max_epochs=30, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    neighbor_share: float = 0.0

    _objective_class = ContrastiveObjective  # a subclass may name one with further terms

    def _check_parameters(self):
        super()._check_parameters()
        check_real("neighbor_share", self.neighbor_share, 0, 1)

    def _phases(self, setup):
        objective, parameters = self._objective_class, {}
        if self.neighbor_share and self.cluster_weight and len(setup.view_shape) == 3:
            first = round((1 - self.neighbor_share) * self.settings_["max_epochs"])
            parameters["pairing_epoch"] = first
        yield Phase(objective(setup, **self._parameters_for(objective) | parameters))
