"""Clustering of vectors by their nearest neighbours; no network is trained."""

from typing import Self

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skcc.ambient import default_torch_state
from skcc.readouts import read_out, vector_scale
from skcc.training.settings import check_device
from skcc.validation import check_integer


class NeighborClustering(ClusterMixin, BaseEstimator):
    """Cluster vectors, such as features of a pre-trained network, by their nearest neighbours.

    Partitions by k-means, k-means of smoothed vectors and spectral clustering are refined until
    each sample has the cluster that its neighbours make likeliest. The partitions that tell most
    about the clusters of neighbours vote, and a linear classifier learns the result, so that new
    samples have clusters and probabilities. `ContrastiveClustering` reads its clusters off in this
    way; on vectors, for which it trains no network by default, it gives the same clusters.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of clusters.

    device : str, default="auto"
        Where neighbours are found: "cpu", "cuda", "cuda:1", "mps". "auto" takes an accelerator if
        there is one.

    random_state : int, RandomState instance or None, default=None
        Seed. An int makes results repeatable.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each sample. Clusters are numbered by size, the largest is 0.

    readout_ : str
        The candidate that tells most about neighbours, such as "spectral 10".

    readout_scores_ : dict of str to float
        How much the refined clusters of each candidate tell about the clusters of neighbours, in
        nats. They compare partitions of these vectors into this number of clusters only.

    agreement_ : float
        Mean share of samples on which the other refined candidates agree with `labels_`; 1 if there
        was one candidate. On features with clusters .8 to 1, on noise below .4.

    classifier_ : skcc.readouts.FeatureClassifier
        Its clusters are numbered as `labels_`.

    n_features_in_ : int
        Number of columns.

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it has any that are strings.

    See Also
    --------
    ContrastiveClustering : Learns the features, too.

    sklearn.cluster.KMeans : One of the candidates.

    Notes
    -----
    The score of a partition is ``sum P log P - 2 c sum a log a`` with P the table of the clusters
    of neighbours and a its row sums. For ``c = 1`` it is their mutual information, and the profile
    likelihood of a degree-corrected block model [1]_. c is .65 where clusters hardly touch and .75
    where they overlap, so that sizes may differ. Where they overlap the classifier is trained
    further on the mutual information of the assignments of neighbours [2]_. Vectors are compared by
    cosine; columns are standardised if they are those of a table: fewer than 16, or so different in
    scale that few hold nearly all variance. Memory grows with n, time with n squared: 10,000
    vectors of 1,280 columns take 16 seconds on one thread of a CPU (docs/log.md).

    References
    ----------
    .. [1] B. Karrer, M. E. J. Newman. "Stochastic blockmodels and community structure in networks".
       Physical Review E 83, 2011.

    .. [2] X. Ji, J. F. Henriques, A. Vedaldi. "Invariant Information Clustering". ICCV 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skcc import NeighborClustering
    >>> X, y = load_digits(return_X_y=True)
    >>> NeighborClustering(n_clusters=10, random_state=0).fit_predict(X[:300]).shape
    (300,)
    """

    def __init__(self, n_clusters=8, *, device="auto", random_state=None):
        self.n_clusters = n_clusters
        self.device = device
        self.random_state = random_state

    @default_torch_state()
    def fit(self, X, y=None) -> Self:
        """Cluster vectors.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Finite numbers.

        y : None, default=None
            Ignored; scikit-learn passes it.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter is out of range, X is not a table of finite numbers, or it has fewer
            rows than `n_clusters`.
        """
        check_integer("n_clusters", self.n_clusters, 1)
        device = check_device(self.device)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        X = validate_data(self, X, dtype=[np.float32, np.float64], ensure_min_samples=2)
        if len(X) < self.n_clusters:
            raise ValueError(f"n_samples={len(X)} should be >= n_clusters={self.n_clusters}")
        self._mean, self._scale, table = vector_scale(X)
        if not np.isfinite(self._scale).all():
            raise ValueError(
                f"X holds values up to {np.abs(X).max():g}, which are too large; rescale them"
            )
        Z = self._scaled(X)
        found = read_out(Z, self.n_clusters, keep_lengths=table, random_state=seed, device=device)
        labels = found.classifier.predict_proba(Z).argmax(axis=1)
        order = np.argsort(-np.bincount(labels, minlength=self.n_clusters), kind="stable")
        self.classifier_ = found.classifier.reordered(order)
        self.labels_ = self.classifier_.predict_proba(Z).argmax(axis=1)
        self.readout_, self.readout_scores_ = found.name, found.scores
        self.agreement_ = found.agreement
        return self

    def predict(self, X) -> np.ndarray:
        """Find the cluster of each vector.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            From 0 to ``n_clusters - 1``.
        """
        return self.predict_proba(X).argmax(axis=1)

    def predict_proba(self, X) -> np.ndarray:
        """Compute soft assignments to clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As in `fit`.

        Returns
        -------
        p : ndarray of shape (n_samples, n_clusters)
            Float32; rows sum to one.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        return self.classifier_.predict_proba(self._scaled(X))

    def _scaled(self, X):
        return ((X - self._mean) / self._scale).astype(np.float32)
