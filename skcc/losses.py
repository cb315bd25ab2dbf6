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
    p : Tensor of shape (n, k)
        Soft assignments; rows sum to one.

    Returns
    -------
    loss : Tensor of shape ()
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
    mean = p.mean(dim=0)
    # torch.special.entr has an infinite gradient at 0, the mean probability of an empty cluster.
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    return (math.log(len(mean)) + (mean * log_mean).sum()).clamp_min(0)


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
