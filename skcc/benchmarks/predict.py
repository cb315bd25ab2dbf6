"""``skcc bench predict``: speed of prediction."""

import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch.utils.flop_counter import FlopCounterMode

from skcc.augment import plain_view
from skcc.benchmarks.timing import medians
from skcc.benchmarks.workload import synthetic_images
from skcc.data import Store
from skcc.methods.contrastive import ContrastiveClustering
from skcc.training.settings import precision_of, resolve_device
from skcc.training.sweep import autocast, inference_batch


def predict(
    *, n: int = 10_000, side: int = 28, repeats: int = 3, precision: str = "auto", device: str
) -> dict:
    """`predict_proba` against a bare batched forward of the same module.

    Parameters
    ----------
    n : int, default=10_000
        Number of images.

    side : int, default=28
        Side of the colour images in pixels.

    repeats : int, default=3
        Timed calls.

    precision : {"auto", "fp32", "bf16"}, default="auto"
        Type in which networks compute, in both.

    device : str
        Device to compute on.

    Returns
    -------
    record : dict
        Images per second of both, and their ratio.
    """
    where = resolve_device(device)
    X = np.resize(synthetic_images(min(n, 512), side), (n, side, side, 3))
    model = ContrastiveClustering(
        10, max_epochs=1, random_state=0, device=device, precision=precision
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch of noise
        model.fit(X[: min(n, 512)])
    module, size = model._objective(), model.settings_["image_size"]
    dtype = precision_of(model, model.settings_["backbone"], where)
    samples = torch.from_numpy(X)
    size_of_batches = inference_batch(Store(samples), where)

    def bare():
        with torch.inference_mode(), autocast(where, dtype):
            return torch.cat([
                module.assign(plain_view(part.to(where), size)).float().cpu()
                for part in samples.split(size_of_batches)
            ]).numpy()  # fmt: skip

    seconds = medians(
        {"ours": lambda: model.predict_proba(X), "bare": bare}, repeats=repeats, device=where
    )
    images = plain_view(samples[: min(n, 128)].to(where), size)
    with FlopCounterMode(display=False) as flops, torch.inference_mode():
        module.assign(images)
    return {
        "bench": "predict",
        "n": n,
        "images_per_second": n / seconds["ours"],
        "bare_images_per_second": n / seconds["bare"],
        "speed_over_bare": seconds["bare"] / seconds["ours"],
        "gigaflops": flops.get_total_flops() / len(images) * n / seconds["ours"] / 1e9,
    }


def serve(*, side: int = 28, repeats: int = 100, device: str) -> dict:
    """Latency of `predict` for 1, 8, 32 and 128 images in memory.

    Parameters
    ----------
    side : int, default=28
        Side of the colour images in pixels.

    repeats : int, default=100
        Timed calls.

    device : str
        Device to compute on.

    Returns
    -------
    record : dict
        Milliseconds by number of images, median and 95th percentile, and of the first call.
    """
    X = synthetic_images(512, side)
    model = ContrastiveClustering(10, max_epochs=1, random_state=0, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one epoch of noise
        model.fit(X)
    record = {"bench": "serve", "side": side, "first": _milliseconds(model, X[:1])}
    for n in (1, 8, 32, 128):
        times = [_milliseconds(model, X[:n]) for _ in range(repeats)]
        median, late = np.percentile(times, [50, 95])
        record[str(n)] = {"median": round(median, 2), "p95": round(late, 2)}
    return record


def _milliseconds(model, images):
    started = time.perf_counter()
    model.predict(images)
    return round(1000 * (time.perf_counter() - started), 2)
