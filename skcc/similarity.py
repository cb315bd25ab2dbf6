"""How alike views, instances and clusters are, as training goes on.

These are the four curves of the qualitative study of Contrastive Clustering (Li et al., AAAI 2021,
figure 3).
"""

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length

PAIRS = ("positive instances", "negative instances", "positive clusters", "negative clusters")


def pair_similarity(z, p, *, batch_size=256, random_state=None) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the cosines that training raises and lowers.

    Positive pairs of instances are two views of one image, negative ones views of different images;
    positive pairs of clusters are the columns of the assignments of both views for one cluster,
    negative ones those of different clusters. As in training, pairs are made within batches.

    Parameters
    ----------
    z : array-like of shape (n_samples, 2, n_dimensions)
        Embeddings of two views of each image.

    p : array-like of shape (n_samples, 2, n_clusters)
        Soft assignments of them.

    batch_size : int, default=256
        Most samples of a batch; as in training, an epoch is cut into equal batches.

    random_state : int, RandomState instance or None, default=None
        Order of the samples.

    Returns
    -------
    similarity : dict of str to (float, float)
        By `PAIRS`. With one cluster, negative clusters are NaN.

    Raises
    ------
    ValueError
        If shapes do not match, or there are fewer than two samples.
    """
    z, p = np.asarray(z, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if z.ndim != 3 or p.ndim != 3 or z.shape[1] != 2 or p.shape[1] != 2 or len(z) < 2:
        raise ValueError(
            "z and p must have shapes (n_samples, 2, n_dimensions) and (n_samples, 2, n_clusters), "
            f"with two samples at least; got {z.shape} and {p.shape}"
        )
    check_consistent_length(z, p)
    order = check_random_state(random_state).permutation(len(z))
    found: dict[str, list[np.ndarray]] = {name: [] for name in PAIRS}
    for batch in np.array_split(order, max(1, len(z) // batch_size)):
        of_batch = (*_cosines(z[batch]), *_cosines(p[batch].transpose(2, 1, 0)))
        for name, cosines in zip(PAIRS, of_batch, strict=True):
            found[name].append(cosines)
    joined = {name: np.concatenate(cosines) for name, cosines in found.items()}
    return {
        name: (float(cosines.mean()), float(cosines.std())) if len(cosines) else (np.nan, np.nan)
        for name, cosines in joined.items()
    }


def _cosines(x):
    """Cosines of positive and of negative pairs of rows of x, of shape (m, 2, d)."""
    x = x / np.linalg.norm(x, axis=2, keepdims=True).clip(1e-12)
    a, b = x[:, 0], x[:, 1]
    across, upper = a @ b.T, np.triu_indices(len(x), 1)
    others = ~np.eye(len(x), dtype=bool)
    return np.diag(across), np.concatenate([across[others], (a @ a.T)[upper], (b @ b.T)[upper]])


class SimilarityMonitor:
    """A callback that measures `pair_similarity` after each epoch; give it to `set_callbacks`.

    Parameters
    ----------
    random_state : int, default=0
        Seed of the views and of the batches; both are the same after every epoch.

    Attributes
    ----------
    similarity_ : list of dict of str to (float, float)
        One entry per epoch, by `PAIRS`.
    """

    def __init__(self, random_state=0):
        self.random_state = random_state

    def setup(self, estimator, context):
        """Begin anew.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task of its fit.
        """
        self.similarity_ = []

    def teardown(self, estimator, context):
        """Nothing is left to be done.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Was fitted.

        context : sklearn.callback.CallbackContext
            The task of its fit.
        """

    def on_fit_task_begin(self, estimator, context):
        """Nothing is measured at the beginning of a task.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task.
        """

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        """Measure at the end of an epoch.

        Parameters
        ----------
        estimator : BaseDeepClusterer
            Being fitted.

        context : sklearn.callback.CallbackContext
            The task; anything but an epoch is passed over.

        X : object
            What `fit` was given.

        fitted_estimator : BaseDeepClusterer
            As if training had ended now.
        """
        if context.task_name == "epoch":
            self.similarity_.append(similarity_of(fitted_estimator, X, self.random_state))


def similarity_of(estimator, X, random_state: int) -> dict[str, tuple[float, float]]:
    """`pair_similarity` of a fitted estimator on images.

    Parameters
    ----------
    estimator : BaseDeepClusterer
        Fitted.

    X : array-like, tensor, str, Path or list
        Images as in its `fit`.

    random_state : int
        Seed of the views and of the batches.

    Returns
    -------
    similarity : dict of str to (float, float)
        Mean and standard deviation by `PAIRS`.
    """
    rows = estimator._project(X, random_state)
    p = rows[..., -estimator.n_clusters :]
    size = estimator.settings_["batch_size"]
    return pair_similarity(
        rows[..., : -estimator.n_clusters], p, batch_size=size, random_state=random_state
    )
