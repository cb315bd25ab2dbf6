"""Deep image clustering with the manners of scikit-learn."""

from skcc.methods.contrastive import ContrastiveClustering

__all__ = ["ContrastiveClustering"]

__version__ = "0.1.0"
