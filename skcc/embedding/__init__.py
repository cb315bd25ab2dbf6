"""Frozen pre-trained networks: from images to vectors."""

from skcc.embedding.embedder import ImageEmbedder
from skcc.embedding.networks import FrozenNetwork, Preprocessing, load_network

__all__ = ["FrozenNetwork", "ImageEmbedder", "Preprocessing", "load_network"]
