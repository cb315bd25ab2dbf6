"""How clusters are read off features, without labels.

`read_out` refines several partitions on the graph of nearest neighbours, lets the best vote, and
teaches the result to a linear classifier. Its parts are pure functions on arrays of shape (n, d).
"""

from skcc.readouts.graph import nearest_neighbors, neighbor_graph
from skcc.readouts.information import contingency, refine, score
from skcc.readouts.kmeans import k_means
from skcc.readouts.linkage import (
    agglomerate,
    chains,
    graph_degree_linkage,
    neighbor_weights,
    spread,
)
from skcc.readouts.neighbors import FeatureClassifier, Readout, TorchClassifier, read_out
from skcc.readouts.space import FeatureSpace, is_table, vector_scale

__all__ = [
    "FeatureClassifier",
    "FeatureSpace",
    "Readout",
    "TorchClassifier",
    "agglomerate",
    "chains",
    "contingency",
    "graph_degree_linkage",
    "is_table",
    "k_means",
    "nearest_neighbors",
    "neighbor_graph",
    "neighbor_weights",
    "read_out",
    "refine",
    "score",
    "spread",
    "vector_scale",
]
