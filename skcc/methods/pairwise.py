"""Methods that learn from pairs of images which the network itself calls similar or not.

Deep Adaptive Clustering (Chang et al., ICCV 2017), Deep Discriminative Clustering (Chang et al.,
2019) and Deep Comprehensive Correlation Mining (Wu et al., ICCV 2019). Pairs are judged on plain
views, and learned on two augmented ones. One cluster for all images makes every pair similar and
the loss 0: batch normalisation in the heads, or a constraint on the pairs, keeps it away.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.base import BaseDeepClusterer
from skcc.distributed import gather
from skcc.losses import jensen_shannon, negative_entropy, pair_cross_entropy, pair_squared_error
from skcc.objective import ClusterHeads, Objective, Phase, Setup
from skcc.validation import check_choice, check_integer, check_real

BALANCING_STEPS = 10  # of Sinkhorn's algorithm
PAIR_LOSSES = {"squared": pair_squared_error, "cross-entropy": pair_cross_entropy}


class LabelHead(nn.Sequential):
    """Logits that batch normalisation keeps from being the same for all images.

    Parameters
    ----------
    n_in : int
        Width of the features.

    n_clusters : int
        Width of the logits.
    """

    def __init__(self, n_in: int, n_clusters: int):
        again = nn.Linear(n_clusters, n_clusters)
        nn.init.eye_(again.weight)
        nn.init.zeros_(again.bias)
        super().__init__(
            nn.Linear(n_in, n_clusters), nn.BatchNorm1d(n_clusters), nn.ReLU(),
            again, nn.BatchNorm1d(n_clusters), nn.ReLU(),
        )  # fmt: skip


class PairwiseObjective(Objective):
    """Pairs that are judged on the plain view, and learned on two augmented ones.

    Auxiliary heads of more clusters train the backbone by their pairs. The heads of the clusters
    begin later and leave the backbone alone: they would make it confirm their mistakes. Without
    auxiliary heads, they train the backbone from the first epoch on.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    n_clusters : int
        Width of the assignments.

    n_subclusters : int or None
        Width of the assignments of the auxiliary heads; None for none.

    n_epochs : int
        Epochs of training.

    n_heads : int
        See `DAC`.

    warm_up : float
        See `DAC`.

    pair_loss : str, default="cross-entropy"
        A key of `PAIR_LOSSES`.
    """

    n_views, n_augmented = 3, 2

    def __init__(
        self, setup: Setup, n_clusters: int, n_subclusters: int | None, *, n_epochs: int,
        n_heads: int, warm_up: float, pair_loss: str = "cross-entropy",
    ):  # fmt: skip
        super().__init__()
        width = self.n_embedding = setup.n_features
        self.n_clusters = n_clusters
        self.n_epochs, self.pair_loss = n_epochs, PAIR_LOSSES[pair_loss]
        self.first_epoch = 0  # of the clusters
        self.backbone = setup.backbone
        self.cluster_heads = ClusterHeads(LabelHead(width, n_clusters) for _ in range(n_heads))
        self.subcluster_heads = None
        if n_subclusters is not None:
            self.first_epoch = min(int(warm_up * n_epochs), n_epochs - 1)
            self.subcluster_heads = ClusterHeads(
                LabelHead(width, n_subclusters) for _ in range(n_heads)
            )
        self.register_buffer("begun", torch.zeros(()))  # 1 if the clusters learn in this epoch

    def before_epoch(self, epoch):
        self.begun.fill_(float(epoch.number >= self.first_epoch))

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        augmented = [self.backbone(view) for view in views[:2]]
        with torch.no_grad():
            plain = self.backbone(views[2])
        features, terms = [*augmented, plain], {}
        if self.subcluster_heads is not None:
            p, q, target = self._assignments(self.subcluster_heads, features)
            terms["subclusters"] = self.pairs(p, q, target, even=True).mean()
            terms |= self.feature_terms(p, target)
            features = [h.detach() for h in features]
        p, q, target = self._assignments(self.cluster_heads, features)
        losses = self.pairs(p, q, target)
        self.cluster_heads.update(losses + negative_entropy(target))
        of_clusters = {"pairs": losses.mean()} | self.label_terms(p, q, target)
        if self.subcluster_heads is None:
            terms |= self.feature_terms(p, target)
        return terms | {name: self.begun * term for name, term in of_clusters.items()}

    @staticmethod
    def _assignments(heads, features):
        """Assignments of the two augmented views and, without gradient, the plain one."""
        *augmented, plain = features
        with torch.no_grad():
            target = heads(plain)
        rows = gather(*map(heads, augmented), target)
        return [p.transpose(0, 1) for p in rows]  # heads first

    def pairs(self, p: Tensor, q: Tensor, target: Tensor, *, even: bool = False) -> Tensor:
        """Compute the loss of the pairs of each head.

        Parameters
        ----------
        p, q : Tensor of shape (n_heads, n, k)
            Assignments of the augmented views.

        target : Tensor of shape (n_heads, n, k)
            Assignments of the plain view.

        even : bool, default=False
            Whether similar pairs have the same total weight as the others, which are many more.

        Returns
        -------
        losses : Tensor of shape (n_heads,)
            Mean over the pairs of an image in the first view and one in the second.
        """
        similar, weight = self.judge(target)
        if even:
            kinds = weight * similar, weight * (1 - similar)
            weight = sum(kind / kind.sum(dim=(-2, -1), keepdim=True).clamp_min(1) for kind in kinds)
        return self.pair_loss(cosines(p, q), similar, weight)

    def judge(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """Find similar pairs of images.

        Parameters
        ----------
        target : Tensor of shape (n_heads, n, k)
            Assignments of the plain view.

        Returns
        -------
        similar : Tensor of shape (n_heads, n, n)
            1 for similar pairs, 0 for the others.

        used : Tensor of shape (n_heads, n, n)
            0 for pairs that are in doubt, else 1.
        """
        raise NotImplementedError

    def label_terms(self, p: Tensor, q: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute further terms of the heads of the clusters.

        Parameters
        ----------
        p, q : Tensor of shape (n_heads, n, k)
            Assignments of the augmented views.

        target : Tensor of shape (n_heads, n, k)
            Assignments of the plain view.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Weighted.
        """
        return {}

    def feature_terms(self, p: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute further terms of the backbone.

        Parameters
        ----------
        p : Tensor of shape (n_heads, n, k)
            Assignments of the first augmented view, by the heads that train the backbone.

        target : Tensor of shape (n_heads, n, k)
            Assignments of the plain view.

        Returns
        -------
        terms : dict of str to Tensor of shape ()
            Weighted.
        """
        return {}

    def assign(self, images: Tensor) -> Tensor:
        return self.cluster_heads.best(self.backbone(images))

    def embed(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def release(self):
        self.subcluster_heads = None


def cosines(p: Tensor, q: Tensor) -> Tensor:
    """Cosines between the rows of two tables; unit rows are the label features of the papers."""
    return F.normalize(p, dim=-1) @ F.normalize(q, dim=-1).mT


class AdaptiveObjective(PairwiseObjective):
    """Pairs by two thresholds on the cosine, which close over the training.

    The auxiliary heads keep the first thresholds, since their clusters are finer.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    upper, lower, final : float
        See `DAC`.

    **options : dict
        Of `PairwiseObjective`.
    """

    capturable = True

    def __init__(self, setup: Setup, *, upper: float, lower: float, final: float, **options):
        super().__init__(setup, **options)
        self.ends = torch.tensor([upper, lower]), final
        self.register_buffer("thresholds", torch.tensor([upper, lower]))

    def before_epoch(self, epoch):
        super().before_epoch(epoch)
        start, final = self.ends
        progress = epoch.number / max(1, self.n_epochs - 1)
        self.thresholds.copy_(start + progress * (final - start))

    def judge(self, target: Tensor) -> tuple[Tensor, Tensor]:
        is_fine = target.shape[-1] != self.n_clusters
        upper, lower = self.ends[0] if is_fine else self.thresholds
        cosine = cosines(target, target)
        similar = (cosine >= upper).to(cosine.dtype)
        return similar, similar + (cosine < torch.minimum(upper, lower)).to(cosine.dtype)


class DiscriminativeObjective(PairwiseObjective):
    """Pairs by a partition of the batch into equal parts, and label features of one entry.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    local_weight : float
        See `DDC`.

    **options : dict
        Of `PairwiseObjective`.
    """

    capturable = True

    def __init__(self, setup: Setup, *, local_weight: float, **options):
        super().__init__(setup, **options)
        self.local_weight = local_weight

    def judge(self, target: Tensor) -> tuple[Tensor, Tensor]:
        log_share = target.clamp_min(torch.finfo(target.dtype).tiny).log()
        for _ in range(BALANCING_STEPS):
            log_share = log_share - log_share.logsumexp(dim=-2, keepdim=True)  # of each cluster
            log_share = log_share - log_share.logsumexp(dim=-1, keepdim=True)  # of each image
        member = F.one_hot(log_share.argmax(dim=-1), target.shape[-1]).to(target.dtype)
        return member @ member.mT, torch.ones_like(member @ member.mT)

    def label_terms(self, p: Tensor, q: Tensor, target: Tensor) -> dict[str, Tensor]:
        # Of unit rows without negative entries, those of one entry alone have a sum of 1.
        excess = (F.normalize(torch.stack([p, q]), dim=-1).sum(dim=-1) - 1).mean()
        return {"local": self.local_weight * excess}


class CorrelationObjective(PairwiseObjective):
    """Pairs by one threshold, labels of confident images, and mutual information of layers.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    threshold, confidence, label_weight, information_weight : float
        See `DCCM`.

    discriminator_width : int
        See `DCCM`.

    **options : dict
        Of `PairwiseObjective`.
    """

    capturable = True

    def __init__(
        self, setup: Setup, *, threshold: float, confidence: float, label_weight: float,
        information_weight: float, discriminator_width: int, **options,
    ):  # fmt: skip
        super().__init__(setup, **options)
        self.threshold, self.confidence = threshold, confidence
        self.label_weight, self.information_weight = label_weight, information_weight
        self.shallow = ShallowMap(setup)
        n_labels = options["n_heads"] * (options["n_subclusters"] or options["n_clusters"])
        self.discriminator = Discriminator(self.shallow.channels, n_labels, discriminator_width)

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        self.shallow.maps.clear()
        return super().forward(views, index)

    def judge(self, target: Tensor) -> tuple[Tensor, Tensor]:
        similar = (cosines(target, target) > self.threshold).to(target.dtype)
        return similar, torch.ones_like(similar)

    def label_terms(self, p: Tensor, q: Tensor, target: Tensor) -> dict[str, Tensor]:
        top, label = target.max(dim=-1)
        sure = (top > self.confidence).to(p.dtype)
        one_hot = F.one_hot(label, target.shape[-1]).to(p.dtype)
        weight = sure[..., None].expand_as(p)
        losses = pair_cross_entropy(p, one_hot, weight) + pair_cross_entropy(q, one_hot, weight)
        return {"label": self.label_weight * (sure.mean(dim=-1) * losses / 2).mean()}

    def feature_terms(self, p: Tensor, target: Tensor) -> dict[str, Tensor]:
        if not self.information_weight:
            return {}
        (maps,) = gather(self.shallow.maps[0])  # of the first augmented view, as `p`
        partner, stranger = partners(cosines(target, target).mean(dim=0), self.threshold)
        labels = p.transpose(0, 1).flatten(1)
        loss = jensen_shannon(
            self.discriminator(maps[partner], labels), self.discriminator(maps[stranger], labels)
        )
        return {"information": self.information_weight * loss}

    def release(self):
        super().release()
        self.shallow.remove()
        self.shallow = self.discriminator = None


class ShallowMap(nn.Module):
    """Keeps what the middle convolution of a network gives, or the middle linear layer.

    Parameters
    ----------
    setup : Setup
        With the network and the shape of its input.
    """

    def __init__(self, setup: Setup):
        super().__init__()
        self.maps: list[Tensor] = []
        layers = _layers_in_order(setup)
        convolutions = [pair for pair in layers if isinstance(pair[0], nn.Conv2d)]
        layer, self.channels = (convolutions or layers)[(len(convolutions or layers) - 1) // 2]
        self.handle = layer.register_forward_hook(self._keep)

    def _keep(self, layer, inputs, output):
        if layer.training:
            self.maps.append(output.flatten(2).mT if output.ndim > 2 else output[:, None])

    def remove(self) -> None:
        """Let the network forget it."""
        self.handle.remove()
        self.maps.clear()


def _layers_in_order(setup):
    """Convolutions and linear layers with the width of their output, as they are called."""
    seen, handles, network = [], [], setup.backbone
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            handles.append(layer.register_forward_hook(
                lambda layer, inputs, output: seen.append((layer, output.shape[1]))
            ))  # fmt: skip
    training, device = network.training, next(network.parameters()).device
    network.eval()  # batch statistics stay as they are
    with torch.no_grad():
        network(torch.zeros(2, *setup.view_shape, device=device))
    network.train(training)
    for handle in handles:
        handle.remove()
    if not seen:
        raise ValueError(
            "DCCM wants a backbone with a convolution or linear layer, which it compares with the "
            f"clusters; got {type(network).__name__}, which calls none"
        )
    return seen


class Discriminator(nn.Module):
    """Scores whether positions of a feature map and assignments belong to one image.

    Parameters
    ----------
    channels : int
        Of the feature map.

    n_labels : int
        Width of the assignments.

    width : int
        Of the two hidden layers.
    """

    def __init__(self, channels: int, n_labels: int, width: int):
        super().__init__()
        # The first layer acts on map and assignments side by side.
        self.of_map, self.of_labels = nn.Linear(channels, width), nn.Linear(n_labels, width)
        self.rest = nn.Sequential(
            nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Compute the scores.

        Parameters
        ----------
        maps : Tensor of shape (n, n_positions, channels)
            Feature maps.

        labels : Tensor of shape (n, n_labels)
            Assignments.

        Returns
        -------
        scores : Tensor of shape (n, n_positions, 1)
            Logits.
        """
        return self.rest(self.of_map(maps) + self.of_labels(labels)[:, None])


def partners(similar: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Find an image of the same cluster and one of another cluster for each image.

    Parameters
    ----------
    similar : Tensor of shape (n, n)
        Cosines between the images of a batch.

    threshold : float
        Above which two images are of one cluster.

    Returns
    -------
    partner : Tensor of int64 of shape (n,)
        The most similar other image of the same cluster, or the image itself if there is none.

    stranger : Tensor of int64 of shape (n,)
        The next image of another cluster in the batch, whose order is random.
    """
    n = len(similar)
    own = torch.arange(n, device=similar.device)
    itself = own == own[:, None]
    best, partner = similar.masked_fill(itself, -1).max(dim=1)
    partner = torch.where(best > threshold, partner, own)
    ahead = (own - own[:, None]).remainder(n)
    stranger = ahead.masked_fill((similar > threshold) | itself, n).argmin(dim=1)
    return partner, stranger


class BasePairwiseClusterer(BaseDeepClusterer):
    """Base of methods that learn from pairs.

    Parameters
    ----------
    n_heads : int, default=5
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    n_subclusters : int, "auto" or None, default="auto"
        Clusters of the auxiliary heads, which train the network; "auto" is five times `n_clusters`.
        None leaves them out: the heads of the clusters train the network from the first epoch on,
        as in the papers.

    warm_up : float, default=0.5
        Share of the epochs in which features are learned alone, before the clusters are. There is
        none in the paper.
    """

    n_heads: int = 5
    n_subclusters: int | str | None = "auto"
    warm_up: float = 0.5

    _auto_optimizer = "muon"

    def _check_parameters(self):
        super()._check_parameters()
        check_integer("n_subclusters", self.n_subclusters, 1, also=["auto", None])
        check_integer("n_heads", self.n_heads, 1)
        check_real("warm_up", self.warm_up, 0, 1)

    def _options(self):
        """Arguments of `PairwiseObjective`."""
        automatic = self.n_subclusters == "auto"
        return self._parameters_for(PairwiseObjective) | {
            "n_subclusters": 5 * self.n_clusters if automatic else self.n_subclusters,
            "n_epochs": self.settings_["max_epochs"],
        }


class DAC(BasePairwiseClusterer):
    """Cluster images by whether pairs of them are similar, at thresholds that close.

    The assignments of two images are compared by cosine. A pair above one threshold is called
    similar, below another dissimilar, and the network is trained to agree, on augmented views.
    The thresholds approach each other, so that pairs in doubt are learned last [1]_.

    Parameters
    ----------
    n_heads : int, default=10
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    pair_loss : {"cross-entropy", "squared"}, default="cross-entropy"
        Loss of a pair. The authors' code has the squared error for MNIST, and the cross-entropy
        of the paper for photos.

    upper : float, default=0.95
        Cosine above which a pair is similar, at the beginning.

    lower : float, default=0.455
        Cosine below which a pair is dissimilar, at the beginning. Where it is `upper`, all pairs
        are used, as in the authors' code.

    final : float, default=0.9
        Cosine to which both thresholds move, linearly with the epochs. The paper moves from .95 and
        .455 to .5, the code from .9 (MNIST) or .99 to .5, or to .75 for CIFAR-10. In few steps a
        low one makes merged clusters stay merged.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch: "pairs" of the clusters, 0 until they begin, and
        "subclusters", the pairs of the auxiliary heads.

    See Also
    --------
    DDC : Pairs by a partition into equal parts.

    DCCM : Pairs by one threshold, and further terms.

    Notes
    -----
    One cluster for all images is a zero of the loss: then all pairs are similar. What prevents it
    is the batch normalisation before the softmax, by which no cluster can have the same logit for
    all images. The authors normalise by batch statistics in prediction, too; here they are tracked,
    so that `predict` does not depend on the batch. `fit` warns if clusters are empty nevertheless.

    The network of the papers ends in the label features. Here a second group of heads with more
    clusters learns by the same pairs and trains the network; the heads of the clusters begin later,
    on features that they do not change. That is ours, as are two augmented views in place of one,
    several heads, and the equal weight of both kinds of pairs of the auxiliary heads. In 500 steps,
    clusters that trained the network themselves made it confirm their mistakes: accuracy on digits
    fell during training (docs/log.md).

    References
    ----------
    .. [1] J. Chang, L. Wang, G. Meng, S. Xiang, C. Pan. "Deep Adaptive Image Clustering". ICCV
       2017.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DAC
    >>> images = load_digits().images[:200] / 16
    >>> model = DAC(n_clusters=10, max_epochs=20, random_state=0)
    >>> model.fit_predict(images).shape
    (200,)
    """

    n_heads: int = 10
    pair_loss: str = "cross-entropy"
    upper: float = 0.95
    lower: float = 0.455
    final: float = 0.9

    def _check_parameters(self):
        super()._check_parameters()
        check_choice("pair_loss", self.pair_loss, PAIR_LOSSES)
        for name in ("upper", "lower", "final"):
            check_real(name, getattr(self, name), 0, 1)

    def _phases(self, setup):
        thresholds = {name: getattr(self, name) for name in ("upper", "lower", "final")}
        yield Phase(AdaptiveObjective(setup, **thresholds, **self._options()))


class DDC(BasePairwiseClusterer):
    """Cluster images by relations between them and one-hot representations (reconstructed).

    In each step the network's assignments of a batch are made a partition into equal parts. Two
    images are related if they are in one part, and the network is trained to agree, on augmented
    views, with assignments that are one-hot [1]_.

    Parameters
    ----------
    local_weight : float, default=0.1
        Weight of the local constraint, which wants one-hot assignments.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch: "pairs" and "local" of the clusters, 0 until they begin, and
        "subclusters", the pairs of the auxiliary heads.

    See Also
    --------
    DAC : Pairs by thresholds that close.

    DCCM : Pairs by one threshold, and further terms.

    Notes
    -----
    This is Deep Discriminative Clustering of Chang et al. (2019), not the density-based method of
    Ren et al. that ClustPy has under the same three letters.

    No code of the paper is public, and this was written from its abstract. From there: clustering
    as learning the relationships between patterns; a global constraint, by which they are
    estimated adaptively; a local constraint that makes representations discriminative; training
    and estimation in turn, batch by batch; and representations that give the clusters directly.

    Ours are all formulas. The global constraint: relations are those of a partition of the batch
    into `n_clusters` parts of equal size, found by Sinkhorn's algorithm on the assignments of
    plain views [2]_. So they are reflexive, symmetric and transitive, and one cluster for all
    images is no solution. The local constraint: the sum of the unit vector of the assignments,
    which is 1 for one-hot ones, and more for others. The loss of a pair is the cross-entropy.

    The network of the papers ends in the label features. Here a second group of heads with more
    clusters learns by the same pairs and trains the network; the heads of the clusters begin later,
    on features that they do not change. That is ours, as are two augmented views in place of one,
    several heads, and the equal weight of both kinds of pairs of the auxiliary heads. In 500 steps,
    clusters that trained the network themselves made it confirm their mistakes: accuracy on digits
    fell during training (docs/log.md).

    References
    ----------
    .. [1] J. Chang, Y. Guo, L. Wang, G. Meng, S. Xiang, C. Pan. "Deep Discriminative Clustering
       Analysis". 2019.

    .. [2] M. Cuturi. "Sinkhorn Distances: Lightspeed Computation of Optimal Transport". NeurIPS
       2013.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DDC
    >>> images = load_digits().images[:60] / 16
    >>> model = DDC(n_clusters=3, max_epochs=10, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    local_weight: float = 0.1

    def _check_parameters(self):
        super()._check_parameters()
        check_real("local_weight", self.local_weight, 0)

    def _phases(self, setup):
        options = self._options() | {"local_weight": self.local_weight}
        yield Phase(DiscriminativeObjective(setup, **options))


class DCCM(BasePairwiseClusterer):
    """Cluster images by several kinds of correlations between them (DCCM).

    Pairs of images with like assignments are similar, all others are not. Images with a confident
    assignment are labelled with it. And the assignments should tell a shallow feature map of the
    image, or of the most similar one, from that of an image of another cluster. All three are
    judged on plain views, and learned on augmented ones [1]_.

    Parameters
    ----------
    n_heads : int, default=10
        Cluster heads that are trained side by side on the one backbone; the one of least loss
        is used. A head that starts badly may merge two clusters and split a third for good;
        several rarely all do.

    threshold : float, default=0.95
        Cosine between assignments above which a pair is similar.

    confidence : float, default=0.9
        Probability above which the cluster of an image is its label.

    label_weight : float, default=5.0
        Weight of these labels.

    information_weight : float, default=0.05
        Weight of the mutual information between the feature map and the assignments. 0 leaves it
        out.

    discriminator_width : int, default=64
        Width of the network that estimates the mutual information. The paper has 512.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch, weighted: "pairs" and "label" of the clusters, 0 until they
        begin; "subclusters", the pairs of the auxiliary heads; and "information", which is twice
        log 2 times its weight if nothing is known.

    See Also
    --------
    DAC : Pairs by thresholds that close.

    DDC : Pairs by a partition into equal parts.

    Notes
    -----
    As in `DAC`, one cluster for all images is a zero of the loss, and batch normalisation before
    the softmax prevents it; the authors' does without tracked statistics. The feature map is that
    of the middle convolution, whatever the network, or of the middle linear layer for vectors; its
    mutual information is with the assignments by the auxiliary heads.

    The network of the papers ends in the label features. Here a second group of heads with more
    clusters learns by the same pairs and trains the network; the heads of the clusters begin later,
    on features that they do not change. That is ours, as are two augmented views in place of one,
    several heads, and the equal weight of both kinds of pairs of the auxiliary heads. In 500 steps,
    clusters that trained the network themselves made it confirm their mistakes: accuracy on digits
    fell during training (docs/log.md).

    Users of the authors' code could not reach the published figures: .46 in place of .62 on
    CIFAR-10.

    References
    ----------
    .. [1] J. Wu, K. Long, F. Wang, C. Qian, C. Li, Z. Lin, H. Zha. "Deep Comprehensive Correlation
       Mining for Image Clustering". ICCV 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import DCCM
    >>> images = load_digits().images[:60] / 16
    >>> model = DCCM(n_clusters=3, max_epochs=20, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    n_heads: int = 10
    threshold: float = 0.95
    confidence: float = 0.9
    label_weight: float = 5.0
    information_weight: float = 0.05
    discriminator_width: int = 64

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("threshold", "confidence"):
            check_real(name, getattr(self, name), 0, 1)
        for name in ("label_weight", "information_weight"):
            check_real(name, getattr(self, name), 0)
        check_integer("discriminator_width", self.discriminator_width, 1)

    def _phases(self, setup):
        own = ("threshold", "confidence", "label_weight", "information_weight",
               "discriminator_width")  # fmt: skip
        options = {name: getattr(self, name) for name in own} | self._options()
        yield Phase(CorrelationObjective(setup, **options))
