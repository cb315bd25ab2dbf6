"""``skcc bench decode``: how fast files become pixels, and how soon training can start."""

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

_KINDS = 50  # of different images; more would only take longer to make


def _write_files(folder, n, side, kind):
    """Smooth colour images with some noise, as photographs are."""
    rng, made = np.random.default_rng(0), []
    for _ in range(min(n, _KINDS)):
        rough = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(rough).resize((side, side), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (side, side, 3))
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        made.append(file.getvalue())
    for i in range(n):
        (folder / f"{i:06}.{kind}").write_bytes(made[i % len(made)])
    return [str(path) for path in sorted(folder.iterdir())]


def bare_pool(files: list[str], side: int, jobs: int) -> np.ndarray:
    """Decode files as one would by hand: Pillow, a thread pool, one array.

    Parameters
    ----------
    files : list of str
        Colour images.

    side : int
        Of the result.

    jobs : int
        Threads.

    Returns
    -------
    pixels : ndarray of shape (n, side, side, 3)
        Uint8.
    """
    out = np.empty((len(files), side, side, 3), dtype=np.uint8)

    def one(i):
        with Image.open(files[i]) as image:
            image.draft(None, (2 * side, 2 * side))
            image = image.convert("RGB")
            if image.size != (side, side):
                image = ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)
            out[i] = np.asarray(image)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, range(len(files))))
    return out


def _shortest(candidates, repeats):
    """Seconds by the clock on the wall, since threads are meant to save those; in turns."""
    times = {name: [] for name in candidates}
    for _ in range(repeats + 1):
        for name, function in candidates.items():
            started = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - started)
    return {name: min(values) for name, values in times.items()}


def _start(folder, cache_dir, stored, jobs):
    started = time.perf_counter()
    data.read(folder, side=lambda short: stored, n_jobs=jobs, cache_dir=cache_dir)
    return time.perf_counter() - started


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
        Files.

    sides : tuple of int, default=(32, 256, 512)
        Of the images in them.

    stored : int, default=64
        Side to which they are brought, if they are larger.

    kind : str, default="jpeg"
        Their format.

    jobs : int, default=2
        Threads of both.

    repeats : int, default=5
        Measurements, of which the shortest counts.

    Yields
    ------
    record : dict
        Images per second of both and the ratio; and how much sooner the second run starts that
        finds its images in a cache.
    """
    for side in sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "files")
            folder.mkdir()
            files = _write_files(folder, n, side, kind)
            short = min(side, stored)
            seconds = _shortest(
                {
                    "ours": functools.partial(_start, folder, None, stored, jobs),
                    "bare": functools.partial(bare_pool, files, short, jobs),
                },
                repeats,
            )
            starts = [_start(folder, Path(name, "cache"), stored, jobs) for _ in range(4)]
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
