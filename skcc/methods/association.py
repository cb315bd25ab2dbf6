"""Associative Deep Clustering (Haeusser et al., GCPR 2018): random walks between embeddings.

The weights, and the start of the centroids at those of k-means, are those of the authors' code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import association
from skcc.objective import Objective, Phase, Setup, soft_assignments
from skcc.validation import check_integer, check_real

CENTROID_SCALE = 0.3  # standard deviation of the coordinates of random centroids
COPY_SCALE = 0.01  # how far copies begin from their centroid, per coordinate
N_EMBEDDINGS = 400  # in a batch of the authors; their regularisation is a sum over them


@dataclass(frozen=True, kw_only=True)
class AssociationSettings:
    """Hyper-parameters of the objective; see `ADC`.

    Parameters
    ----------
    n_clusters : int
        See `ADC`.

    n_epochs : int
        Epochs of training.

    association_dim, copies, repeats : int
        See `ADC`.

    walker_weight, visit_weight, view_walker_weight, view_visit_weight : float
        See `ADC`.

    logit_weight, consistency_weight, norm_weight, sparsity_weight : float
        See `ADC`.

    warm_up, view_decay : float
        See `ADC`.
    """

    n_clusters: int
    n_epochs: int
    association_dim: int
    copies: int
    repeats: int
    walker_weight: float
    visit_weight: float
    view_walker_weight: float
    view_visit_weight: float
    logit_weight: float
    consistency_weight: float
    norm_weight: float
    sparsity_weight: float
    warm_up: float
    view_decay: float


class AssociationObjective(Objective):
    """Associations of centroids with images, and of augmented views with plain ones.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    settings : AssociationSettings
        Hyper-parameters.
    """

    capturable = True

    def __init__(self, setup: Setup, settings: AssociationSettings):
        super().__init__()
        self.settings, width = settings, settings.association_dim
        self.n_embedding = width
        self.n_views, self.n_augmented = 1 + settings.repeats, settings.repeats
        self.first_epoch = min(  # of the centroids
            int(settings.warm_up * settings.n_epochs), settings.n_epochs - 1
        )
        self.backbone = setup.backbone
        self.embedding = nn.Linear(setup.n_features, width)
        self.classifier = nn.Linear(width, settings.n_clusters)
        self.centroids = nn.Parameter(torch.zeros(settings.n_clusters, settings.copies, width))
        centroids = CENTROID_SCALE * torch.randn(settings.n_clusters, width)
        self._set_centroids(centroids, torch.rand(self.centroids.shape))
        labels = torch.arange(settings.n_clusters).repeat_interleave(settings.copies)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("weights", torch.ones(2))  # of the terms of centroids, and of views

    def _set_centroids(self, centroids, uniform):
        with torch.no_grad():
            self.centroids.copy_(centroids[:, None] + COPY_SCALE * (2 * uniform - 1))

    def before_epoch(self, epoch):
        begun, view_weight = epoch.number >= self.first_epoch, 1.0
        if begun and self.first_epoch > 0:
            view_weight = self.settings.view_decay
        if epoch.number == self.first_epoch > 0:
            _, centroids = epoch.k_means(self.embed, self.settings.n_clusters)
            uniform = torch.rand(self.centroids.shape, generator=epoch.generator)
            self._set_centroids(centroids, uniform)
            with torch.no_grad():  # the classifier begins as that of the nearest centroid
                self.classifier.weight.copy_(centroids)
                self.classifier.bias.copy_(-centroids.square().sum(dim=1) / 2)
        self.weights.copy_(torch.tensor([float(begun), view_weight]))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        *augmented, plain = gather(*(self.embed(view).float() for view in views))
        settings, (of_centroids, of_views) = self.settings, self.weights
        centroids = self.centroids.flatten(0, 1)
        walker, visit = association(centroids, plain, self.labels)
        logits = self.classifier(centroids).float()
        images = torch.arange(len(plain), device=plain.device).repeat(len(augmented))
        view_walker, view_visit = association(torch.cat(augmented), plain, images)
        rows = torch.cat([plain, *augmented, centroids])
        excess = (rows.norm(dim=1) - 1).square().mean()
        terms = {
            "walker": of_centroids * settings.walker_weight * walker,
            "visit": of_centroids * settings.visit_weight * visit,
            "logit": of_centroids * settings.logit_weight * F.cross_entropy(logits, self.labels),
            "view walker": of_views * settings.view_walker_weight * view_walker,
            "view visit": of_views * settings.view_visit_weight * view_visit,
            "norm": N_EMBEDDINGS * settings.norm_weight * excess,
            "sparsity": N_EMBEDDINGS * settings.sparsity_weight * rows.abs().sum(dim=1).mean(),
        }
        if settings.consistency_weight:
            weight = of_centroids * settings.consistency_weight
            terms["consistency"] = weight * self._inconsistency(plain, augmented[0])
        return terms

    def _inconsistency(self, plain, augmented):
        """Cross-entropy between the assignments of the plain view and of an augmented one."""
        target = soft_assignments(self.classifier(plain))
        return F.cross_entropy(self.classifier(augmented).float(), target)

    def assign(self, images: Tensor) -> Tensor:
        return soft_assignments(self.classifier(self.embed(images)))

    def embed(self, images: Tensor) -> Tensor:
        return self.embedding(self.backbone(images))

    def release(self):
        self.centroids = self.labels = None


class ADC(BaseDeepClusterer):
    """Cluster images by random walks between them and centroids.

    A walker steps from a centroid to an image, and back to a centroid, to near embeddings with
    larger probability. He should come back to the centroid where he began, and visit all images
    equally often. In the same way, walks from augmented views to plain ones should return to a
    view of the same image. A classifier of the centroids gives the clusters [1]_.

    Parameters
    ----------
    association_dim : int, default=128
        Width of the embedding in which walks take place.

    copies : int, default=4
        Virtual copies of each centroid; a walk may end at any copy of where it began.

    repeats : int, default=2
        Augmented views of each image in a step, which are compared with the plain one.

    walker_weight : float, default=1.0
        Weight of the walks of the centroids.

    visit_weight : float, default=0.5
        Weight of visiting all images equally often from the centroids.

    view_walker_weight : float, default=1.0
        Weight of the walks of the augmented views.

    view_visit_weight : float, default=1.0
        Weight of visiting all images equally often from the augmented views.

    logit_weight : float, default=0.5
        Weight of the classification of the centroids.

    consistency_weight : float, default=0.0
        Weight of the cross-entropy between the assignments of a plain and an augmented view, an
        option of the authors' code.

    norm_weight : float, default=2e-4
        Weight of the squared difference between the norms of embeddings and 1. Walks go by inner
        products, so without this term embeddings would grow.

    sparsity_weight : float, default=2e-4
        Weight of the sum of the absolute values of embeddings.

    warm_up : float, default=0.5
        Share of the epochs in which features are learned alone, before the clusters are. There is
        none in the paper.

    view_decay : float, default=0.2
        What the weights of the augmented views are multiplied with, once the centroids have begun.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch, weighted, in nats: "walker" is at least the log of `copies`,
        "view walker" that of `repeats`, and "visit" and "view visit" that of the batch, each
        times its weight.

    See Also
    --------
    ContrastiveClustering : Contrasts views without the way back.

    sklearn.cluster.KMeans : Gives the first centroids.

    Notes
    -----
    The losses and all weights are those of the authors' code, with the sums of its regularisation
    rescaled from batches of 400 embeddings to any. As one of its options, but at a given epoch and
    not at a given accuracy of the walks, the centroids begin at those of k-means of what the walks
    of the views have learned. Ours: the classifier begins as that of the nearest centroid; there is
    no dropout; nothing stops training early, which the authors' script does by the labels. With
    random centroids (``warm_up=0``), users of the code report accuracies of .75 to .80 on MNIST
    in place of .99.

    References
    ----------
    .. [1] P. Haeusser, J. Plapp, V. Golkov, E. Aljalbout, D. Cremers. "Associative Deep Clustering:
       Training a Classification Network with No Labels". GCPR 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import ADC
    >>> images = load_digits().images[:60] / 16
    >>> model = ADC(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    association_dim: int = 128
    copies: int = 4
    repeats: int = 2
    walker_weight: float = 1.0
    visit_weight: float = 0.5
    view_walker_weight: float = 1.0
    view_visit_weight: float = 1.0
    logit_weight: float = 0.5
    consistency_weight: float = 0.0
    norm_weight: float = 2e-4
    sparsity_weight: float = 2e-4
    warm_up: float = 0.5
    view_decay: float = 0.2

    _auto_optimizer = "muon"

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("association_dim", "copies", "repeats"):
            check_integer(name, getattr(self, name), 1)
        for name in ("walker_weight", "visit_weight", "view_walker_weight", "view_visit_weight",
                     "logit_weight", "consistency_weight", "norm_weight", "sparsity_weight",
                     "view_decay"):  # fmt: skip
            check_real(name, getattr(self, name), 0)
        check_real("warm_up", self.warm_up, 0, 1)

    def _phases(self, setup):
        resolved = {"n_epochs": self.settings_["max_epochs"]}
        settings = AssociationSettings(**self._parameters_for(AssociationSettings) | resolved)
        yield Phase(AssociationObjective(setup, settings), betas=(0.8, 0.9))
