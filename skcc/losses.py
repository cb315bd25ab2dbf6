"""Losses as pure functions of tensors.

A loss sees the rows of the whole batch and nothing else: no module, device, rank or batch
size. It computes in float32 (or float64 when given that), also under autocast, because a
softmax over similarities loses what distinguishes the clusters in bfloat16.
"""

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional as F


def _full_precision(loss):
    """Let `loss` compute in float32 or better, whatever autocast is in force."""

    @functools.wraps(loss)
    def wrapped(*tensors, **kwargs):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*(t if t.dtype == torch.float64 else t.float() for t in tensors), **kwargs)

    return wrapped


@_full_precision
def nt_xent(a: Tensor, b: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two sets of paired rows.

    Each of the ``2n`` rows has to pick its partner among the ``2n - 1`` other rows, by cosine
    similarity. Equal similarities give ``log(2n - 1)``.

    Parameters
    ----------
    a, b : Tensor of shape (n, d)
        Row ``i`` of `a` and row ``i`` of `b` are a positive pair. The rows need not be
        normalised; a zero row has cosine 0 with everything.

    temperature : float, default=0.5
        Divides the cosines. Smaller is sharper.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the ``2n`` rows, in nats; never negative.

    Notes
    -----
    Equation 2 and 3 of [1]_. There the denominator also holds the similarity of a row with
    itself; the authors' code leaves it out, and so does this function.

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
    """Contrast of clusters: `nt_xent` over the columns of two assignment matrices.

    Column ``j`` says which images of the batch belong to cluster ``j``; it should agree between
    the two views and differ from every other cluster's. Equal columns give ``log(2k - 1)``; the
    floor, reached by one-hot assignments that agree, is ``log(1 + (2k - 2) / e)`` at
    temperature 1.

    Parameters
    ----------
    p, q : Tensor of shape (n, k)
        Soft assignments of the two views, rows summing to one.

    temperature : float, default=1.0
        Divides the cosines between columns.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the ``2k`` columns, in nats; never negative.

    Notes
    -----
    Equation 4 and 5 of [1]_ without the entropy, which is `negative_entropy`. Needs memory for
    ``(2k)**2 + 2 * k * n`` numbers.

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
    """How far the mean assignment is from using all clusters equally.

    Minimising this keeps a clustering from collapsing into few clusters: it is ``log k`` minus
    the entropy of the mean row of `p`, hence 0 when the clusters are equally full and ``log k``
    when one of them takes everything.

    Parameters
    ----------
    p : Tensor of shape (n, k)
        Soft assignments, rows summing to one.

    Returns
    -------
    loss : Tensor of shape ()
        In nats, between 0 and ``log k``.

    Notes
    -----
    The term ``-H(Y)`` of equation 6 of [1]_ for one view. The constant ``log k``, which the
    authors' code adds as well, only makes the value readable. An empty cluster contributes 0
    and a finite gradient.

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
    # Not torch.special.entr: its gradient at 0 is infinite, and an empty cluster is exactly 0.
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
    """Cross-entropy of picking one's own key among other rows, by cosine similarity.

    Equal similarities give ``log(1 + m)``; a key that equals its query, among negatives at right
    angles to it, ``log(1 + m / e)`` at temperature 1.

    Parameters
    ----------
    query, key : Tensor of shape (n, d)
        Row ``i`` of `query` and row ``i`` of `key` are a positive pair.

    negatives : Tensor of shape (m, d)
        What the keys are to be told from, the same for all queries.

    mask : Tensor of bool of shape (n, m), default=None
        Which negatives count for which query. None means all for all.

    temperature : float, default=1.0
        Divides the cosines. Smaller is sharper.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the rows, in nats; never negative.

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
    """Direction of each cluster: the sum of the features of its members, normalised.

    Parameters
    ----------
    features : Tensor of shape (n, d)
        One row per sample.

    membership : Tensor of shape (..., n, k)
        Weight of each sample in each cluster; not negative. Only the proportions within a column
        matter, so the representation does not know how large a cluster is.

    Returns
    -------
    r : Tensor of shape (..., k, d)
        Rows of norm one; an empty cluster has a row of zeros.

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
    """Contrast of clusters by what represents them.

    Cluster ``j`` of one view has to pick cluster ``j`` of the other among the other clusters of
    both views and of the past. Equal representations give ``log(1 + (q + 2)(k - 1))``; a regular
    simplex, the same in both views and in the past, ``log(1 + (q + 2)(k - 1) exp(-k / (k - 1)))``
    at temperature 1.

    Parameters
    ----------
    r, s : Tensor of shape (k, d)
        Representations from the two views; row ``j`` of both is cluster ``j``.

    past : Tensor of shape (q, k, d)
        Earlier ones. Those of the same cluster are not contrasted with.

    temperature : float, default=1.0
        Divides the cosines. Smaller is sharper.

    Returns
    -------
    loss : Tensor of shape ()
        Mean over the clusters, in nats; never negative, and 0 for a single cluster.

    Notes
    -----
    A reconstruction: the abstract of [1]_ says what is contrasted, not by which formula. Rows of
    zeros, such as a past that is not there yet, have cosine 0 with everything.

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
    itself = torch.eye(k, dtype=torch.bool, device=r.device)
    r, s, past = (F.normalize(x, dim=-1, eps=1e-8) for x in (r, s, past))
    own = (r @ r.T).masked_fill(itself, -torch.inf)
    earlier = (r @ past.flatten(0, 1).T).view(k, len(past), k)
    earlier = earlier.masked_fill(itself[:, None], -torch.inf).flatten(1)
    logits = torch.cat([r @ s.T, own, earlier], dim=1) / temperature
    return F.cross_entropy(logits, torch.arange(k, device=r.device))
