"""``skcc bench processes``: training speed by number of processes."""

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
from skcc.benchmarks.workload import HEADS
from skcc.data import Store
from skcc.methods.contrastive import ContrastiveObjective
from skcc.objective import Setup
from skcc.rng import private_rng
from skcc.training.engine import train
from skcc.training.settings import resolve_device, resolve_precision

_EPOCHS = 3  # of each start; the first one is a warm-up


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

    Each process has one thread on a CPU, or a GPU of its own. All numbers of processes are measured
    in turns.

    Parameters
    ----------
    most : int, default=2
        Largest number of processes; measured as well as the powers of two below it.

    backbone : str, default="conv4"
        A key of `skcc.backbones.BACKBONES`.

    side : int, default=16
        Side of images and views in pixels.

    batch : int, default=512
        Images per step, over all processes.

    n : int, default=4096
        Images per epoch.

    repeats : int, default=3
        Number of starts, with one warm-up epoch and two timed epochs each.

    device : str
        Either "cpu" or "cuda".

    Yields
    ------
    record : dict
        Images per second by number of processes, with and without synchronized batch norm; speed
        relative to one process, and that per process.
    """
    counts = sorted({1, most} | {2**i for i in range(1, 20) if 2**i < most})
    kinds = [(count, sync) for count in counts for sync in (True, False) if count > 1 or sync]
    workload = {"backbone": backbone, "side": side, "batch": batch, "n": n, "device": device}
    seconds: dict = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for count, sync in kinds:
            seconds[count, sync] += _measure(count, sync, workload)
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


def _measure(count, sync, workload):
    """Return the seconds of the timed epochs, measured on rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run_rank, (count, sync, workload, folder), nprocs=count)
        return torch.load(Path(folder) / "seconds.pt", weights_only=True)


def _run_rank(rank, count, sync, workload, folder):
    torch.set_num_threads(1)
    on_gpu = workload["device"] == "cuda"
    if on_gpu:
        torch.cuda.set_device(rank)
    if count > 1:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"file://{folder}/meet", rank=rank, world_size=count,
        )  # fmt: skip
    seconds = _train(**workload, sync=sync)
    if rank == 0:
        torch.save(seconds[1:], Path(folder) / "seconds.pt")
    if count > 1:
        dist.destroy_process_group()


def _train(*, backbone, side, batch, n, device, sync):
    """Train, and return the seconds of each epoch."""
    device = resolve_device(device)
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    with private_rng(0, device):
        network = BACKBONES[backbone]((side, side, 3), (side, side)).eval()
        width = network(torch.zeros(2, 3, side, side)).shape[1]
        setup = Setup(network, width, (3, side, side), n)
        objective = ContrastiveObjective(setup, 10, **HEADS | {"n_heads": 5})
    times = []
    train(
        objective.to(device, memory_format=torch.channels_last),
        Store(torch.from_numpy(images)).to(device),
        Views(AUGMENTATIONS["natural"], (side, side)),
        epochs=_EPOCHS, batch_size=batch, learning_rate=1e-3, weight_decay=0.0,
        schedule="one-cycle", seed=0, dtype=resolve_precision("auto", device),
        report=lambda history, seconds: times.append(seconds) or False,
        sync_batchnorm=sync,
    )  # fmt: skip
    return times
