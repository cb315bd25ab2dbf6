"""Features as unit vectors of moderate width, in which cosines are compared."""

from dataclasses import dataclass

import numpy as np

MAX_WIDTH = 128  # columns beyond these are projected away
_FEW_COLUMNS = 16  # below, vectors are no pixels and no features of a network
_FAR_FROM_ZERO = 1e-4  # least share of the variance in the squared mean of other vectors
_EXACT_WIDTH = 2048  # wider covariance matrices are not decomposed exactly


def unit(X: np.ndarray) -> np.ndarray:
    """Scale rows to unit length; rows of zeros stay zero."""
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1)


@dataclass(frozen=True)
class FeatureSpace:
    """A map from features to centred unit vectors, learned from a set of features.

    Rows are scaled to unit length, the mean is subtracted, they are projected to their first 128
    principal axes if they are wider, and scaled to unit length again. Where the length of a row
    means something, as in a table, a constant column keeps it.

    Parameters
    ----------
    mean : ndarray of shape (d,)
        Mean of the rows of unit length.

    axes : ndarray of shape (d, width) or None, default=None
        Principal axes as columns; None where none are cut off.

    constant : float, default=0.0
        Value of a further column; 0 for none.
    """

    mean: np.ndarray
    axes: np.ndarray | None = None
    constant: float = 0.0

    @classmethod
    def fit(
        cls, X: np.ndarray, *, keep_lengths: bool = False, random_state: int = 0
    ) -> "FeatureSpace":
        """Learn the mean and the axes.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Features.

        keep_lengths : bool, default=False
            Whether rows that differ in length alone are to remain different.

        random_state : int, default=0
            Seed; used for more than 2,048 columns, whose axes are found by a randomised
            decomposition.

        Returns
        -------
        space : FeatureSpace
            In the dtype of `X`.
        """
        constant = float(np.sqrt(np.mean(X.astype(np.float64) ** 2) * X.shape[1]))
        constant = constant if keep_lengths else 0.0
        Z = unit(_with_constant(X, constant))
        mean = Z.mean(axis=0, dtype=np.float64).astype(Z.dtype)
        n, d = Z.shape
        if d <= MAX_WIDTH or n <= MAX_WIDTH:
            return cls(mean, None, constant)
        from sklearn.decomposition import PCA  # slow to import

        solver = "covariance_eigh" if d <= _EXACT_WIDTH else "randomized"
        pca = PCA(MAX_WIDTH, svd_solver=solver, random_state=random_state).fit(Z)
        return cls(mean, np.ascontiguousarray(pca.components_.T.astype(Z.dtype)), constant)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Map features to the space.

        Parameters
        ----------
        X : ndarray of shape (n, d)
            Features.

        Returns
        -------
        Z : ndarray of shape (n, width)
            Rows of unit length; zero where a row is the mean.
        """
        Z = unit(_with_constant(X, self.constant)) - self.mean
        return unit(Z if self.axes is None else Z @ self.axes)


def _with_constant(X, constant):
    return np.insert(X, X.shape[1], constant, axis=1) if constant else X


def is_table(X: np.ndarray) -> bool:
    """Whether the columns of vectors are quantities of their own, unlike pixels or features.

    So are few columns, numbers far from zero, of which cosines would see little, and columns of
    which few hold nearly all variance, since they have units of their own. The effective number of
    columns is (sum v)^2 / sum v^2 of their variances v: d if all are equal, 1 if one holds
    everything. Below the square root of d, cosines would compare these few.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Rows of numbers.

    Returns
    -------
    is_table : bool
        If so, columns should be standardised, and the lengths of rows mean something.
    """
    if X.shape[1] < _FEW_COLUMNS:
        return True
    largest = np.abs(X).max(initial=0).astype(np.float64)
    X = X / max(largest, 1e-300)  # squares do not overflow
    variance, mean = X.var(axis=0, dtype=np.float64), X.mean(axis=0, dtype=np.float64)
    if not variance.max() > 0:
        return False
    if variance.sum() < _FAR_FROM_ZERO * (mean**2).sum():
        return True
    variance /= variance.max()
    return bool(variance.sum() ** 2 / (variance**2).sum() < np.sqrt(X.shape[1]))


def vector_scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Learn how vectors are scaled before they are compared or trained on.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Rows of numbers.

    Returns
    -------
    mean, scale : ndarray of shape (d,)
        Mean and standard deviation of each column of a table; 0 and one scale for all columns of
        other vectors. `scale` is infinite or NaN if numbers are too large.

    is_table : bool
        See the function of that name.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        table = is_table(X)
        if table:
            mean, scale = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        else:
            squares = np.square(X, dtype=np.float64)
            mean, scale = np.zeros(X.shape[1]), np.full(X.shape[1], np.sqrt(squares.mean()))
    return mean, np.where(scale <= 1e-12, 1.0, scale), table
