"""Twin-Contrast Clustering (Shen et al., NeurIPS 2021), reconstructed from its abstract.

The abstract says what is contrasted with what. The formulas are ours, as are the choices that the
docstring of `TwinContrastClustering` lists; docs/log.md has the measurements behind them.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skcc.distributed import gather
from skcc.losses import info_nce, negative_entropy, set_contrast, set_representation
from skcc.methods.contrastive import BaseContrastiveClusterer
from skcc.objective import HEAD_LOSS_WEIGHT, Objective, Phase, Queue, Setup, momentum_update
from skcc.validation import check_choice, check_integer, check_real

NOISE_ROWS = 4096  # Gumbel rows drawn per epoch; samples this many indices apart share one


class AssignedFeatures(nn.Module):
    """A backbone, cluster heads of prototypes, and an embedding of features and assignments.

    Parameters
    ----------
    backbone : nn.Module
        From views to features.

    n_features : int
        Width of the features.

    n_clusters : int
        Prototypes of a head.

    n_heads : int
        Number of heads.

    projection_dim : int
        Width of the embedding.

    assignment_temperature : float
        Divides the cosines between features and prototypes.

    conditioned : bool
        Whether the embedding depends on the assignments.
    """

    def __init__(
        self, backbone, n_features, n_clusters, *, n_heads, projection_dim,
        assignment_temperature, conditioned,
    ):  # fmt: skip
        super().__init__()
        self.backbone = backbone
        self.prototypes = nn.Parameter(torch.randn(n_heads, n_clusters, n_features))
        n_inputs = n_features + (n_heads * n_clusters if conditioned else 0)
        self.projection = nn.Linear(n_inputs, projection_dim)
        self.assignment_temperature = assignment_temperature
        self.conditioned = conditioned

    def logits(self, features: Tensor) -> Tensor:
        """Compute the logits of the assignments.

        Parameters
        ----------
        features : Tensor of shape (n, n_features)
            Of the backbone.

        Returns
        -------
        logits : Tensor of shape (n_heads, n, n_clusters)
            Cosines with the prototypes, over the temperature; at least float32.
        """
        with torch.autocast(features.device.type, enabled=False):
            # Without the temperature, cosines within [-1, 1] allow no confident assignment.
            cosines = _directions(features) @ _directions(self.prototypes).mT
            return cosines / self.assignment_temperature

    def embedding(self, features: Tensor, sample: Tensor) -> Tensor:
        """Compute the embedding of an instance: an affine map of features and assignments.

        Parameters
        ----------
        features : Tensor of shape (n, n_features)
            Of the backbone.

        sample : Tensor of shape (n_heads, n, n_clusters)
            Sampled assignments.

        Returns
        -------
        e : Tensor of shape (n, projection_dim)
            Not normalised.
        """
        if not self.conditioned:
            return self.projection(features)
        sample = sample.to(features.dtype).transpose(0, 1).flatten(1)
        return self.projection(torch.cat([features, sample], dim=1))


class ViewOutput:
    """Features, assignments and embedding of one view of a batch, gathered over all processes.

    Parameters
    ----------
    network : AssignedFeatures
        The network, or its twin.

    view : Tensor of shape (b, c, h, w) or (b, d)
        The part of the batch that belongs to this process.

    noise : Tensor of shape (n_heads, b, n_clusters)
        Added to the logits before assignments are sampled.

    gumbel_temperature : float
        See `TwinContrastClustering`.
    """

    def __init__(self, network, view, noise, gumbel_temperature):
        features = network.backbone(view)
        logits = network.logits(features)
        sample = F.softmax((logits + noise) / gumbel_temperature, dim=-1)
        embedding = network.embedding(features, sample)
        self.features, self.embedding, logits, sample = gather(
            features, embedding, logits.transpose(0, 1), sample.transpose(0, 1)
        )
        self.logits, self.sample = logits.transpose(0, 1), sample.transpose(0, 1)
        self.probability = F.softmax(self.logits, dim=-1)


@dataclass(frozen=True, kw_only=True)
class TwinContrastSettings:
    """Hyper-parameters of the objective; see `TwinContrastClustering`.

    Parameters
    ----------
    n_clusters, n_heads : int
        See `TwinContrastClustering`.

    n_epochs : int
        Epochs during which the noise of the sampled assignments fades.

    batch_size : int
        Samples per step over all processes; the unit of `instance_queue`.

    projection_dim : int
        See `TwinContrastClustering`.

    conditioned, symmetric : bool
        See `TwinContrastClustering`.

    instance_temperature, cluster_temperature, assignment_temperature : float
        See `TwinContrastClustering`.

    gumbel_temperature, gumbel_noise, momentum : float
        See `TwinContrastClustering`.

    instance_queue, cluster_queue : int
        See `TwinContrastClustering`.

    prior : str or None
        See `TwinContrastClustering`.

    prior_weight : float
        See `TwinContrastClustering`.

    membership, cluster_gradient : str
        See `TwinContrastClustering`.

    instance_weight, cluster_weight, entropy_weight : float
        See `TwinContrastClustering`.

    augmented_views : int, default=2
        See `TwinContrastClustering`.
    """

    n_clusters: int
    n_heads: int
    n_epochs: int
    batch_size: int
    projection_dim: int
    conditioned: bool
    symmetric: bool
    instance_temperature: float
    cluster_temperature: float
    assignment_temperature: float
    gumbel_temperature: float
    gumbel_noise: float
    momentum: float
    instance_queue: int
    cluster_queue: int
    prior: str | None
    prior_weight: float
    membership: str
    cluster_gradient: str
    instance_weight: float
    cluster_weight: float
    entropy_weight: float
    augmented_views: int = 2


class TwinContrastObjective(Objective):
    """The contrast of instances and the contrast of clusters of Twin-Contrast Clustering.

    Parameters
    ----------
    setup : Setup
        Backbone and its width.

    settings : TwinContrastSettings
        Hyper-parameters.
    """

    capturable = True

    def __init__(self, setup: Setup, settings: TwinContrastSettings):
        super().__init__()
        self.settings, self.n_embedding = settings, setup.n_features
        self.n_augmented = settings.augmented_views
        self.network = AssignedFeatures(
            setup.backbone,
            setup.n_features,
            settings.n_clusters,
            n_heads=settings.n_heads,
            projection_dim=settings.projection_dim,
            assignment_temperature=settings.assignment_temperature,
            conditioned=settings.conditioned,
        )
        self.twin = copy.deepcopy(self.network).requires_grad_(False)
        directions, n_heads = 2 if settings.symmetric else 1, settings.n_heads
        n_keys = settings.instance_queue * settings.batch_size * directions
        self.keys = Queue(n_keys, (settings.projection_dim,))
        self.key_indices = Queue(n_keys, fill=-1, dtype=torch.long)
        shape = (n_heads, settings.n_clusters, setup.n_features)
        self.past = Queue(settings.cluster_queue * directions, shape)
        noise = torch.zeros(2 * directions, NOISE_ROWS, settings.n_clusters)
        self.register_buffer("noise", noise, persistent=False)
        shifts = torch.arange(n_heads)[:, None] * (NOISE_ROWS // n_heads)
        self.register_buffer("shifts", shifts, persistent=False)
        self.register_buffer("head_loss", torch.zeros(n_heads))
        self._pending = []

    def before_epoch(self, epoch):
        uniform = torch.rand(self.noise.shape, generator=epoch.generator)
        uniform.clamp_(torch.finfo(uniform.dtype).tiny, 1 - torch.finfo(uniform.dtype).eps / 2)
        gumbel = -(-uniform.log()).log()
        self.noise.copy_(
            gumbel * (self.settings.gumbel_noise * (1 - epoch.number / self.settings.n_epochs))
        )

    def forward(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        queries, keys = self._queries_and_keys(views, index)
        terms = self._instance_losses(queries, keys, index)
        if self.settings.cluster_weight:
            contrast, entropy = self._cluster_losses(queries, keys)
            terms["cluster"] = self.settings.cluster_weight * contrast.mean()
            terms["entropy"] = (
                self.settings.cluster_weight * self.settings.entropy_weight * entropy.mean()
            )
        return terms

    def unlabeled(self, views: tuple[Tensor, ...], index: Tensor) -> dict[str, Tensor]:
        return self._instance_losses(*self._queries_and_keys(views, index), index)

    def _queries_and_keys(self, views, index):
        """Outputs of the network, and of its twin, in each direction."""
        pairs = [views, views[::-1]] if self.settings.symmetric else [views]
        noise = self.noise[:, (index + self.shifts) % NOISE_ROWS]
        queries, keys = [], []
        for (a, b), noise_a, noise_b in zip(pairs, noise[::2], noise[1::2], strict=True):
            queries.append(ViewOutput(self.network, a, noise_a, self.settings.gumbel_temperature))
            with torch.no_grad():
                keys.append(ViewOutput(self.twin, b, noise_b, self.settings.gumbel_temperature))
        return queries, keys

    def _instance_losses(self, queries, keys, index):
        """Terms of the evidence lower bound: contrast, and divergence from the prior."""
        terms = {}
        if self.settings.instance_weight:
            contrast = self._instance_contrast(queries, keys, index)
            terms["instance"] = self.settings.instance_weight * _mean(contrast)
        if self.settings.prior is not None:
            divergence = map(self._divergence, queries, keys)
            terms["prior"] = self.settings.prior_weight * _mean(divergence)
        return terms

    def _instance_contrast(self, queries, keys, index):
        """InfoNCE loss given the sampled assignments, for each direction."""
        (index,) = gather(index)
        fresh = _directions(torch.cat([key.embedding for key in keys]))
        key_indices = index.repeat(len(keys))
        self._pending += [(self.keys, fresh), (self.key_indices, key_indices)]
        negatives = torch.cat([fresh, self.keys.rows])
        key_indices = torch.cat([key_indices, self.key_indices.rows])
        mask = (key_indices != index[:, None]) & (key_indices >= 0)
        return [
            info_nce(query.embedding, key.embedding, negatives, mask=mask,
                     temperature=self.settings.instance_temperature)
            for query, key in zip(queries, keys, strict=True)
        ]  # fmt: skip

    def _divergence(self, query, key):
        """Mean Kullback-Leibler divergence of the assignments from their prior, in nats."""
        log_q = F.log_softmax(query.logits, dim=-1).flatten(0, 1)
        if self.settings.prior == "uniform":
            log_p = torch.full_like(log_q, -math.log(log_q.shape[1]))
        else:
            log_p = F.log_softmax(key.logits, dim=-1).flatten(0, 1)
        return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)

    def _cluster_losses(self, queries, keys):
        """Contrast and entropy of each head, of shape (n_heads,)."""
        contrast, entropy, fresh = [], [], []
        for query, key in zip(queries, keys, strict=True):
            features = _directions(query.features)
            if self.settings.cluster_gradient == "assignment":
                features = features.detach()
            r_query = set_representation(features, getattr(query, self.settings.membership))
            r_key = set_representation(
                _directions(key.features), getattr(key, self.settings.membership)
            )
            fresh.append(r_key)
            contrast.append(torch.stack([
                set_contrast(*heads, temperature=self.settings.cluster_temperature)
                for heads in zip(r_query, r_key, self.past.rows.unbind(1), strict=True)
            ]))  # fmt: skip
            entropy.append(torch.stack([*map(negative_entropy, query.probability)]))
        self._pending.append((self.past, torch.stack(fresh)))
        contrast, entropy = torch.stack(contrast).mean(dim=0), torch.stack(entropy).mean(dim=0)
        loss = (contrast + self.settings.entropy_weight * entropy).detach()
        self.head_loss.lerp_(loss, HEAD_LOSS_WEIGHT)
        return contrast, entropy

    def after_step(self):
        momentum_update(self.twin, self.network, self.settings.momentum)
        for queue, rows in self._pending:
            queue.push(rows)
        self._pending = []

    def release(self):
        self._pending = []
        self.twin = self.keys = self.key_indices = self.past = self.noise = self.shifts = None

    def assign(self, images: Tensor) -> Tensor:
        p = F.softmax(self.network.logits(self.embed(images)), dim=-1)
        return p.index_select(0, self.head_loss.argmin()[None])[0]

    def embed(self, images: Tensor) -> Tensor:
        return self.network.backbone(images)

    def project(self, images: Tensor) -> Tensor:
        features = self.embed(images)
        return self.network.embedding(features, F.softmax(self.network.logits(features), dim=-1))


def _directions(x):
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=-1, eps=1e-8)


def _mean(terms):
    return torch.stack(list(terms)).mean()


class TwinContrastClustering(BaseContrastiveClusterer):
    """Cluster images by contrasting instances, and clusters as the sets of their members.

    One view of each image passes through a network, another through its twin, which follows it as
    a moving average. Assignments, by cosine with a prototype per cluster, link two contrasts: an
    image should pick its own key among those of others, given the cluster it was sampled into; and
    a cluster, represented by the sum of its members' features, should pick itself in the other view
    among other clusters. Images go to the cluster of largest assignment [1]_.

    Parameters
    ----------
    assignment_temperature : float, default=0.05
        Sharpness of the assignments, which are cosines with prototypes. Smaller is sharper.

    gumbel_temperature : float, default=0.3
        Sharpness of the sampled assignments. Smaller is closer to picking one cluster.

    gumbel_noise : float, default=1.0
        Scale of the noise in the sampled assignments at the beginning; it fades to nothing during
        training. 1 makes the first samples follow the assignments, 0 is no noise.

    momentum : float, default=0.8
        Share of its own weights that the twin network keeps in each step; the rest follows the
        trained one. Longer training bears larger values.

    instance_queue : int, default=0
        Batches of past keys that instances are contrasted with, beside those of the present one.
        Those of the same image are left out.

    cluster_queue : int, default=20
        Batches of past representations that clusters are contrasted with. Those of the same
        cluster are left out.

    prior : {"ema", "uniform"} or None, default="ema"
        What assignments are held to: those of the twin network on the other view, equal
        probabilities, or nothing.

    prior_weight : float, default=0.2
        Weight of the Kullback-Leibler divergence from the prior. The bound has 1.

    membership : {"sample", "probability"}, default="sample"
        By what images are weighted in the representation of a cluster: their sampled assignment
        or its probability.

    conditioned : bool, default=True
        Whether the contrast between instances sees the sampled assignment.

    cluster_gradient : {"assignment", "all"}, default="assignment"
        How the contrast between clusters reaches the network: through the assignments alone, or
        also through the features that are added up.

    symmetric : bool, default=False
        Whether each view is contrasted with the twin's other one, or the first alone. It costs
        twice the arithmetic.

    Attributes
    ----------
    history_ : list of dict
        Mean loss terms of each epoch: "instance", "prior", "cluster" and "entropy", weighted,
        in nats.

    See Also
    --------
    ContrastiveClustering : Contrasts clusters by their columns of the assignments.

    sklearn.cluster.KMeans : Clusters the pixels, or the features of another network.

    Notes
    -----
    No code of the paper is public, and this was written from its abstract. From there: the
    assignment variables, the representation of a cluster by the weighted aggregate of its members,
    contrast between augmented equivalents of a cluster, the evidence lower bound of the contrast
    between instances with the assignment as latent variable, the reparametrised assignment,
    training end to end.

    Ours are all formulas that the abstract leaves open, chosen by measurement on small images
    (docs/log.md): one relaxed Gumbel sample per view in place of the expectation; the affine map of
    features and sample; assignments as scaled cosines with trained prototypes; the twin's
    assignment as prior, at a fifth of its weight; keys of the same batch and image; noise that
    fades; no gradient through aggregated features; and the entropy term of Contrastive Clustering
    [2]_, without which clusters run empty, since the contrast between clusters does not see their
    size.

    References
    ----------
    .. [1] Y. Shen, Z. Shen, M. Wang, J. Qin, P. Torr, L. Shao. "You Never Cluster Alone". NeurIPS
       2021.

    .. [2] Y. Li, P. Hu, Z. Liu, D. Peng, J. T. Zhou, X. Peng. "Contrastive Clustering". AAAI
       2021.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import TwinContrastClustering
    >>> images = load_digits().images[:60] / 16
    >>> model = TwinContrastClustering(n_clusters=3, max_epochs=30, random_state=0)
    >>> model.fit_predict(images).shape
    (60,)
    """

    assignment_temperature: float = 0.05
    gumbel_temperature: float = 0.3
    gumbel_noise: float = 1.0
    momentum: float = 0.8
    instance_queue: int = 0
    cluster_queue: int = 20
    prior: str | None = "ema"
    prior_weight: float = 0.2
    membership: str = "sample"
    conditioned: bool = True
    cluster_gradient: str = "assignment"
    symmetric: bool = False

    _muon_share = 0.6

    def _check_parameters(self):
        super()._check_parameters()
        for name in ("assignment_temperature", "gumbel_temperature"):
            check_real(name, getattr(self, name), 0, closed=False)
        for name in ("gumbel_noise", "prior_weight"):
            check_real(name, getattr(self, name), 0)
        for name in ("instance_queue", "cluster_queue"):
            check_integer(name, getattr(self, name), 0)
        check_real("momentum", self.momentum, 0, 1)
        check_choice("prior", self.prior, ["ema", "uniform", None])
        check_choice("membership", self.membership, ["sample", "probability"])
        check_choice("cluster_gradient", self.cluster_gradient, ["assignment", "all"])
        check_choice("conditioned", self.conditioned, [False, True])
        check_choice("symmetric", self.symmetric, [False, True])

    def _phases(self, setup):
        resolved = {
            "n_epochs": self.settings_["max_epochs"],
            "batch_size": self.settings_["batch_size"],
        }
        parameters = self._parameters_for(TwinContrastSettings) | resolved
        yield Phase(TwinContrastObjective(setup, TwinContrastSettings(**parameters)))
