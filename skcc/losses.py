"""Losses as pure functions of tensors.

A loss takes the rows of the whole batch and depends on no module, device or rank. It computes in
float32, or in float64 if its arguments are float64, also under autocast: bfloat16 is too coarse
for a softmax over similarities.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALL = 1e-8  # below which probabilities are cut off before their logarithm is taken


def _full_precision(loss):
    """Disable autocast in `loss`, and cast its arguments to float32 unless they are float64."""

    @functools.wraps(loss)
    def wrapped(*tensors, **kwargs):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*(t if t.dtype == torch.float64 else t.float() for t in tensors), **kwargs)

    return wrapped


@_full_precision
def nt_xent(a: Tensor, b: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two sets of paired rows.

    It is the cross-entropy of identifying the partner of each of the ``2n`` rows among the
    ``2n - 1`` other rows, with cosine similarities as logits. Equal similarities give
    ``log(2n - 1)``.

    Parameters
    ----------
    a, b : Tensor of shape (n, d)
        Row ``i`` of `a` and row ``i`` of `b` are a positive pair. Rows need not be normalised;
        a zero row has cosine similarity 0 to every row.

    temperature : float, default=0.5
        Divides the similarities; a smaller one gives a sharper softmax.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the ``2n`` rows, in nats; never negative.

    Notes
    -----
    Equations 2 and 3 of [1]_. There the denominator includes the similarity of a row to itself;
    the authors' code excludes it, and so does this function.

    References
    ----------
    .. [1] Y. Li et al. "Contrastive Clustering". AAAI 2021.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import nt_xent
    >>> a = torch.ones(4, 3)
    >>> round(nt_xent(a, a).exp().item(), 3)
    7.0
    """
    rows = F.normalize(torch.cat([a, b]), dim=1, eps=1e-8)
    similarity = rows @ rows.T / temperature
    similarity = similarity.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -torch.inf
    )
    partner = torch.arange(len(rows), device=rows.device).roll(len(a))
    return F.cross_entropy(similarity, partner)


def cluster_contrast(p: Tensor, q: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Cluster contrast: `nt_xent` over the columns of two assignment matrices.

    Column ``j`` is the representation of cluster ``j``. It should be similar in the two views and
    differ from the columns of the other clusters. Equal columns give ``log(2k - 1)``. The minimum
    is ``log(1 + (2k - 2) / e)`` at temperature 1, for one-hot assignments that are equal in both
    views.

    Parameters
    ----------
    p, q : Tensor of shape (n, k)
        Soft assignments of the two views; rows sum to one.

    temperature : float, default=1.0
        Divides the similarities between columns.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the ``2k`` columns, in nats; never negative.

    Notes
    -----
    Equations 4 and 5 of [1]_ without the entropy, which is `negative_entropy`. The largest
    tensors have ``(2k)**2`` and ``2 * k * n`` elements.

    References
    ----------
    .. [1] Y. Li et al. "Contrastive Clustering". AAAI 2021.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import cluster_contrast
    >>> p = torch.full((8, 2), 0.5)
    >>> round(cluster_contrast(p, p).exp().item(), 3)
    3.0
    """
    return nt_xent(p.T, q.T, temperature=temperature)


@_full_precision
def negative_entropy(p: Tensor) -> Tensor:
    """Maximum entropy minus the entropy of the mean assignment.

    Minimising this loss prevents the collapse into few clusters. It is ``log k`` minus the entropy
    of the mean row of `p`: 0 if all clusters have equal mean probability, ``log k`` if one cluster
    has all of it.

    Parameters
    ----------
    p : Tensor of shape (..., n, k)
        Soft assignments; rows sum to one. Leading axes are of independent assignments.

    Returns
    -------
    loss : Tensor of shape (...)
        In nats, between 0 and ``log k``.

    Notes
    -----
    The term ``-H(Y)`` of equation 6 of [1]_ for one view, plus the constant ``log k``, as in the
    authors' code, so that the minimum is 0. An empty cluster contributes 0 and has a finite
    gradient.

    References
    ----------
    .. [1] Y. Li et al. "Contrastive Clustering". AAAI 2021.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import negative_entropy
    >>> negative_entropy(torch.full((4, 2), 0.5))
    tensor(0.)
    >>> negative_entropy(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(0.6931)
    """
    mean = p.mean(dim=-2)
    # torch.special.entr has an infinite gradient at 0, the mean probability of an empty cluster.
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return (math.log(mean.shape[-1]) + (mean * log_mean).sum(dim=-1)).clamp_min(0)


@_full_precision
def info_nce(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Cross-entropy of identifying the key of each query among negatives, by cosine similarity.

    Equal similarities give ``log(1 + m)``. If every key equals its query and all negatives are
    orthogonal to it, the loss is ``log(1 + m / e)`` at temperature 1.

    Parameters
    ----------
    query, key : Tensor of shape (n, d)
        Row ``i`` of `query` and row ``i`` of `key` are a positive pair.

    negatives : Tensor of shape (m, d)
        Negatives, shared by all queries.

    mask : Tensor of bool of shape (n, m), default=None
        Which negatives are used for which query. None uses all.

    temperature : float, default=1.0
        Divides the similarities; a smaller one gives a sharper softmax.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the queries, in nats; never negative.

    References
    ----------
    .. [1] A. van den Oord, Y. Li, O. Vinyals. "Representation Learning with Contrastive
       Predictive Coding". 2018. With a queue of negatives: K. He et al. "Momentum Contrast for
       Unsupervised Visual Representation Learning". CVPR 2020.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import info_nce
    >>> ones = torch.ones(4, 3)
    >>> round(info_nce(ones, ones, torch.ones(6, 3)).exp().item(), 3)
    7.0
    """
    query, key, negatives = (F.normalize(x, dim=1, eps=1e-8) for x in (query, key, negatives))
    similarity = query @ negatives.T
    if mask is not None:
        similarity = similarity.masked_fill(~mask, -torch.inf)
    positive = (query * key).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, similarity], dim=1) / temperature
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


