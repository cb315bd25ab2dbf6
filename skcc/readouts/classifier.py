"""A linear classifier of features that repeats a partition, so that new samples have a cluster."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_FAITHFUL, _SMOOTH = 10.0, 1.0  # inverse strength of the penalty where clusters touch or overlap
_ROWS = 20_000  # that logistic regression is fitted to
_EMPTY = -1e4  # logit of a cluster without samples
_STEPS, _RATE, _TEMPERATURE = 500, 2e-3, 0.1


def teach(
    Z: np.ndarray, labels: np.ndarray, n_clusters: int, *, smooth: bool, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit logistic regression to the labels of a partition.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Rows of unit length.

    labels : ndarray of shape (n,)
        From 0 to ``n_clusters - 1``.

    n_clusters : int
        Number of clusters; empty ones are never predicted.

    smooth : bool
        Whether a strong penalty may overrule single labels.

    random_state : int, default=0
        Seed of the choice of rows, if there are more than 20,000.

    Returns
    -------
    weights : ndarray of shape (n_clusters, d) and dtype float32
        Logits are ``Z @ weights.T + bias``.

    bias : ndarray of shape (n_clusters,) and dtype float32
        0; very negative for empty clusters.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    used = np.unique(labels)
    weights = np.zeros((n_clusters, Z.shape[1]), np.float32)
    bias = np.full(n_clusters, _EMPTY, np.float32)
    bias[used] = 0
    if len(used) > 1:
        if len(Z) > _ROWS:
            first = np.unique(labels, return_index=True)[1]  # no cluster is left out
            some = np.random.RandomState(random_state).permutation(len(Z))[:_ROWS]
            rows = np.union1d(some, first)
            Z, labels = Z[rows], labels[rows]
        C = _SMOOTH if smooth else _FAITHFUL
        Z = Z.astype(np.float64)  # else the last bit of a sum decides when it stops
        model = LogisticRegression(C=C, fit_intercept=False, tol=1e-4, max_iter=1000)
        model.fit(Z, labels)
        w = model.coef_ if len(used) > 2 else np.concatenate([-model.coef_, model.coef_]) / 2
        weights[used] = w
    return weights, bias


def tune(
    Z: np.ndarray,
    neighbors: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    random_state: int = 0,
) -> np.ndarray:
    """Maximise the mutual information of the soft assignments of neighbours.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Rows of unit length.

    neighbors : ndarray of shape (n, k)
        Indices of the nearest neighbours of each row.

    weights, bias : ndarray
        From `teach`.

    random_state : int, default=0
        Seed of the batches.

    Returns
    -------
    weights : ndarray of shape (n_clusters, d) and dtype float32
        Tuned; `bias` remains.

    Notes
    -----
    The objective of Invariant Information Clustering (Ji et al., ICCV 2019, equation 3) with a
    neighbour in place of an augmented view. Direction and length of the weights of a cluster are
    parameters of their own.
    """
    # In float64, since so many steps amplify differences of rounding.
    z, near = torch.from_numpy(Z.astype(np.float64)), torch.from_numpy(neighbors)
    offset = torch.from_numpy(bias).double()
    generator = torch.Generator().manual_seed(random_state)
    size = max(256, 8 * len(weights))
    start = torch.from_numpy(weights).double() * _TEMPERATURE
    parameters = [F.normalize(start, dim=1), start.norm(dim=1)]
    parameters = [p.requires_grad_() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)

    def assign(rows):
        direction, length = parameters
        scale = length / _TEMPERATURE
        return F.softmax(z[rows] @ F.normalize(direction, dim=1).T * scale + offset, dim=1)

    for _ in range(_STEPS):
        rows = torch.randint(len(z), (size,), generator=generator)
        column = torch.randint(near.shape[1], (size,), generator=generator)
        loss = -_mutual_information(assign(rows), assign(near[rows, column]))
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimizer.step()
        schedule.step()
    direction, length = (p.detach() for p in parameters)
    return (F.normalize(direction, dim=1) * length[:, None] / _TEMPERATURE).float().numpy()


def _mutual_information(p: Tensor, q: Tensor) -> Tensor:
    joint = (p.T @ q + q.T @ p) / (2 * len(p))
    log_size = joint.sum(dim=1).clamp_min(1e-9).log()
    return (joint * (joint.clamp_min(1e-9).log() - log_size[:, None] - log_size)).sum()
