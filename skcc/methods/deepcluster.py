"""DeepCluster (Caron, Bojanowski, Joulin, Douze, ECCV 2018).

k-means of the features gives labels, the network learns them, and again. The labels of two rounds
have nothing to do with each other, so the classifier begins anew with each round.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.methods.autoencoder import Whitening
from skcc.objective import Objective, Phase, Setup
from skcc.training.settings import steps_per_epoch
from skcc.validation import check_integer

INITIAL_SCALE = 0.01  # standard deviation of the weights of a new classifier
STEPS_OF_LABELS = 32  # in fewer a new classifier learns little (docs/log.md)


class PseudoLabelClassifier(nn.Linear):
    """A linear classifier that begins with about equal probabilities, as in the authors' code."""

    def reset_parameters(self) -> None:
        """Draw small weights, and set the biases to 0."""
        nn.init.normal_(self.weight, std=INITIAL_SCALE)
        nn.init.zeros_(self.bias)


class PseudoLabelObjective(Objective):
    """A network that learns the labels which k-means of its own features gives.

    Parameters
    ----------
    setup : Setup
        Backbone, its width, number of samples.

    n_pseudolabels : int
        Clusters of k-means.

    n_whitened : int
        See `DeepCluster`; at most the width of the backbone is used.

    reassign_epochs : int
        See `DeepCluster`.
    """

    n_views = 1
    capturable = True

    def __init__(self, setup: Setup, *, n_pseudolabels: int, n_whitened: int, reassign_epochs: int):
        super().__init__()
        self.n_pseudolabels, self.reassign_epochs = n_pseudolabels, reassign_epochs
        self.n_embedding = min(n_whitened, setup.n_features)
        self.backbone = setup.backbone
        self.classifier = PseudoLabelClassifier(setup.n_features, n_pseudolabels)
        self.whitening = Whitening(setup.n_features, self.n_embedding)
        self.register_buffer("labels", torch.zeros(setup.n_samples, dtype=torch.long))

    def before_epoch(self, epoch):
        if epoch.number % self.reassign_epochs == 0:
            self.whitening.fit(epoch.sweep(self.backbone))
            labels, _ = epoch.k_means(self.embed, self.n_pseudolabels, n_init=1)
            self.labels.copy_(labels)
            epoch.reset(self.classifier)

    def sample_weights(self) -> Tensor:
        counts = self.labels.bincount(minlength=self.n_pseudolabels)
        return 1 / counts[self.labels].double()

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        logits, index = gather(self.classifier(self.backbone(views[0])), index)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return {"classification": F.cross_entropy(logits, self.labels[index])}

    def after_training(self, epoch):
        self.whitening.fit(epoch.sweep(self.backbone))

    def embed(self, images: Tensor) -> Tensor:
        return F.normalize(self.whitening(self.backbone(images)), dim=1)

    def release(self):
        self.classifier = self.labels = None


class DeepCluster(BaseDeepClusterer):
    """Cluster images by alternating between k-means and classification (DeepCluster).

    k-means divides the features of all images into more clusters than are wanted. For some steps
    the network learns to tell these clusters apart, on augmented views, which are drawn so that all
    clusters come up equally often. Then k-means divides the features that it has now, and so on. At
    the end k-means of the features finds the clusters that are wanted [1]_.

    Parameters
    ----------
    n_pseudolabels : int or "auto", default="auto"
        Clusters that the network learns; "auto" is five times `n_clusters`. With as many as are
        wanted in the end, DeepCluster is known to fail: errors of k-means are learned and stay.

    n_whitened : int or "auto", default="auto"
        Principal components of the features, each at variance 1, that k-means sees as vectors of
        unit length. "auto" is `n_clusters`.

    reassign_epochs : int or "auto", default="auto"
        Epochs for which labels are kept. "auto" is one, as in the paper, or as many as have 32
        steps, since a new classifier needs some to learn anything.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch: "classification", the cross-entropy of the labels in nats. It does
        not fall to 0, since the labels change and the classifier begins anew.

    See Also
    --------
    JULE : Merges clusters in place of k-means, from many to few.

    AutoencoderClustering : The same features of a network that reconstructs.

    Notes
    -----
    From the paper and the authors' code: features of plain views in evaluation mode, whitened
    principal components of unit length, k-means with a new seed, a new classifier whose moments in
    the optimizer are forgotten, sampling by the inverse size of the clusters. The authors learn
    10,000 clusters of 256 components of the million images of ImageNet, once an epoch, and do not
    look for few clusters; five per class, as many components as clusters, and labels that are kept
    for 32 steps are ours. More whitened components are noise to the last k-means. The authors'
    network sees edges in place of colours, and has dropout.

    References
    ----------
    .. [1] M. Caron, P. Bojanowski, A. Joulin, M. Douze. "Deep Clustering for Unsupervised Learning
       of Visual Features". ECCV 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DeepCluster
    >>> images = load_digits().images[:60] / 16
    >>> model = DeepCluster(n_clusters=3, max_epochs=4, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    n_pseudolabels: int | str = "auto"
    n_whitened: int | str = "auto"
    reassign_epochs: int | str = "auto"

    _collapse_remedies = ("More epochs", "an augmentation that fits the images", "fewer clusters")

    def _head_is_trained(self):
        return False  # the classifier is of other clusters

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("n_pseudolabels", self.n_pseudolabels, 1, also=["auto"])
        check_integer("n_whitened", self.n_whitened, 1, also=["auto"])
        check_integer("reassign_epochs", self.reassign_epochs, 1, also=["auto"])

    def _phases(self, setup):
        n, components, epochs = self.n_pseudolabels, self.n_whitened, self.reassign_epochs
        if n != "auto" and n > setup.n_samples:
            raise ValueError(f"n_pseudolabels={n} should be <= n_samples={setup.n_samples}")
        steps = steps_per_epoch(setup.n_samples, self.settings_["batch_size"])
        objective = PseudoLabelObjective(
            setup,
            n_pseudolabels=min(5 * self.n_clusters, setup.n_samples) if n == "auto" else n,
            n_whitened=self.n_clusters if components == "auto" else components,
            reassign_epochs=math.ceil(STEPS_OF_LABELS / steps) if epochs == "auto" else epochs,
        )
        yield Phase(objective)
