"""``skcc bench graphs``: what capturing the training step of each method as a CUDA graph gains."""

from collections.abc import Iterator
from functools import partial

import torch

import skcc
from skcc.benchmarks.timing import wall_clock_median
from skcc.benchmarks.workload import Workload
from skcc.methods import METHODS
from skcc.training.settings import resolve_device


def graphs(
    *,
    methods: str = "all",
    backbone: str = "resnet18-small",
    side: int = 32,
    batch: int = 256,
    steps: int = 24,
    clusters: int = 10,
    repeats: int = 2,
    device: str,
) -> Iterator[dict]:
    """Training speed of each method, in bfloat16, with plain steps and with captured ones.

    Parameters
    ----------
    methods : str, default="all"
        Keys of `skcc.methods.METHODS`, separated by commas.

    backbone : str, default="resnet18-small"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=32
        Side of images and views in pixels.

    batch : int, default=256
        Images per step.

    steps : int, default=24
        Steps per measurement. The capture is part of it.

    clusters : int, default=10
        Number of clusters.

    repeats : int, default=2
        Timed measurements.

    device : str
        Device to train on. On a CPU nothing is captured.

    Yields
    ------
    record : dict
        Images per second of wall-clock time of the method's first phase, plain and captured, and
        their ratio. "captured" is None on a CPU, and where steps cannot be captured.

    Raises
    ------
    ValueError
        If a method is unknown.
    """
    names = list(METHODS) if methods == "all" else methods.split(",")
    if unknown := sorted({*names} - {*METHODS}):
        raise ValueError(f"no methods {unknown}; there are {', '.join(METHODS)}")
    where = resolve_device(device)
    on_gpu = where.type == "cuda"
    sizes = {"backbone": backbone, "side": side, "batch": batch, "n": batch * steps}
    sizes |= {"dtype": torch.bfloat16 if on_gpu else torch.float32, "device": where}
    for name in names:
        estimator = getattr(skcc, METHODS[name])(clusters)
        work = Workload(**sizes, clusters=clusters, estimator=estimator)
        rates = {"plain": None, "captured": None}
        is_captured = on_gpu and work.objective.capturable and not work.objective.draws
        for way in rates if is_captured else ["plain"]:
            epoch = partial(work.train_epoch, cuda_graphs=way == "captured")
            rates[way] = batch * steps / wall_clock_median(epoch, repeats=repeats, device=where)
        gain = rates["captured"] / rates["plain"] if rates["captured"] else None
        yield {
            "bench": "graphs", "method": name, "backbone": backbone, "side": side, "batch": batch,
            **rates, "captured_over_plain": gain,
        }  # fmt: skip