@_full_precision
def set_representation(features: Tensor, membership: Tensor) -> Tensor:
    """Representation of each cluster: the normalised weighted sum of the features.

    Parameters
    ----------
    features : Tensor of shape (n, d)
        One row per sample.

    membership : Tensor of shape (..., n, k)
        Nonnegative weight of each sample in each cluster. A constant factor of a column does not
        change the result, so it does not depend on the sizes of the clusters.

    Returns
    -------
    r : Tensor of shape (..., k, d)
        Rows of norm one; the row of an empty cluster is zero.

    References
    ----------
    .. [1] Y. Shen et al. "You Never Cluster Alone". NeurIPS 2021.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import set_representation
    >>> set_representation(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.eye(2) / 2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    return F.normalize(membership.mT @ features, dim=-1, eps=1e-8)


@_full_precision
def set_contrast(r: Tensor, s: Tensor, past: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Contrastive loss between representations of clusters.

    It is the cross-entropy of identifying cluster ``j`` of the second view, given cluster ``j`` of
    the first, among the other clusters of both views and of earlier representations. Equal
    representations give ``log(1 + (q + 2)(k - 1))``. A regular simplex that is the same in both
    views and in the past gives ``log(1 + (q + 2)(k - 1) exp(-k / (k - 1)))`` at temperature 1.

    Parameters
    ----------
    r, s : Tensor of shape (k, d)
        Representations from the first and the second view; row ``j`` of both is cluster ``j``.

    past : Tensor of shape (q, k, d)
        Earlier representations. Those of the same cluster are no negatives.

    temperature : float, default=1.0
        Divides the similarities; a smaller one gives a sharper softmax.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the clusters, in nats; never negative, and 0 for a single cluster.

    Notes
    -----
    A reconstruction: the abstract of [1]_ states what is contrasted, but not the formula. Zero
    rows, such as unused entries of a queue, have cosine similarity 0 to every row.

    References
    ----------
    .. [1] Y. Shen et al. "You Never Cluster Alone". NeurIPS 2021.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import set_contrast
    >>> r = torch.ones(3, 2)
    >>> round(set_contrast(r, r, torch.ones(4, 3, 2)).exp().item(), 3)
    13.0
    """
    k = len(r)
    same_cluster = torch.eye(k, dtype=torch.bool, device=r.device)
    r, s, past = (F.normalize(x, dim=-1, eps=1e-8) for x in (r, s, past))
    within_view = (r @ r.T).masked_fill(same_cluster, -torch.inf)
    to_past = (r @ past.flatten(0, 1).T).view(k, len(past), k)
    to_past = to_past.masked_fill(same_cluster[:, None], -torch.inf).flatten(1)
    logits = torch.cat([r @ s.T, within_view, to_past], dim=1) / temperature
    return F.cross_entropy(logits, torch.arange(k, device=r.device))


