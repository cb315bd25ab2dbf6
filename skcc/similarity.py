"""Cosine similarities of positive and negative pairs during training.

They are the four curves of figure 3 of Contrastive Clustering (Li et al., AAAI 2021).
"""

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length

from skcc.ambient import default_torch_state

PAIRS = ("positive instances", "negative instances", "positive clusters", "negative clusters")


def pair_similarity(z, p, *, batch_size=256, random_state=None) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the cosine similarities of positive and negative pairs.

    A positive pair of instances is two views of one image, a negative pair two views of different
    images. A positive pair of clusters is the two columns of the assignments, one per view, of one
    cluster; a negative pair is two columns of different clusters. Pairs are formed within batches,
    as in training.

    Parameters
    ----------
    z : array-like of shape (n_samples, 2, n_dimensions)
        Embeddings of two views of each image.

    p : array-like of shape (n_samples, 2, n_clusters)
        Soft assignments of the two views.

    batch_size : int, default=256
        Approximate number of samples per batch; batches have nearly equal sizes.

    random_state : int, RandomState instance or None, default=None
        Seed of the order of the samples.

    Returns
    -------
    similarity : dict of str to (float, float)
        Mean and standard deviation for each name in `PAIRS`. NaN for "negative clusters" if there
        is one cluster only.

    Raises
    ------
    ValueError
        If shapes do not match, or there are fewer than two samples.
    """
    z, p = np.asarray(z, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if z.ndim != 3 or p.ndim != 3 or z.shape[1] != 2 or p.shape[1] != 2 or len(z) < 2:
        raise ValueError(
            "z and p must have shapes (n_samples, 2, n_dimensions) and (n_samples, 2, n_clusters), "
            f"with at least two samples; got {z.shape} and {p.shape}"
        )
    check_consistent_length(z, p)
    order = check_random_state(random_state).permutation(len(z))
    by_batch = [
        (*_cosines(z[batch]), *_cosines(p[batch].transpose(2, 1, 0)))
        for batch in np.array_split(order, max(1, len(z) // batch_size))
    ]
    cosines = [np.concatenate(batches) for batches in zip(*by_batch, strict=True)]
    return {
        name: (float(values.mean()), float(values.std())) if len(values) else (np.nan, np.nan)
        for name, values in zip(PAIRS, cosines, strict=True)
    }


def _cosines(x):
    """Cosine similarities of the positive and the negative pairs of x, of shape (m, 2, d)."""
    x = x / np.linalg.norm(x, axis=2, keepdims=True).clip(1e-12)
    a, b = x[:, 0], x[:, 1]
    across, upper = a @ b.T, np.triu_indices(len(x), 1)
    off_diagonal = ~np.eye(len(x), dtype=bool)
    negatives = [across[off_diagonal], (a @ a.T)[upper], (b @ b.T)[upper]]
    return np.diag(across), np.concatenate(negatives)


class SimilarityMonitor:
    """Callback for `set_callbacks` that computes `pair_similarity` after each epoch.

    Parameters
    ----------
    random_state : int, default=0
        Seed of the views and of the batches, which are the same after each epoch.

    Attributes
    ----------
    similarity_ : list of dict of str to (float, float)
        Results of `pair_similarity`, one per epoch.
    """

    def __init__(self, random_state=0):
        self.random_state = random_state

    def setup(self, estimator, context):
        """Reset `similarity_` at the beginning of a fit.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the fit.
        """
        self.similarity_ = []

    def teardown(self, estimator, context):
        """Do nothing at the end of a fit; required by the protocol.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that was fitted.

        context : sklearn.callback.CallbackContext
            Context of the fit.
        """

    def on_fit_task_begin(self, estimator, context):
        """Do nothing at the beginning of a task; required by the protocol.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the task.
        """

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        """Append to `similarity_` at the end of an epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            The estimator that is fitted.

        context : sklearn.callback.CallbackContext
            Context of the task; tasks other than epochs are ignored.

        X : object
            The argument of `fit`.

        fitted_estimator : BaseDeepClusterer
            The estimator in the state after this epoch.
        """
        if context.task_name == "epoch":
            self.similarity_.append(similarity_of(fitted_estimator, X, self.random_state))


@default_torch_state()
def similarity_of(estimator, X, random_state: int) -> dict[str, tuple[float, float]]:
    """Compute `pair_similarity` of a fitted estimator on images.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        A fitted estimator.

    X : array-like, tensor, str, Path or list
        Images, as in `fit`.

    random_state : int
        Seed of the views and of the batches.

    Returns
    -------
    similarity : dict of str to (float, float)
        Mean and standard deviation for each name in `PAIRS`.
    """
    store, model = estimator._read_fitted(X), estimator._fitted_model()

    def project_and_assign(view):
        return torch.cat([model.objective.project(view).float(), model.assign(view)], dim=1)

    z_and_p = model.rows_of_two_views(store, project_and_assign, random_state)
    k, size = estimator.n_clusters, estimator.settings_["batch_size"]
    z, p = z_and_p[..., :-k], z_and_p[..., -k:]
    return pair_similarity(z, p, batch_size=size, random_state=random_state)
