"""Deep image clustering with the API of scikit-learn."""

from skcc._version import __version__ as __version__
from skcc.cluster_number import ClusterNumbers, suggest_n_clusters
from skcc.embedding import ImageEmbedder
from skcc.methods.adversarial import DCGANClustering
from skcc.methods.association import ADC
from skcc.methods.autoencoder import (
    AutoencoderClustering,
    DenoisingAutoencoderClustering,
    VariationalAutoencoderClustering,
)
from skcc.methods.contrastive import ContrastiveClustering
from skcc.methods.deconvolutional import DeconvolutionalClustering
from skcc.methods.deepcluster import DeepCluster
from skcc.methods.embedded import DEC
from skcc.methods.information import IIC, PICA
from skcc.methods.jule import JULE
from skcc.methods.neighbors import NeighborClustering
from skcc.methods.pairwise import DAC, DCCM, DDC
from skcc.methods.twin import TwinContrastClustering

__all__ = [
    "ADC",
    "DAC",
    "DCCM",
    "DDC",
    "DEC",
    "IIC",
    "JULE",
    "PICA",
    "AutoencoderClustering",
    "ClusterNumbers",
    "ContrastiveClustering",
    "DCGANClustering",
    "DeconvolutionalClustering",
    "DeepCluster",
    "DenoisingAutoencoderClustering",
    "ImageEmbedder",
    "NeighborClustering",
    "TwinContrastClustering",
    "VariationalAutoencoderClustering",
    "suggest_n_clusters",
]