@_full_precision
def negative_mutual_information(p: Tensor, q: Tensor, *, marginal_weight: float = 1.0) -> Tensor:
    """Negative mutual information of the clusters of two views.

    The joint distribution of the two clusters of an image is the mean of the outer products of its
    two assignments, made symmetric. At a weight of 1, the loss is ``-log k`` if both views have the
    same one-hot assignments and clusters of equal size. It is 0 if the clusters of the two views
    are independent, as for uniform assignments, and also if one cluster has all images.

    Parameters
    ----------
    p, q : Tensor of shape (..., n, k)
        Soft assignments of the two views; rows sum to one. Leading axes are of independent
        assignments, such as those of several heads.

    marginal_weight : float, default=1.0
        Weight of the entropy of the clusters. Larger values favour clusters of equal size.

    Returns
    -------
    loss : Tensor of shape (...)
        In nats; between ``-log k`` and 0 at a weight of 1.

    Notes
    -----
    Equations 2 and 3 of [1]_; the weight is the exponent lambda of the authors' code.

    References
    ----------
    .. [1] X. Ji, J. F. Henriques, A. Vedaldi. "Invariant Information Clustering for Unsupervised
       Image Classification and Segmentation". ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import negative_mutual_information
    >>> p = torch.eye(4)
    >>> round(negative_mutual_information(p, p).exp().item(), 3)
    0.25
    """
    joint = p.mT @ q / p.shape[-2]
    joint = (joint + joint.mT) / 2
    log_joint = joint.clamp_min(_SMALL).log()
    # The two marginals are equal, since the joint distribution is symmetric.
    marginal = joint.sum(dim=-1)
    log_marginal = marginal.clamp_min(_SMALL).log()
    information = (joint * log_joint).sum(dim=(-2, -1))
    return 2 * marginal_weight * (marginal * log_marginal).sum(dim=-1) - information


