"""``skcc bench processes``: how training speed grows with the number of processes."""

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import multiprocessing

from skcc.augment import AUGMENTATIONS, Views
from skcc.backbones import BACKBONES
from skcc.data import Store
from skcc.methods.contrastive import ContrastiveObjective
from skcc.objective import Setup
from skcc.rng import private_rng
from skcc.training.engine import train
from skcc.training.settings import resolve_device, resolve_precision

_HEADS = {
    "projection_dim": 128, "n_heads": 5, "instance_temperature": 0.5, "cluster_temperature": 1.0,
    "instance_weight": 1.0, "cluster_weight": 1.0, "entropy_weight": 1.0,
}  # fmt: skip


def processes(
    *,
    most: int = 2,
    backbone: str = "conv4",
    side: int = 16,
    batch: int = 512,
    n: int = 4096,
    repeats: int = 3,
    device: str,
) -> Iterator[dict]:
    """Training speed of one, two, four, ... processes that share each batch.

    Every process has one thread on a CPU, or a GPU of its own. One process and several are measured
    in turns.

    Parameters
    ----------
    most : int, default=2
        Processes; powers of two up to it are measured, and it.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=16
        Of images and views.

    batch : int, default=512
        Images per step, over all processes.

    n : int, default=4096
        Images per epoch.

    repeats : int, default=3
        Times that each is started; an epoch to warm up and two that count.

    device : str
        "cpu" or "cuda".

    Yields
    ------
    record : dict
        Images per second by number of processes, with batch statistics of the whole batch and with
        those of each process; over one process; and that per process.
    """
    counts = sorted({1, most} | {2**i for i in range(1, 20) if 2**i < most})
    kinds = [(count, sync) for count in counts for sync in (True, False) if count > 1 or sync]
    seconds: dict = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind in kinds:
            seconds[kind] += _measure(*kind, (backbone, side, batch, n, device))
    rates = {kind: n / statistics.median(times) for kind, times in seconds.items()}
    for (count, sync), rate in rates.items():
        speedup = rate / rates[1, True]
        yield {
            "bench": "processes",
            "backbone": backbone,
            "batch": batch,
            "processes": count,
            "sync_batchnorm": sync,
            "images_per_second": rate,
            "over_one": speedup,
            "efficiency": speedup / count,
        }


def _measure(count, sync, how):
    """Seconds of epochs that count, of the first process."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, (count, sync, how, folder), nprocs=count)
        return torch.load(Path(folder) / "seconds.pt", weights_only=True)


def _work(rank, count, sync, how, folder):
    torch.set_num_threads(1)
    device = how[-1]
    if device == "cuda":
        torch.cuda.set_device(rank)
    if count > 1:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            init_method=f"file://{folder}/meet", rank=rank, world_size=count,
        )  # fmt: skip
    times = _train(how, sync)
    if rank == 0:
        torch.save(times[1:], Path(folder) / "seconds.pt")
    if count > 1:
        dist.destroy_process_group()


def _train(how, sync):
    """Seconds of each of three epochs."""
    backbone, side, batch, n, device = how
    device = resolve_device(device)
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    with private_rng(0, device):
        network = BACKBONES[backbone]((side, side, 3), (side, side)).eval()
        width = network(torch.zeros(2, 3, side, side)).shape[1]
        setup = Setup(network, width, (3, side, side), n)
        objective = ContrastiveObjective(setup, 10, **_HEADS)
    times = []
    train(
        objective.to(device, memory_format=torch.channels_last),
        Store(torch.from_numpy(images)).to(device),
        Views(AUGMENTATIONS["natural"], (side, side)),
        epochs=3, batch_size=batch, learning_rate=1e-3, weight_decay=0.0, schedule="one-cycle",
        seed=0, dtype=resolve_precision("auto", device),
        report=lambda history, seconds: times.append(seconds) or False,
        sync_batchnorm=sync,
    )  # fmt: skip
    return times
