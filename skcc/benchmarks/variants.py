"""``skcc bench variants``: the gain of each optimization of the training step."""

from collections.abc import Iterator
from functools import partial

import torch

from skcc.benchmarks.baselines import published_epoch
from skcc.benchmarks.timing import wall_clock_median
from skcc.benchmarks.workload import Workload
from skcc.training.settings import resolve_device

_PUBLISHED = "views by Pillow, fp32, masks"


def variants(
    *,
    backbone: str = "resnet18-small",
    side: int = 32,
    batch: int = 512,
    steps: int = 60,
    repeats: int = 3,
    compiled: int = 0,
    peer: int = 1,
    device: str,
) -> Iterator[dict]:
    """Training speed as one trick after the other is added, beside the published recipe.

    Parameters
    ----------
    backbone : str, default="resnet18-small"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=32
        Side of images and views in pixels.

    batch : int, default=512
        Images per step.

    steps : int, default=60
        Steps per measurement. The capture of a CUDA graph is part of it.

    repeats : int, default=3
        Timed measurements.

    compiled : int, default=0
        1 adds rows with torch.compile and batch statistics of each view, whose first call takes
        minutes.

    peer : int, default=1
        1 adds a row with views by Pillow, float32 and losses by masks.

    device : str
        Device to train on. On a CPU there are no rows for bfloat16 and CUDA graphs.

    Yields
    ------
    record : dict
        Images per second of wall-clock time, and the ratio to the first row.
    """
    where = resolve_device(device)
    sizes = {"backbone": backbone, "side": side, "batch": batch, "clusters": 10, "device": where}
    n, rows = batch * steps, {}
    if peer:
        workload = Workload(n=2 * batch, **sizes, channels_last=False)
        rows[_PUBLISHED] = published_epoch(workload, side)
    rows |= _engine_epochs(sizes | {"n": n})
    if compiled:
        rows |= _compiled_epochs(sizes | {"n": n})
    first = None
    for name, epoch in rows.items():
        images = 2 * batch if name == _PUBLISHED else n
        rate = images / wall_clock_median(epoch, repeats=repeats, device=where)
        first = first or rate
        yield {
            "bench": "variants",
            "variant": name,
            "backbone": backbone,
            "side": side,
            "batch": batch,
            "images_per_second": rate,
            "times_the_first": rate / first,
        }


def _engine_epochs(sizes):
    """Return the epochs of the engine by name, each with one more optimization."""
    on_gpu = sizes["device"].type == "cuda"
    first = "fp32, TF32 convolutions" if on_gpu else "fp32"  # cuDNN's default
    rows = {
        first: Workload(**sizes, channels_last=False).train_epoch,
        "+ channels last": Workload(**sizes).train_epoch,
    }
    fast = sizes | {"dtype": _fast_dtype(sizes["device"])}
    if on_gpu:
        rows["+ bf16"] = Workload(**fast).train_epoch
    rows["+ one forward, joint statistics"] = Workload(**fast, joint=True).train_epoch
    if on_gpu:
        separate, joint = Workload(**fast), Workload(**fast, joint=True)
        rows["+ graph, two forwards"] = partial(separate.train_epoch, cuda_graphs=True)
        rows["+ graph, one forward, joint"] = partial(joint.train_epoch, cuda_graphs=True)
        rows["+ graph, two forwards, chosen kernels"] = _with_chosen_kernels(separate)
    return rows


def _with_chosen_kernels(workload):
    """Return an epoch for which cuDNN times its kernels and takes the fastest."""

    def epoch():
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            workload.train_epoch(cuda_graphs=True)

    return epoch


def _compiled_epochs(sizes):
    workload = Workload(**sizes, dtype=_fast_dtype(sizes["device"]))
    rows = {"compile, one forward": partial(workload.train_epoch, compile_step=True)}
    if sizes["device"].type == "cuda":
        options = {"compile_step": True, "cuda_graphs": True}
        rows["compile, one forward, graph"] = partial(workload.train_epoch, **options)
    return rows


def _fast_dtype(device):
    return torch.bfloat16 if device.type == "cuda" else torch.float32
