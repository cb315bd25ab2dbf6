"""``skcc bench embed``: speed of embedding images."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from skcc.benchmarks.throughput import write_files
from skcc.benchmarks.workload import synthetic_images
from skcc.embedding import ImageEmbedder
from skcc.embedding.networks import IMAGENET
from skcc.rng import private_rng
from skcc.training.settings import resolve_device, resolve_precision
from skcc.training.sweep import autocast


def embed(
    *,
    n: int = 128,
    network: str = "resnet18",
    size: int = 224,
    file_side: int = 500,
    batch: int = 16,
    jobs: int = 1,
    repeats: int = 3,
    device: str,
) -> dict:
    """`ImageEmbedder` against a bare batched loop of the same network on decoded tensors.

    Parameters
    ----------
    n : int, default=128
        Number of images.

    network : str, default="resnet18"
        Network of torchvision; its weights are random.

    size : int, default=224
        Side of the images that the network sees, in pixels.

    file_side : int, default=500
        Side of the JPEG files, in pixels.

    batch : int, default=16
        Images per forward pass of both.

    jobs : int, default=1
        Threads that decode files.

    repeats : int, default=3
        Timed calls.

    device : str
        Device to compute on.

    Returns
    -------
    record : dict
        Images per second of the bare loop, and wall-clock and processor time over that of the
        bare loop: of decoded arrays, and of files that have to be decoded.
    """
    where = resolve_device(device)
    with private_rng(0, torch.device("cpu")):
        module = _features_of(network)
    settings = {"size": size, "normalize": "imagenet", "batch_size": batch, "device": device}
    X = np.resize(synthetic_images(min(n, 64), size), (n, size, size, 3))
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), n, file_side, "jpeg")
        of_arrays = ImageEmbedder(module, **settings).fit(X)
        of_files = ImageEmbedder(module, n_jobs=jobs, **settings).fit(files)
        times = _medians({
            "arrays": lambda: of_arrays.transform(X),
            "files": lambda: of_files.transform(files),
            "bare": _bare_loop(module, X, batch, where),
        }, repeats)  # fmt: skip
    bare = times["bare"]
    return {
        "bench": "embed",
        "n": n,
        "network": network,
        "jobs": jobs,
        "bare_images_per_second": n / bare[0],
        **{
            f"{name}_{kind}_over_bare": value / other
            for name in ("arrays", "files")
            for kind, value, other in zip(("wall", "cpu"), times[name], bare, strict=True)
        },
    }


def _features_of(network):
    """Return a network of torchvision with random weights and without its classifier."""
    from torchvision import models

    module = models.get_model(network, weights=None)
    *_, (last, _) = ((k, m) for k, m in module.named_modules() if isinstance(m, nn.Linear))
    module.set_submodule(last, nn.Identity())
    return module


def _bare_loop(module, X, batch, device):
    """Return a function that computes features as briefly as it can be written."""
    module = module.eval().to(device, memory_format=torch.channels_last)
    mean, std = (torch.tensor(v, device=device).mul(255).view(1, 3, 1, 1) for v in IMAGENET)
    dtype, images = resolve_precision("auto", device), torch.from_numpy(X)

    def run():
        with torch.inference_mode(), autocast(device, dtype):
            return torch.cat([
                module((part.to(device).permute(0, 3, 1, 2).float() - mean) / std).float().cpu()
                for part in images.split(batch)
            ])  # fmt: skip

    return run


def _medians(candidates: dict[str, Callable], repeats):
    """Time all candidates in turns; return the medians of their wall-clock and processor times."""
    times = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, function in candidates.items():
            started = time.perf_counter(), time.process_time()
            function()
            ended = time.perf_counter(), time.process_time()
            if turn:
                times[name].append([e - s for e, s in zip(ended, started, strict=True)])
    return {
        name: [statistics.median(column) for column in zip(*values, strict=True)]
        for name, values in times.items()
    }
