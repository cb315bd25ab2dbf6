"""``skcc bench decode``: speed of reading image files, and time until training can start."""

import functools
import io
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from skcc import data

_DISTINCT_IMAGES = 50


def decode(
    *,
    n: int = 1500,
    sides: tuple = (32, 256, 512),
    stored: int = 64,
    kind: str = "jpeg",
    jobs: int = 2,
    repeats: int = 5,
) -> Iterator[dict]:
    """Reading a folder against a bare thread pool of Pillow, and from a cache against both.

    Parameters
    ----------
    n : int, default=1500
        Number of files.

    sides : tuple of int, default=(32, 256, 512)
        Sides of the images in the files, in pixels; each is measured.

    stored : int, default=64
        Side to which larger images are scaled down.

    kind : str, default="jpeg"
        Format of the files.

    jobs : int, default=2
        Threads of both.

    repeats : int, default=5
        Measurements, of which the shortest counts.

    Yields
    ------
    record : dict
        Images per second of both and their ratio; time of a first read divided by that of a
        second one from the cache.
    """
    for side in sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "files")
            folder.mkdir()
            files = write_files(folder, n, side, kind)
            candidates = {
                "ours": functools.partial(_read, folder, None, stored, jobs),
                "bare": functools.partial(bare_pool, files, min(side, stored), jobs),
            }
            seconds = _shortest_times(candidates, repeats)
            cached = functools.partial(_read, folder, Path(name, "cache"), stored, jobs)
            starts = [_time(cached) for _ in range(4)]
        yield {
            "bench": "decode",
            "kind": kind,
            "n": n,
            "side": side,
            "jobs": jobs,
            "images_per_second": n / seconds["ours"],
            "bare_images_per_second": n / seconds["bare"],
            "speed_over_bare": seconds["bare"] / seconds["ours"],
            "first_start_over_cached": starts[0] / min(starts[1:]),
        }


def write_files(folder: Path, n: int, side: int, kind: str) -> list[str]:
    """Write smooth colour images with some noise, which compress like photographs; list them."""
    rng, encoded = np.random.default_rng(0), []
    for _ in range(min(n, _DISTINCT_IMAGES)):
        rough = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (side, side, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        encoded.append(file.getvalue())
    for i in range(n):
        (folder / f"{i:06}.{kind}").write_bytes(encoded[i % len(encoded)])
    return [str(path) for path in sorted(folder.iterdir())]


def _read(folder, cache_dir, stored, jobs):
    data.read(folder, side=lambda short: stored, n_jobs=jobs, cache_dir=cache_dir)


def bare_pool(files: list[str], side: int, jobs: int) -> np.ndarray:
    """Decode files with Pillow in a thread pool, into one array.

    Parameters
    ----------
    files : list of str
        Files of colour images.

    side : int
        Side of the result in pixels.

    jobs : int
        Number of threads.

    Returns
    -------
    pixels : ndarray of shape (n, side, side, 3)
        Pixels, uint8.
    """
    pixels = np.empty((len(files), side, side, 3), dtype=np.uint8)

    def decode_one(i):
        with Image.open(files[i]) as image:
            image.draft(None, (2 * side, 2 * side))
            image = image.convert("RGB")
            if image.size != (side, side):
                image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
            pixels[i] = np.asarray(image)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(decode_one, range(len(files))))
    return pixels


def _shortest_times(candidates, repeats):
    """Measure wall-clock time, which threads are meant to save, of all candidates in turns."""
    times = {name: [] for name in candidates}
    for _ in range(repeats + 1):
        for name, function in candidates.items():
            times[name].append(_time(function))
    return {name: min(values) for name, values in times.items()}


def _time(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started
