"""``skcc bench memory`` and ``skcc bench import``: measured in Python processes of their own."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from skcc.benchmarks.workload import synthetic_images
from skcc.training.sweep import INFERENCE_BATCH

# By itself, glibc moves the bounds above which it gives back memory that was freed, and the peak
# differs by up to 30 MiB from run to run; with fixed ones by 2.
_FIXED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_IMPORT = """
import time, torch
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
"""
_MEMORY = """
import re, sys, warnings
import numpy as np
from PIL import Image
from skcc import ContrastiveClustering
warnings.simplefilter("ignore")
def mib(field):  # of this process; the maximum of getrusage includes the memory of its parent
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
"""
_FIT = (
    _MEMORY
    + """
n, device = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
X = rng.integers(0, 256, (n, 32, 32, 3), np.uint8)
model = ContrastiveClustering(10, max_epochs=1, device=device)
model.fit(X[:600])
before = mib("VmRSS")
model.set_params(batch_size=512).fit(X)
print(before, mib("VmHWM"))
"""
)
_PREDICT = (
    _MEMORY
    + """
folder, n, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
paths = [f"{folder}/{i % 64}.png" for i in range(n)]
model = ContrastiveClustering(2, max_epochs=1, device=device).fit(paths[:64])
model.predict(paths[:128])
before = mib("VmRSS")
model.predict(paths)
print(before, mib("VmHWM"))
"""
)


def memory(*, n: int = 60_000, device: str) -> dict:
    """Peak memory of the host above the data, each in a process of its own.

    Parameters
    ----------
    n : int, default=60_000
        Colour images of 32 x 32 for `fit`.

    device : str
        Device to compute on.

    Returns
    -------
    record : dict
        MiB of `fit` above a process that holds the data and has fitted before, and MiB of
        `predict` on files, for 10 and 40 batches. Needs Linux.
    """
    fit = _added_memory(_FIT, n, device)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(synthetic_images(64, 96)):
            Image.fromarray(image).save(Path(folder) / f"{i}.png")
        predict = {
            batches: _added_memory(_PREDICT, folder, batches * INFERENCE_BATCH, device, **_FIXED)
            for batches in (10, 40)
        }
    return {"bench": "memory", "n": n, "fit_mib": fit, "predict_mib": predict}


def _added_memory(code, *arguments, **environment):
    """Run a program that prints its memory before and at the peak; return the difference."""
    before, peak = map(float, _run_python(code, *arguments, **environment).split()[-2:])
    return peak - before


def _run_python(code, *arguments, **environment):
    """Run a program in a new Python process, and return its output."""
    return subprocess.run(  # nosec B603 # this Python and code of this file, without a shell
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True, env=os.environ | environment,
    ).stdout  # fmt: skip


def import_time(*, repeats: int = 5) -> dict:
    """Time of importing an estimator against that of ``sklearn.cluster``, both after torch.

    Parameters
    ----------
    repeats : int, default=5
        Processes for each of both.

    Returns
    -------
    record : dict
        Median seconds, and their ratio.
    """
    # Importing skcc alone imports nothing: what is in it comes when it is asked for.
    statements = "from skcc import ContrastiveClustering", "import sklearn.cluster"
    scripts = [_IMPORT.format(statement=statement) for statement in statements]
    times = [[float(_run_python(script)) for script in scripts] for _ in range(repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return {"bench": "import", "seconds": ours, "over_scikit_learn": ours / theirs}