@_full_precision
def partition_confidence(p: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy of identifying each cluster of one view among the clusters of the other.

    Clusters are columns of assignments, compared by cosine. Equal columns give ``log k``. The
    minimum is ``log(e + k - 1) - 1``, for one-hot assignments that are equal in both views.

    Parameters
    ----------
    p, q : Tensor of shape (..., n, k)
        Soft assignments of the two views; rows sum to one. Leading axes are of independent
        assignments, such as those of several heads.

    Returns
    -------
    loss : Tensor of shape (...)
        Mean over the ``k`` clusters of the first view, in nats.

    Notes
    -----
    Equations 5 to 8 of [1]_. Cosines are the logits as they are, at a temperature of 1, so the loss
    spans less than a nat.

    References
    ----------
    .. [1] J. Huang, S. Gong, X. Zhu. "Deep Semantic Clustering by Partition Confidence
       Maximisation". CVPR 2020.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import partition_confidence
    >>> p = torch.full((6, 3), 1 / 3)
    >>> round(partition_confidence(p, p).exp().item(), 3)
    3.0
    """
    p, q = (F.normalize(x, dim=-2, eps=1e-8) for x in (p, q))
    log_share = (p.mT @ q).log_softmax(dim=-1)
    return -log_share.diagonal(dim1=-2, dim2=-1).mean(dim=-1)


def association(a: Tensor, b: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of a random walk from rows of one set to rows of another and back.

    A step goes to a row with a probability that is the softmax of the inner products. The first
    loss wants the walk to end in the group where it began, the second wants all rows of the other
    set to be visited equally often.

    Parameters
    ----------
    a : Tensor of shape (n, d)
        Rows where walks begin and end.

    b : Tensor of shape (m, d)
        Rows that are visited.

    groups : Tensor of int64 of shape (n,)
        Group of each row of `a`.

    Returns
    -------
    walker : Tensor of shape ()
        Mean cross-entropy between the end of the walk and the uniform distribution over the group.
        At least the mean of ``log`` of the sizes of the groups, to which it comes if groups are
        far apart.

    visit : Tensor of shape ()
        Cross-entropy between the visited rows and the uniform distribution; at least ``log m``.

    Notes
    -----
    Equations 1 to 6 of [1]_.

    References
    ----------
    .. [1] P. Haeusser, J. Plapp, V. Golkov, E. Aljalbout, D. Cremers. "Associative Deep Clustering:
       Training a Classification Network with No Labels". GCPR 2018.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import association
    >>> a = 20 * torch.eye(2).repeat_interleave(3, dim=0)
    >>> walker, visit = association(a, torch.eye(2), torch.tensor([0, 0, 0, 1, 1, 1]))
    >>> round(walker.exp().item(), 3), round(visit.exp().item(), 3)
    (3.0, 2.0)
    """
    return _association(a, b, groups=groups)


@_full_precision
def _association(a, b, *, groups):
    match = a @ b.T
    there, back = match.softmax(dim=1), match.T.softmax(dim=1)
    same = (groups[:, None] == groups).to(match.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    walker = -(target * (there @ back + _SMALL).log()).sum(dim=1).mean()
    visit = -(there.mean(dim=0) + _SMALL).log().mean()
    return walker, visit


@_full_precision
def pair_cross_entropy(similarity: Tensor, similar: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy between similarities of pairs and whether they are similar.

    It is 0 if all pairs that count are called similar and have a similarity of 1, as when one
    cluster has all samples.

    Parameters
    ----------
    similarity : Tensor of shape (..., n, m)
        From 0 to 1.

    similar : Tensor of shape (..., n, m)
        1 for similar pairs, 0 for dissimilar ones.

    weight : Tensor of shape (..., n, m)
        Nonnegative weights of the pairs; 0 for those that do not count.

    Returns
    -------
    loss : Tensor of shape (...)
        Weighted mean over the pairs, in nats; 0 if none counts.

    Notes
    -----
    Equations 5 and 6 of [1]_, there as a sum.

    References
    ----------
    .. [1] J. Chang, L. Wang, G. Meng, S. Xiang, C. Pan. "Deep Adaptive Image Clustering". ICCV
       2017.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import pair_cross_entropy
    >>> half, ones = torch.full((2, 2), 0.5), torch.ones(2, 2)
    >>> pair_cross_entropy(half, ones, ones)
    tensor(0.6931)
    """
    s = similarity.clamp(1e-6, 1 - 1e-6)
    return _weighted_mean(-(similar * s.log() + (1 - similar) * (1 - s).log()), weight)


@_full_precision
def pair_squared_error(similarity: Tensor, similar: Tensor, weight: Tensor) -> Tensor:
    """Squared error between similarities of pairs and whether they are similar.

    Unlike that of `pair_cross_entropy`, its gradient is bounded, so single wrong pairs do less
    harm.

    Parameters
    ----------
    similarity : Tensor of shape (..., n, m)
        From 0 to 1.

    similar : Tensor of shape (..., n, m)
        1 for similar pairs, 0 for dissimilar ones.

    weight : Tensor of shape (..., n, m)
        Nonnegative weights of the pairs; 0 for those that do not count.

    Returns
    -------
    loss : Tensor of shape (...)
        Weighted mean over the pairs; 0 if none counts.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import pair_squared_error
    >>> half, ones = torch.full((2, 2), 0.5), torch.ones(2, 2)
    >>> pair_squared_error(half, ones, ones)
    tensor(0.2500)
    """
    return _weighted_mean((similarity - similar).square(), weight)


def _weighted_mean(loss, weight):
    total = weight.sum(dim=(-2, -1)).clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight * loss).sum(dim=(-2, -1)) / total


@_full_precision
def jensen_shannon(positive: Tensor, negative: Tensor) -> Tensor:
    """Negative lower bound of the mutual information, by scores of pairs; Jensen-Shannon's.

    Scores of 0, those of a discriminator that knows nothing, give ``2 log 2``.

    Parameters
    ----------
    positive : Tensor of shape (...)
        Scores of pairs that belong together.

    negative : Tensor of shape (...)
        Scores of pairs that do not.

    Returns
    -------
    loss : Tensor of shape ()
        Never negative.

    References
    ----------
    .. [1] R. D. Hjelm et al. "Learning deep representations by mutual information estimation and
       maximization". ICLR 2019.

    Examples
    --------
    >>> import torch
    >>> from skcc.losses import jensen_shannon
    >>> jensen_shannon(torch.zeros(3), torch.zeros(3))
    tensor(1.3863)
    """
    return F.softplus(-positive).mean() + F.softplus(negative).mean()
