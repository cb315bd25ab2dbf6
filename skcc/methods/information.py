"""Invariant Information Clustering and PICA: agreement of assignments, with over-clustering heads.

Both compare the assignments of a plain view with those of augmented ones and have no other loss.
Two groups of heads share the backbone: one of as many clusters as are wanted, and one of more,
which makes the network see what distinguishes images. The two methods differ in the loss of a head.
"""

import torch
from torch import Tensor, nn

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import negative_entropy, negative_mutual_information, partition_confidence
from skcc.objective import ClusterHeads, Objective, Phase, Setup
from skcc.validation import check_integer, check_real, plain, raise_invalid


class OverclusteringObjective(Objective):
    """Two groups of cluster heads on one backbone.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    n_clusters, n_overclusters : int
        Widths of the assignments of the two groups.

    n_epochs : int
        Epochs of training.

    n_heads, repeats : int
        See `IIC`.

    warm_up : float
        See `IIC`.

    alternate : tuple of (int, int) or None
        See `IIC`.
    """

    def __init__(
        self, setup: Setup, n_clusters: int, n_overclusters: int, *, n_epochs: int, n_heads: int,
        repeats: int, warm_up: float, alternate: tuple[int, int] | None,
    ):  # fmt: skip
        super().__init__()
        width = self.n_embedding = setup.n_features
        self.n_views, self.n_augmented = 1 + repeats, repeats
        self.first_epoch = min(int(warm_up * n_epochs), n_epochs - 1)  # of the clusters
        self.alternate = alternate
        self.backbone = setup.backbone
        self.cluster_heads = ClusterHeads(nn.Linear(width, n_clusters) for _ in range(n_heads))
        self.overcluster_heads = ClusterHeads(
            nn.Linear(width, n_overclusters) for _ in range(n_heads)
        )
        self.register_buffer("trained", torch.zeros(2))  # 1 for groups that learn in this epoch

    def before_epoch(self, epoch):
        begun = epoch.number >= self.first_epoch
        cluster, overcluster = begun, True
        if begun and self.alternate is not None:
            overcluster_epochs, cluster_epochs = self.alternate
            in_cycle = (epoch.number - self.first_epoch) % (overcluster_epochs + cluster_epochs)
            cluster, overcluster = in_cycle >= overcluster_epochs, in_cycle < overcluster_epochs
        self.trained.copy_(torch.tensor([float(cluster), float(overcluster)]))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        features = [self.backbone(view) for view in views]  # batch statistics are per view
        groups = {"cluster": self.cluster_heads, "overcluster": self.overcluster_heads}
        rows = gather(*(heads(h) for heads in groups.values() for h in features))
        rows = [p.transpose(0, 1) for p in rows]  # heads first
        terms = {}
        for (name, heads), trained in zip(groups.items(), self.trained, strict=True):
            *augmented, plain_view = rows[: len(views)]
            rows = rows[len(views) :]
            losses = self.losses(plain_view, augmented)
            heads.update(losses)
            # The value of a group that does not learn is reported, too; it has no gradient.
            value = losses.mean().detach()
            terms[name] = value + trained * (losses.mean() - value)
        return terms

    def losses(self, plain_view: Tensor, augmented: list[Tensor]) -> Tensor:
        """Compute the loss of each head of a group.

        Parameters
        ----------
        plain_view : Tensor of shape (n_heads, n, k)
            Assignments of the plain view.

        augmented : list of Tensor of shape (n_heads, n, k)
            Assignments of the augmented views.

        Returns
        -------
        losses : Tensor of shape (n_heads,)
            In nats.
        """
        raise NotImplementedError

    def assign(self, images: Tensor) -> Tensor:
        return self.cluster_heads.best(self.backbone(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def release(self):
        self.overcluster_heads = None


class IICObjective(OverclusteringObjective):
    """Mutual information between the clusters of a plain and of augmented views.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    marginal_weight : float
        See `IIC`.

    **options : dict
        Of `OverclusteringObjective`.
    """

    capturable = True

    def __init__(self, setup: Setup, *, marginal_weight: float, **options):
        super().__init__(setup, **options)
        self.marginal_weight = marginal_weight

    def losses(self, plain_view: Tensor, augmented: list[Tensor]) -> Tensor:
        # The joint distribution over all repeats is that with their mean.
        mean = torch.stack(augmented).mean(dim=0)
        return negative_mutual_information(plain_view, mean, marginal_weight=self.marginal_weight)


class PICAObjective(OverclusteringObjective):
    """Confidence of the partition, between a plain and augmented views.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    balance_weight : float
        See `PICA`.

    **options : dict
        Of `OverclusteringObjective`.
    """

    capturable = True

    def __init__(self, setup: Setup, *, balance_weight: float, **options):
        super().__init__(setup, **options)
        self.balance_weight = balance_weight

    def losses(self, plain_view: Tensor, augmented: list[Tensor]) -> Tensor:
        repeated = plain_view.repeat(1, len(augmented), 1)
        confidence = partition_confidence(repeated, torch.cat(augmented, dim=1))
        return confidence + self.balance_weight * negative_entropy(plain_view)


class BaseOverclusteringClusterer(BaseDeepClusterer):
    """Base of methods with over-clustering heads.

    Parameters
    ----------
    n_heads : int, default=5
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    n_overclusters : int or "auto", default="auto"
        Clusters of the auxiliary heads; "auto" is five times `n_clusters`. They are of no use for
        the result, but the network learns more from them.

    repeats : int, default=2
        Augmented views of each image in a step, which are compared with the plain one.

    warm_up : float, default=0.5
        Share of the epochs in which features are learned alone, before the clusters are. There is
        none in the paper.

    alternate : tuple of (int, int) or None, default=None
        ``(a, b)`` trains the auxiliary heads for `a` epochs, then the others for `b`, and so on, as
        the papers do. None trains both in each step.
    """

    n_heads: int = 5
    n_overclusters: int | str = "auto"
    repeats: int = 2
    warm_up: float = 0.5
    alternate: tuple[int, int] | None = None

    _auto_optimizer = "muon"
    _muon_share = 0.8

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("n_overclusters", self.n_overclusters, 1, also=["auto"])
        check_integer("n_heads", self.n_heads, 1)
        check_integer("repeats", self.repeats, 1)
        check_real("warm_up", self.warm_up, 0, 1)
        _check_alternate(plain(self.alternate))

    def _options(self):
        """Arguments of `OverclusteringObjective`."""
        automatic = self.n_overclusters == "auto"
        return self._parameters_for(OverclusteringObjective) | {
            "n_overclusters": 5 * self.n_clusters if automatic else self.n_overclusters,
            "n_epochs": self.settings_["max_epochs"],
        }


def _check_alternate(alternate):
    if alternate is None:
        return
    if not isinstance(alternate, (tuple, list)) or len(alternate) != 2:
        raise_invalid("alternate", alternate, "a pair of numbers of epochs, or None")
    for epochs in alternate:
        check_integer("each entry of alternate", epochs, 1)


class IIC(BaseOverclusteringClusterer):
    """Cluster images by the mutual information of the clusters of their views.

    The cluster of an image should tell the cluster of an augmented view of it, and as much as
    possible: so assignments become confident, agree between views, and use all clusters. There is
    no loss but the mutual information, which heads of more clusters maximise, too [1]_.

    Parameters
    ----------
    n_heads : int, default=10
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    marginal_weight : float, default=1.5
        Weight of the entropy of the clusters in the mutual information. Larger values favour
        clusters of equal size. The paper has 1, with which clusters are merged early and stay so
        unless training is long.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch, in nats: "cluster" of the heads, "overcluster" of the auxiliary
        ones, both also while they are not trained. At a `marginal_weight` w the least value for k
        clusters is ``(1 - 2 w) log k``, and 0 is that of useless ones.

    See Also
    --------
    PICA : The same heads, and a loss that compares clusters by cosine.

    ContrastiveClustering : Contrasts instances, too.

    Notes
    -----
    The loss, the two groups of heads, the sub-heads and the repeats are those of the paper. Ours is
    the choice of the sub-head by its running loss (the authors report the last as well as the best
    by labels); batch statistics are tracked, so that `predict` does not depend on the batch; and
    images have their colours, where the authors' network sees the edges of a gray image. Ten
    sub-heads are ours, too; theirs are five.

    The authors train for thousands of epochs. For a few minutes of a CPU both groups of heads are
    trained in each step, and the clusters once the auxiliary heads have taught the network what to
    see; `skcc.experiments.recipes.RECIPES` holds the paper's own settings.

    References
    ----------
    .. [1] X. Ji, J. F. Henriques, A. Vedaldi. "Invariant Information Clustering for Unsupervised
       Image Classification and Segmentation". ICCV 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import IIC
    >>> images = load_digits().images[:60] / 16
    >>> model = IIC(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    n_heads: int = 10
    marginal_weight: float = 1.5

    _collapse_remedies = (
        "More epochs", "a larger marginal_weight", "stronger augmentation", "fewer clusters",
    )  # fmt: skip

    def _check_parameters(self):
        super()._check_parameters()
        check_real("marginal_weight", self.marginal_weight, 0)

    def _phases(self, setup):
        yield Phase(IICObjective(setup, marginal_weight=self.marginal_weight, **self._options()))


class PICA(BaseOverclusteringClusterer):
    """Cluster images by the confidence of the partition (PICA).

    Two views of the images give two tables of assignments. A column is a cluster, and should be
    similar to itself in the other table and orthogonal to the other clusters there. That is so if
    each image is in one cluster with confidence, the same in both views [1]_.

    Parameters
    ----------
    balance_weight : float, default=2.0
        Weight of the term that wants clusters of equal size.

    Attributes
    ----------
    history_ : list of dict
        Mean loss of each epoch, in nats: "cluster" of the heads, "overcluster" of the auxiliary
        ones, both also while they are not trained. The least value for k clusters is
        ``log(e + k - 1) - 1``, so flat curves are normal.

    See Also
    --------
    IIC : The same heads, and the mutual information as their loss.

    ContrastiveClustering : Contrasts clusters also within a view, and instances.

    Notes
    -----
    The loss, the two groups of heads and the repeats are those of the paper and its code. Ours are
    the sub-heads, an idea of Invariant Information Clustering, and that images have their colours,
    where the authors' network sees the edges of a gray image.

    For a few minutes of a CPU both groups of heads are trained in each step, and the clusters once
    the auxiliary heads have taught the network what to see;
    `skcc.experiments.recipes.RECIPES` holds the paper's own settings.

    References
    ----------
    .. [1] J. Huang, S. Gong, X. Zhu. "Deep Semantic Clustering by Partition Confidence
       Maximisation". CVPR 2020.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import PICA
    >>> images = load_digits().images[:60] / 16
    >>> model = PICA(n_clusters=3, max_epochs=20, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    balance_weight: float = 2.0

    _collapse_remedies = (
        "More epochs", "a larger balance_weight", "stronger augmentation", "fewer clusters",
    )  # fmt: skip

    def _check_parameters(self):
        super()._check_parameters()
        check_real("balance_weight", self.balance_weight, 0)

    def _phases(self, setup):
        yield Phase(PICAObjective(setup, balance_weight=self.balance_weight, **self._options()))
