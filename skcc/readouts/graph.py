"""The graph of nearest neighbours."""

import numpy as np
import torch
from scipy import sparse

from skcc.readouts.space import unit

_BLOCK = 2**25  # similarities held at a time, 128 MiB in float32


def nearest_neighbors(
    Z: np.ndarray, n_neighbors: int, *, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Find the exact nearest neighbours by cosine, in blocks of rows.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Rows of unit length.

    n_neighbors : int
        Below n.

    device : torch.device or str, default="cpu"
        Where similarities are computed.

    Returns
    -------
    neighbors : ndarray of shape (n, n_neighbors) and dtype int64
        Indices, nearest first; a row is not its own neighbour.
    """
    rows = torch.from_numpy(np.ascontiguousarray(Z, np.float32)).to(device)
    n, found = len(rows), []
    for start in range(0, n, size := max(1, _BLOCK // n)):
        similarity = rows[start : start + size] @ rows.T
        own = torch.arange(len(similarity), device=device)
        similarity[own, own + start] = -torch.inf
        found.append(similarity.topk(n_neighbors, dim=1).indices.cpu())
    return torch.cat(found).numpy()


def neighbor_graph(neighbors: np.ndarray) -> sparse.csr_array:
    """Make a symmetric graph of lists of neighbours.

    Parameters
    ----------
    neighbors : ndarray of shape (n, k)
        Indices of the neighbours of each row.

    Returns
    -------
    graph : csr_array of shape (n, n)
        Mean of the adjacency matrix and its transpose; its sum is n k.
    """
    n, k = neighbors.shape
    ends = np.arange(0, n * k + 1, k)
    directed = sparse.csr_array((np.ones(n * k), neighbors.ravel(), ends), shape=(n, n))
    return ((directed + directed.T) * 0.5).tocsr()


def smooth(Z: np.ndarray, neighbors: np.ndarray, times: int = 2) -> np.ndarray:
    """Add to each row the mean of its neighbours, and scale it to unit length.

    Parameters
    ----------
    Z : ndarray of shape (n, d)
        Rows of unit length.

    neighbors : ndarray of shape (n, k)
        Indices of the neighbours of each row.

    times : int, default=2
        Repetitions.

    Returns
    -------
    smoothed : ndarray of shape (n, d)
        Rows of unit length.
    """
    n, k = neighbors.shape
    weights = np.full(n * k, 1 / k, Z.dtype)
    mean = sparse.csr_array((weights, neighbors.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    for _ in range(times):
        Z = unit(Z + mean @ Z)
    return Z
