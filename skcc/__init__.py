"""Deep image clustering with the API of scikit-learn."""

import importlib
from typing import TYPE_CHECKING

from skcc._version import __version__ as __version__

if TYPE_CHECKING:
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

# What is here is imported when it is first asked for: that takes seconds, since it imports torch.
_HOMES = {
    "skcc.cluster_number": ["ClusterNumbers", "suggest_n_clusters"],
    "skcc.embedding": ["ImageEmbedder"],
    "skcc.methods.adversarial": ["DCGANClustering"],
    "skcc.methods.association": ["ADC"],
    "skcc.methods.autoencoder": [
        "AutoencoderClustering",
        "DenoisingAutoencoderClustering",
        "VariationalAutoencoderClustering",
    ],
    "skcc.methods.contrastive": ["ContrastiveClustering"],
    "skcc.methods.deconvolutional": ["DeconvolutionalClustering"],
    "skcc.methods.deepcluster": ["DeepCluster"],
    "skcc.methods.embedded": ["DEC"],
    "skcc.methods.information": ["IIC", "PICA"],
    "skcc.methods.jule": ["JULE"],
    "skcc.methods.neighbors": ["NeighborClustering"],
    "skcc.methods.pairwise": ["DAC", "DCCM", "DDC"],
    "skcc.methods.twin": ["TwinContrastClustering"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MODULES = {
    "augment", "backbones", "callbacks", "cluster_number", "data", "datasets", "decoders",
    "distributed", "exceptions", "losses", "metrics", "objective", "pipelines", "plotting",
    "readouts", "report", "similarity",
}  # fmt: skip


def __getattr__(name: str):
    if name in _HOME_OF:
        globals()[name] = found = getattr(importlib.import_module(_HOME_OF[name]), name)
        return found
    if name in _MODULES:
        return importlib.import_module(f"skcc.{name}")
    raise AttributeError(f"module 'skcc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
