import os
from pathlib import Path

# SciPy reads it once, when it is imported; one of scikit-learn's checks is skipped without it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from skcc.training import settings

REAL_IMAGES = Path(__file__).parents[2] / "shared" / "data"

hypothesis.settings.register_profile(
    "short", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.register_profile("long", max_examples=1500, deadline=None, database=None)
hypothesis.settings.load_profile("short")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny batches are faster on one thread, and the machine may be shared."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True, scope="session")
def has_fast_bfloat16():
    """Tests know what comes out in float32, so "auto" is float32 here, whatever the processor.

    Returns the function that it replaces.
    """
    with pytest.MonkeyPatch.context() as patch:
        original = settings.has_fast_bfloat16
        patch.setattr(settings, "has_fast_bfloat16", lambda: False)
        yield original


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
def kinds_of_x(shapes, tmp_path_factory):
    """The same 120 pictures in every guise."""
    gray = shapes[0]
    colour = np.stack([gray, 255 - gray, gray // 2], axis=-1)
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i, image in enumerate(colour):
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(image).save(paths[-1])
    return {
        "gray uint8": gray,
        "gray float": (gray / 255).astype(np.float32),
        "NHWC uint8": colour,
        "NCHW float": (colour.transpose(0, 3, 1, 2) / 255).astype(np.float32),
        "NCHW tensor": torch.from_numpy(colour.transpose(0, 3, 1, 2).copy()),
        "two channels": colour[..., :2],
        "four channels": np.concatenate([colour, gray[..., None]], axis=-1),
        "nine channels": np.concatenate([colour] * 3, axis=-1),
        "paths": paths,
        "strings": np.array([str(p) for p in paths]),
        "PIL": [Image.fromarray(image) for image in colour],
        "PIL of many sizes": [
            Image.fromarray(image).resize((16 + i % 5, 16 + i % 3))
            for i, image in enumerate(colour)
        ],
        "vectors": gray.reshape(120, -1)[:, ::4] / 7.0,
    }


@pytest.fixture(scope="session")
def real_images():
    if not REAL_IMAGES.is_dir():
        pytest.skip("the real images are not here")
    return REAL_IMAGES
