import os
from pathlib import Path

import numpy as np
import pytest
import torch

REAL_IMAGES = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny batches are faster on one thread, and the machine may be shared."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def shapes():
    """Three kinds of gray pictures, 16 x 16: bars across, bars down, a disc; and their kinds."""
    rng = np.random.default_rng(0)
    images, kinds = [], np.arange(120) % 3
    y, x = np.mgrid[:16, :16]
    for kind in kinds:
        at, width = rng.integers(5, 11), rng.integers(1, 3)
        picture = [
            abs(y - at) <= width,
            abs(x - at) <= width,
            (x - at) ** 2 + (y - 16 + at) ** 2 <= 12 + 6 * width,
        ][kind]
        images.append(40 + 160 * picture + rng.integers(0, 40, (16, 16)))
    return np.stack(images).astype(np.uint8), kinds


@pytest.fixture(scope="session")
def colours():
    """Noisy colour pictures, (60, 12, 10, 3), uint8."""
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (60, 12, 10, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def real_images():
    if not REAL_IMAGES.is_dir():
        pytest.skip("the real images are not here")
    return REAL_IMAGES
