"""A linear classifier of features that repeats a partition, so that new samples have a cluster."""

import numpy as np
from scipy.special import softmax

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
    # In float64, since so many steps amplify differences of rounding. The gradient is written out,
    # since these arrays are so small that autograd would take most of the time.
    Z = Z.astype(np.float64)
    rng = np.random.RandomState(random_state)
    size = max(256, 8 * len(weights))
    length = np.linalg.norm(weights, axis=1, keepdims=True)
    direction = weights / np.maximum(length, 1e-12)
    parameters = np.concatenate([direction, _TEMPERATURE * length], axis=1)  # (n_clusters, d + 1)
    mean, square = np.zeros_like(parameters), np.zeros_like(parameters)
    for step in range(_STEPS):
        rows = rng.randint(len(Z), size=size)
        partners = neighbors[rows, rng.randint(neighbors.shape[1], size=size)]
        gradient = mutual_information(Z[rows], Z[partners], parameters, bias)[1]
        mean += 0.1 * (gradient - mean)  # Adam, with its usual betas
        square += 0.001 * (gradient**2 - square)
        scale = np.sqrt(square / (1 - 0.999 ** (step + 1))) + 1e-8
        rate = _RATE * (1 + np.cos(np.pi * step / _STEPS)) / 2
        parameters += rate / (1 - 0.9 ** (step + 1)) * mean / scale
    return _linear_weights(parameters)[0].astype(np.float32)


def _linear_weights(parameters):
    """Weights of the logits, with the unit directions and scales that they are the product of."""
    length = np.maximum(np.linalg.norm(parameters[:, :-1], axis=1, keepdims=True), 1e-12)
    direction, scale = parameters[:, :-1] / length, parameters[:, -1:] / _TEMPERATURE
    return direction * scale, direction, scale, length


def mutual_information(
    z: np.ndarray, partners: np.ndarray, parameters: np.ndarray, bias: np.ndarray
) -> tuple[float, np.ndarray]:
    """Compute the mutual information of the soft assignments of pairs, and its gradient.

    Parameters
    ----------
    z, partners : ndarray of shape (n, d)
        Pairs of samples.

    parameters : ndarray of shape (n_clusters, d + 1)
        Per cluster, the direction of its weights, of any length, and their length times 0.1.

    bias : ndarray of shape (n_clusters,)
        Added to the logits.

    Returns
    -------
    value : float
        In nats.

    gradient : ndarray of shape (n_clusters, d + 1)
        Of the value, by `parameters`.
    """
    weights, direction, scale, length = _linear_weights(parameters)
    p, q = softmax(z @ weights.T + bias, axis=1), softmax(partners @ weights.T + bias, axis=1)
    half = p.T @ q / (2 * len(z))
    joint = half + half.T
    log_size = np.log(np.maximum(joint.sum(axis=1), 1e-9))
    G = np.log(np.maximum(joint, 1e-9)) - log_size[:, None] - log_size
    value = (joint * G).sum()
    of_weights = np.zeros_like(weights)
    for rows, own, other in ((z, p, q), (partners, q, p)):
        of_p = other @ G / len(z)
        of_logits = own * (of_p - (own * of_p).sum(axis=1, keepdims=True))
        of_weights += of_logits.T @ rows
    along = (of_weights * direction).sum(axis=1, keepdims=True)
    of_direction = (of_weights - along * direction) * scale / length
    return float(value), np.concatenate([of_direction, along / _TEMPERATURE], axis=1)
