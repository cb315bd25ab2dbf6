"""``skcc bench step`` and ``skcc bench scaling``: speed of the training step."""

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from skcc.benchmarks.baselines import plain_epoch
from skcc.benchmarks.timing import medians
from skcc.benchmarks.workload import Workload
from skcc.data import Store
from skcc.methods.contrastive import ContrastiveClustering
from skcc.methods.twin import TwinContrastClustering
from skcc.training.settings import precision_of, resolve_device


def step(
    *,
    method: str = "contrastive",
    backbone: str = "conv4",
    side: int = 16,
    batch: int = 128,
    steps: int = 8,
    clusters: int = 10,
    repeats: int = 5,
    precision: str = "auto",
    device: str,
) -> Iterator[dict]:
    """The whole training step of the engine against a bare loop with the same network.

    Parameters
    ----------
    method : str, default="contrastive"
        The other method is "twin": it is measured with one and with both directions, and compared
        with "contrastive", too.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=16
        Side of images and views in pixels.

    batch : int, default=128
        Images per step.

    steps : int, default=8
        Steps per measurement.

    clusters : int, default=10
        Width of the cluster head.

    repeats : int, default=5
        Timed measurements.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which networks compute.

    device : str
        Device to train on.

    Yields
    ------
    record : dict
        Images per second, arithmetic rate, ratio to the bare loop, speed relative to a bare loop in
        float32 where the precision is another, share of time of each part,
        and operations dispatched per step.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    estimators = _estimators(method, clusters)
    where = resolve_device(device)
    sizes = {"backbone": backbone, "side": side, "batch": batch, "n": batch * steps}
    dtype = precision_of(ContrastiveClustering(precision=precision), backbone, where)
    sizes |= {"clusters": clusters, "device": where, "dtype": dtype}
    for name, estimator in estimators.items():
        workload = Workload(**sizes, estimator=estimator)
        epochs = {"engine": workload.train_epoch, "bare": partial(plain_epoch, workload)}
        if method != "contrastive":
            reference = Workload(**sizes, estimator=ContrastiveClustering(clusters))
            epochs["contrastive"] = reference.train_epoch
        if workload.dtype != torch.float32:
            exact = Workload(**sizes | {"dtype": torch.float32}, estimator=estimator)
            epochs["float32"] = partial(plain_epoch, exact)
        seconds = medians(epochs, repeats=repeats, device=where)
        engine = seconds.pop("engine")
        gain = {"times_float32": seconds.pop("float32") / engine} if "float32" in seconds else {}
        yield {
            "bench": "step",
            "method": name,
            "backbone": backbone,
            "side": side,
            "batch": batch,
            "images_per_second": batch * steps / engine,
            "precision": str(workload.dtype).removeprefix("torch."),
            **{f"engine_over_{other}": engine / seconds[other] for other in seconds},
            **gain,
            **_profile(workload, steps / engine),
        }


def _estimators(method, clusters):
    """What is measured for a method, by name."""
    estimators = {
        "contrastive": {"contrastive": ContrastiveClustering(clusters)},
        "twin": {
            "twin": TwinContrastClustering(clusters),
            "twin, symmetric": TwinContrastClustering(clusters, symmetric=True),
        },
    }
    if method not in estimators:
        raise ValueError(f"no method {method!r}; there are {', '.join(estimators)}")
    return estimators[method]


def _profile(workload, steps_per_second):
    """Measure the parts, the arithmetic and the dispatched operations of a step."""
    parts = _PartTimer(workload.device)
    plain_epoch(workload, parts)
    workload.store = Store(workload.store.samples[: workload.batch])
    with FlopCounterMode(display=False) as flops:
        plain_epoch(workload)
    with _OperationCounter() as counter:
        workload.train_epoch()
    total = sum(parts.seconds.values())
    return {
        "gigaflops": flops.get_total_flops() * steps_per_second / 1e9,
        "shares": {name: value / total for name, value in parts.seconds.items()},
        "operations": counter.calls,
    }


class _OperationCounter(TorchDispatchMode):
    """Count the operations that are dispatched to the device."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


class _PartTimer:
    """Add up the wall-clock seconds of each part; called when a part begins."""

    def __init__(self, device):
        self.device, self.seconds = device, {}
        self._current = None

    def __call__(self, part):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._current is not None:
            name, started = self._current
            self.seconds[name] = self.seconds.get(name, 0.0) + now - started
        self._current = (part, now)


def scaling(
    *, n: int = 2048, batch: int = 512, repeats: int = 3, device: str, backbone: str = "conv4"
) -> dict:
    """Time of an epoch by number of images and of clusters.

    Parameters
    ----------
    n : int, default=2048
        Images; two and four times as many are measured, too.

    batch : int, default=512
        Images per step.

    repeats : int, default=3
        Timed epochs.

    device : str
        Device to train on.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    Returns
    -------
    record : dict
        Seconds per epoch; time per image relative to that of `n`, and time relative to that of 10
        clusters.
    """
    where = resolve_device(device)
    sizes = {"backbone": backbone, "side": 16, "batch": batch, "device": where}
    by_n = {m: Workload(n=m, clusters=10, **sizes).train_epoch for m in (n, 2 * n, 4 * n)}
    by_k = {k: Workload(n=n, clusters=k, **sizes).train_epoch for k in (10, 100, 200)}
    seconds_n = medians(by_n, repeats=repeats, device=where)
    seconds_k = medians(by_k, repeats=repeats, device=where)
    return {
        "bench": "scaling",
        "batch": batch,
        "seconds_by_n": seconds_n,
        "time_per_image": {m: s / m / (seconds_n[n] / n) for m, s in seconds_n.items()},
        "seconds_by_clusters": seconds_k,
        "over_10_clusters": {k: s / seconds_k[10] for k, s in seconds_k.items()},
    }
