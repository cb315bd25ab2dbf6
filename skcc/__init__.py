"""Deep image clustering with the API of scikit-learn."""

from skcc._version import __version__ as __version__
from skcc.methods.adversarial import DCGANClustering
from skcc.methods.autoencoder import (
    AutoencoderClustering,
    DenoisingAutoencoderClustering,
    VariationalAutoencoderClustering,
)
from skcc.methods.contrastive import ContrastiveClustering
from skcc.methods.deconvolutional import DeconvolutionalClustering
from skcc.methods.embedded import DEC
from skcc.methods.twin import TwinContrastClustering

__all__ = [  # noqa: RUF022 # plain alphabetical order; ruff puts acronyms first
    "AutoencoderClustering",
    "ContrastiveClustering",
    "DCGANClustering",
    "DEC",
    "DeconvolutionalClustering",
    "DenoisingAutoencoderClustering",
    "TwinContrastClustering",
    "VariationalAutoencoderClustering",
]
