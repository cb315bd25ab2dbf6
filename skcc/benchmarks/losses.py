"""``skcc bench losses``: speed of the instance and cluster loss."""

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from skcc.benchmarks.baselines import broadcast_cluster_contrast, masked_nt_xent
from skcc.benchmarks.timing import medians
from skcc.losses import cluster_contrast, nt_xent
from skcc.training.settings import resolve_device

_WIDTH = 128  # of the projections
_MAX_BYTES = 2**31  # of the broadcast baseline


def losses(
    *,
    clusters: tuple[int, ...] = (10, 100, 200, 1000),
    batches: tuple[int, ...] = (256, 1024),
    repeats: int = 5,
    device: str,
) -> Iterator[dict]:
    """Instance and cluster loss, forward and backward, against the forms of research code.

    Parameters
    ----------
    clusters : tuple of int, default=(10, 100, 200, 1000)
        Numbers of clusters.

    batches : tuple of int, default=(256, 1024)
        Images per batch.

    repeats : int, default=5
        Timed calls.

    device : str
        Device to compute on.

    Yields
    ------
    record : dict
        Milliseconds of both forms; None where the plain one would need over 2 GiB.
    """
    where = resolve_device(device)
    for n in batches:
        z = [F.normalize(torch.randn(n, _WIDTH, device=where), dim=1) for _ in range(2)]
        candidates = {
            "ours": _forward_backward(lambda a, b: nt_xent(a, b, temperature=0.5), *z),
            "plain": _forward_backward(lambda a, b: masked_nt_xent(a, b, 0.5), *z),
        }
        seconds = medians(candidates, repeats=repeats, device=where)
        yield _record("instance", n, None, seconds)
        for k in clusters:
            p = [F.softmax(torch.randn(n, k, device=where), dim=1) for _ in range(2)]
            candidates = {"ours": _forward_backward(cluster_contrast, *p)}
            if (2 * k) ** 2 * n * 4 <= _MAX_BYTES:
                candidates["plain"] = _forward_backward(
                    lambda a, b: broadcast_cluster_contrast(a, b, 1.0), *p
                )
            seconds = medians(candidates, repeats=repeats if k < 200 else 2, device=where)
            yield _record("cluster", n, k, seconds)


def _forward_backward(function, *tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    return lambda: torch.autograd.grad(function(*leaves), leaves)


def _record(name, n, k, seconds):
    plain = seconds.get("plain")
    rows, width = (2 * n, _WIDTH) if k is None else (2 * k, n)
    return {
        "bench": "losses",
        "loss": name,
        "batch": n,
        "clusters": k,
        "ms": 1000 * seconds["ours"],
        "ms_plain": None if plain is None else 1000 * plain,
        "times_faster": None if plain is None else plain / seconds["ours"],
        "gigaflops": 6 * rows**2 * width / seconds["ours"] / 1e9,
    }
