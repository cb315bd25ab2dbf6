"""Deep Embedded Clustering (Xie, Girshick, Farhadi, ICML 2016), and its improved variant.

The target distribution is that of the whole set, once per epoch. Implementations that compute it
per batch are another, noisier method.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.distributed import gather
from skcc.methods.autoencoder import (
    AutoencoderObjective,
    BaseReconstructionClusterer,
    squared_error,
)
from skcc.objective import Objective, Phase
from skcc.validation import check_integer, check_real

N_INIT = 20  # initialisations of k-means, as in the authors' code
SELF_TRAINING_RATE = 0.3  # learning rate of self-training, relative to that of the autoencoder


def student_assignments(code: Tensor, centers: Tensor) -> Tensor:
    """Soft assignments by Student's t-distribution with one degree of freedom (equation 1).

    Parameters
    ----------
    code : Tensor of shape (n, d)
        One row per sample.

    centers : Tensor of shape (n_clusters, d)
        One row per cluster.

    Returns
    -------
    q : Tensor of shape (n, n_clusters)
        Rows sum to one.
    """
    if code.dtype != torch.float64:
        code = code.float()
    squared = (code[:, None] - centers.to(code.dtype)).square().sum(dim=2)
    q = 1 / (1 + squared)
    return q / q.sum(dim=1, keepdim=True)


def target_distribution(q: Tensor) -> Tensor:
    """Sharpened assignments, in which large clusters count for less (equation 3).

    Parameters
    ----------
    q : Tensor of shape (n, n_clusters)
        Soft assignments of all samples of the set; all positive.

    Returns
    -------
    p : Tensor of shape (n, n_clusters)
        Rows sum to one.
    """
    weight = q.square() / q.sum(dim=0)
    return weight / weight.sum(dim=1, keepdim=True)


class SelfTrainingObjective(Objective):
    """Assignments to trained centres that follow their own sharpened version.

    Parameters
    ----------
    autoencoder : AutoencoderObjective
        Trained; its encoder is trained further, and its decoder if it has a weight.

    n_clusters, n_samples : int
        Shape of the target distribution.

    reconstruction_weight : float
        See `DEC`.
    """

    n_views = 0
    capturable = True

    def __init__(
        self,
        autoencoder: AutoencoderObjective,
        n_clusters: int,
        n_samples: int,
        *,
        reconstruction_weight: float,
    ):
        super().__init__()
        self.n_embedding = autoencoder.n_embedding
        self.backbone, self.code = autoencoder.backbone, autoencoder.code
        self.whitening = autoencoder.whitening
        self.decoder = autoencoder.decoder if reconstruction_weight else None
        self.reconstruction_weight = reconstruction_weight
        self.centers = nn.Parameter(torch.zeros(n_clusters, self.n_embedding))
        self.register_buffer("target", torch.zeros(n_samples, n_clusters))

    def train(self, mode: bool = True):
        """Set the mode of all but the backbone, which stays in evaluation mode.

        The target is computed in that mode. By the statistics of batches the code would be another
        one, and the whitening would not fit it.

        Parameters
        ----------
        mode : bool, default=True
            Of the decoder.

        Returns
        -------
        self : SelfTrainingObjective
            Itself.
        """
        super().train(mode)
        self.backbone.eval()
        return self

    def before_epoch(self, epoch):
        if epoch.number == 0:
            _, centers = epoch.k_means(self.embed, len(self.centers), n_init=N_INIT)
            self.centers.data.copy_(centers)
        self.target.copy_(target_distribution(epoch.sweep(self.assign)))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        (x,) = views
        code = self.code(self.backbone(x))
        q = student_assignments(self._directions(code), self.centers)
        q, target = gather(q, self.target[index])
        terms = {"divergence": F.kl_div(q.log(), target.to(q.dtype), reduction="batchmean")}
        if self.reconstruction_weight:
            (error,) = gather(squared_error(self.decoder(code), x))
            terms["reconstruction"] = self.reconstruction_weight * error.mean()
        return terms

    def assign(self, images: Tensor) -> Tensor:
        return student_assignments(self.embed(images), self.centers)

    def embed(self, images: Tensor) -> Tensor:
        return self._directions(self.code(self.backbone(images)))

    def _directions(self, code):
        """Whitened code of a mean square of 1 per component, as the whole set has it."""
        return math.sqrt(self.n_embedding) * F.normalize(self.whitening(code), dim=1)

    def release(self):
        self.decoder = self.target = None


class DEC(BaseReconstructionClusterer):
    """Cluster images by self-training on the code of an autoencoder (Deep Embedded Clustering).

    First an autoencoder is trained, and k-means of its code gives the centres of the clusters. Then
    the encoder and the centres are trained so that the soft assignments follow a target, which is
    their own sharpened version and gives less weight to large clusters. The target is computed from
    the whole set before each epoch [1]_.

    Parameters
    ----------
    pretraining_epochs : int, default="auto"
        Epochs of the autoencoder, before those of self-training, which are `max_epochs`. "auto" is
        as many.

    pretraining_corruption : float, default=0.3
        Standard deviation of the noise from which the autoencoder reconstructs, as in
        `DenoisingAutoencoderClustering`.

    reconstruction_weight : float, default=0.0
        Weight of the reconstruction error during self-training. Above 0 the decoder is kept, which
        is Improved Deep Embedded Clustering [2]_.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch of both phases: "reconstruction", the squared error per pixel;
        then "divergence" of the assignments from their target, in nats, with the weighted
        "reconstruction" if it has a weight.

    See Also
    --------
    AutoencoderClustering : The first phase alone.

    Notes
    -----
    The authors refresh the target every so many batches and stop when fewer than 0.1 % of the
    samples change their cluster; here that is once per epoch, for `max_epochs`. Their perceptron is
    trained layer by layer; here the backbone is trained at once.

    References
    ----------
    .. [1] J. Xie, R. Girshick, A. Farhadi. "Unsupervised Deep Embedding for Clustering Analysis".
       ICML 2016.

    .. [2] X. Guo, L. Gao, X. Liu, J. Yin. "Improved Deep Embedded Clustering with Local Structure
       Preservation". IJCAI 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DEC
    >>> images = load_digits().images[:60] / 16
    >>> model = DEC(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    pretraining_epochs: int | str = "auto"
    pretraining_corruption: float = 0.3
    reconstruction_weight: float = 0.0

    def _head_is_trained(self):
        return True

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("pretraining_epochs", self.pretraining_epochs, 1, also=["auto"])
        check_real("pretraining_corruption", self.pretraining_corruption, 0)
        check_real("reconstruction_weight", self.reconstruction_weight, 0)

    def _pretraining_epochs(self):
        epochs = self.pretraining_epochs
        return self.settings_["max_epochs"] if epochs == "auto" else epochs

    def _planned_epochs(self):
        return self._pretraining_epochs() + self.settings_["max_epochs"]

    def _phases(self, setup):
        autoencoder = AutoencoderObjective(
            setup,
            code_dim=self.code_dim,
            n_clusters=self.n_clusters,
            corruption="gaussian",
            corruption_level=self.pretraining_corruption,
        )
        yield Phase(autoencoder, "pretrain", epochs=self._pretraining_epochs())
        self_training = SelfTrainingObjective(
            autoencoder,
            self.n_clusters,
            setup.n_samples,
            reconstruction_weight=self.reconstruction_weight,
        )
        rate = SELF_TRAINING_RATE * self.settings_["learning_rate"]
        yield Phase(self_training, "cluster", learning_rate=rate)
