"""What a newcomer would stumble over: wrong readings that must not stay silent."""

import numpy as np
import pytest
from PIL import Image

from skcc import data
from skcc.exceptions import ImageReadWarning

RNG = np.random.default_rng(0)


def tiffs(folder, images, **options):
    paths = [folder / f"{i}.tif" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        first, *others = image
        first.save(path, save_all=True, append_images=others, **options)
    return paths


@pytest.mark.parametrize("n", [3, 260])  # from 256 on the format is guessed
def test_pages_that_are_not_read_are_told(tmp_path, n):
    page = Image.fromarray(RNG.integers(0, 255, (6, 6), dtype=np.uint8))
    paths = tiffs(tmp_path, [[page] * 4] * n)
    with pytest.warns(ImageReadWarning, match=f"{n} TIFF .* only the first page") as seen:
        data.read(paths)
    assert len(seen) == 1


def test_a_fourth_channel_that_is_taken_for_transparency_is_told(tmp_path):
    image = Image.fromarray(RNG.integers(0, 255, (6, 6, 4), dtype=np.uint8), "RGBA")
    with pytest.warns(ImageReadWarning, match="2 TIFF .* transparency"):
        data.read(tiffs(tmp_path, [[image]] * 2))
    image.save(tmp_path / "a.png")  # where a fourth channel is nothing else
    data.read([tmp_path / "a.png"])


@pytest.mark.parametrize("high", [4095, 60000])
@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_dark_files_of_16_bits_are_told(tmp_path, high, mode, recwarn):
    numbers = RNG.integers(0, high, (6, 6)).astype("<u2" if mode == "I;16" else ">u2")
    numbers[0, 0] = high
    image = Image.frombytes(mode, (6, 6), numbers.tobytes())
    data.read(tiffs(tmp_path, [[image]] * 2))
    assert [w.category for w in recwarn] == ([ImageReadWarning] if high == 4095 else [])
    assert all("up to 4095 of 65535" in str(w.message) for w in recwarn)
