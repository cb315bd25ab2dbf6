"""Every kind of image ends in its documented pixels, and no file does harm."""

import csv
import io
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image, features

from skcc.data import decoding
from skcc.data.decoding import decode, header
from skcc.exceptions import ImageReadError

SECONDS = 10  # that any file may take


def has(feature):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # older ones do not know the question
        return features.check(feature)


def pixels(source, shape=(8, 8, 3)):
    out = np.full(shape, 77, np.uint8)
    decode(source, out)
    return out


def colour_of(source):
    """The one colour of an image."""
    out = pixels(source).reshape(-1, 3)
    assert (out == out[0]).all()
    return out[0].tolist()


# -- the rule for each kind -----------------------------------------------------------------

HALF_RED = (255, 127, 127)  # half transparent red, on white
KINDS = {
    "1": (1, [255, 255, 255]),
    "L": (128, [128] * 3),
    "LA": ((0, 0), [255] * 3),
    "RGB": ((1, 2, 3), [1, 2, 3]),
    "RGBA": ((255, 0, 0, 128), HALF_RED),
    "P": (0, [0, 0, 0]),
    "I;16": (257 * 9, [9] * 3),
    "I;16B": (257 * 9, [9] * 3),
    "I": (257 * 9, [9] * 3),
    "F": (0.5, [128] * 3),
    "CMYK": ((0, 255, 255, 0), [255, 0, 0]),
    "YCbCr": ((200, 128, 128), [200] * 3),
    "HSV": ((0, 255, 255), [255, 0, 0]),
}


@pytest.mark.parametrize("mode", KINDS)
def test_modes(mode):
    colour, expected = KINDS[mode]
    np.testing.assert_allclose(colour_of(Image.new(mode, (9, 9), colour)), expected, atol=1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.25, 1], [0, 64, 255]),  # black to white
        ([0, 64, 200], [0, 64, 200]),  # anything above 1: gray levels
        ([np.nan, -np.inf, 1], [0, 0, 255]),
        ([0, 0.5, np.inf], [0, 128, 255]),
    ],
)
def test_floats(values, expected):
    image = Image.fromarray(np.array([values], np.float32))
    np.testing.assert_array_equal(pixels(image, (1, 3, 1)).ravel(), expected)


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([-1, 0, 1], np.float32, r"from -1 to 1; wanted \[0, 1\] or \[0, 255\]"),
        ([0, 600], np.float32, r"from 0 to 600; wanted"),
        ([-1000, 2000], np.int32, r"from -1000 to 2000; wanted \[0, 65535\]"),
        ([0, 70000], np.int32, r"from 0 to 70000"),
    ],
)
def test_numbers_without_a_meaning_are_refused(values, dtype, message):
    with pytest.raises(ImageReadError, match=message):
        pixels(Image.fromarray(np.array([values], dtype)), (1, len(values), 1))


def test_gray_with_transparency_of_all_kinds_lies_on_white():
    lower = Image.new("La", (4, 4), (0, 0))
    palette = Image.new("PA", (4, 4), (0, 0))
    marked = Image.new("P", (4, 4), 3)
    marked.info["transparency"] = 3
    for image in (lower, palette, marked):
        assert colour_of(image) == [255] * 3


def test_lab_is_converted_as_littlecms_does():
    from PIL import ImageCms

    lab = ImageCms.createProfile("LAB")
    red = Image.new("RGB", (8, 8), (200, 30, 40))
    there = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), lab, "RGB", "LAB")
    np.testing.assert_allclose(
        colour_of(ImageCms.applyTransform(red, there)), [200, 30, 40], atol=4
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_that_of_pillow(tmp_path, orientation, suffix):
    from PIL import ImageOps

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (2, 3, 3), dtype=np.uint8)).resize((48, 32), 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    image.save(path, exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    with Image.open(path) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    assert header(path).size == expected.shape[1::-1]
    np.testing.assert_array_equal(pixels(path, expected.shape), expected)


def test_exif_behind_the_pixels_of_a_png_turns_it_too(tmp_path):
    image = Image.new("L", (8, 8))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 3
    file = io.BytesIO()
    image.save(file, "png", exif=exif)
    data = file.getvalue()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4])
    chunk, rest = data[at : at + length], data[:at] + data[at + length :]
    end = rest.index(b"IEND") - 4
    (tmp_path / "x.png").write_bytes(rest[:end] + chunk + rest[end:])
    assert pixels(tmp_path / "x.png", (8, 8, 1))[7, 7, 0] == 255


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "webp"])
def test_of_several_frames_or_pages_the_first_is_taken(tmp_path, kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = tmp_path / f"x.{kind}"
    how = {"lossless": True} if kind == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], **how)
    assert colour_of(path) == [255, 0, 0]


@pytest.mark.skipif(not has("avif"), reason="this Pillow has no AVIF")
def test_avif(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.avif", quality=100)
    np.testing.assert_allclose(colour_of(tmp_path / "x.avif"), [255, 0, 0], atol=3)


def test_other_proportions_are_cut_to_the_centre_and_resized():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, 8:22] = 255
    assert (pixels(Image.fromarray(stripes), (5, 5, 3)) == 255).all()
    assert (pixels(Image.fromarray(stripes.transpose(1, 0, 2)), (5, 5, 3)) == 255).all()


def test_a_jpeg_in_a_fraction_is_close_to_the_whole_one(tmp_path):
    """Decoding to half the size first saves time, and hardly changes a thing."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize((400, 400))
    image.save(tmp_path / "x.jpg", quality=95)
    whole = Image.open(tmp_path / "x.jpg").resize((40, 40), Image.Resampling.BILINEAR)
    error = pixels(tmp_path / "x.jpg", (40, 40, 3)).astype(int) - np.asarray(whole).astype(int)
    assert np.abs(error).mean() < 1


def test_an_image_that_is_given_stays_as_it_is():
    image = Image.new("RGBA", (9, 4), (1, 2, 3, 4))
    before = image.tobytes(), image.size, image.mode, dict(image.info)
    pixels(image)
    header(image)
    assert (image.tobytes(), image.size, image.mode, image.info) == before


# -- what is refused ------------------------------------------------------------------------


def test_decompression_bombs_are_refused_by_the_limit_of_pillow(tmp_path, monkeypatch):
    Image.new("1", (40, 30)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1199)
    for work in (header, pixels):
        message = r"x\.png.*40 x 30 pixels.*MAX_IMAGE_PIXELS"
        with decoding.ignore_pillow_warnings, pytest.raises(ImageReadError, match=message):
            work(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert header(tmp_path / "x.png").size == (40, 30)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path):
        with pytest.raises(ImageReadError, match="no regular file"):
            header(path)


def test_formats_that_call_other_programs_are_not_decoded(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.png")
    with pytest.raises(ImageReadError, match="cannot identify"):
        pixels(tmp_path / "x.png")
    assert not {".eps", ".ps", ".pdf", ".wmf", ".h5", ".mpg"} & decoding.suffixes()
    assert {".jpg", ".png", ".webp", ".tif", ".tga", ".jp2", ".ico"} <= decoding.suffixes()


def test_other_objects_are_refused():
    with pytest.raises(ImageReadError, match="of type int, neither a path nor a PIL image"):
        header(3)


def test_warnings_of_pillow_decide_nothing_and_filters_come_back(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "x.png", transparency=b"\x00\xff")
    before = list(warnings.filters)
    inside = threading.Barrier(4)

    def look():
        with decoding.ignore_pillow_warnings:
            inside.wait()
            warnings.warn_explicit("odd", UserWarning, "x.py", 1, module="PIL.Image")

    threads = [threading.Thread(target=look) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert warnings.filters == before


# -- awkward files --------------------------------------------------------------------------

# Pillow with warnings as errors would refuse some of these.
OLD_PILLOW = {"messy/webp_avif_jp2/avif_rot1mir0.avif"}  # has no AVIF
NEGATIVE = {"messy/float32/10ct_32bit_128.tiff"}  # Pillow opens it; it holds -3.1 to 3.1


@pytest.fixture(scope="module")
def messy(real_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("messy")
    if not (real_images / "messy.tar").is_file():
        pytest.skip("messy.tar is not here")
    with tarfile.open(real_images / "messy.tar") as tar:
        tar.extractall(folder, filter="data")
    with open(real_images / "messy-manifest.tsv") as file:
        return folder, list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.data
def test_each_awkward_file_ends_as_documented_in_time(messy):
    folder, rows = messy
    assert len(rows) == 97
    for row in rows:
        started = time.perf_counter()
        fine = row["pillow_13.0_result"] == "ok" and row["path"] not in NEGATIVE
        if row["path"] in OLD_PILLOW and not has("avif"):
            fine = False
        with decoding.ignore_pillow_warnings:
            if not fine:
                with pytest.raises(ImageReadError, match=re.escape(row["path"])):
                    pixels(folder / row["path"], (32, 32, 3))
                assert time.perf_counter() - started < SECONDS
                continue
            pixels(folder / row["path"], (32, 32, 3))
            size = tuple(map(int, row["size"].split("x")))
            turned = row["exif_orientation"] in "5678"
            assert header(folder / row["path"]).size == (size[::-1] if turned else size)
        assert time.perf_counter() - started < SECONDS


@pytest.mark.data
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:batches of")
@pytest.mark.filterwarnings("ignore:left out of .* 1 .avif")  # before Pillow 11.3
@pytest.mark.filterwarnings("ignore:X holds .*(several pages|16 bits)")
def test_a_folder_of_awkward_files_is_clustered(messy):
    from skcc import ContrastiveClustering
    from skcc.data import image_files
    from skcc.exceptions import ImageReadWarning

    folder, rows = messy
    files = [str(file.relative_to(folder)) for file in image_files(folder)]
    unknown = set() if has("avif") else OLD_PILLOW
    assert {r["path"] for r in rows} - set(files) == {"messy/made_here/.hidden.jpg"} | unknown
    model = ContrastiveClustering(3, max_epochs=1, on_error="warn", random_state=0, device="cpu")
    with pytest.warns(ImageReadWarning, match=r"1\d of 9\d images could not be read: cannot read"):
        model.fit(folder)
    bad = {r["path"] for r in rows if r["pillow_13.0_result"] != "ok"}
    found = {files[i] for i, _ in model.invalid_}
    assert found - OLD_PILLOW == bad | NEGATIVE
    assert all(str(folder / files[i]) in reason for i, reason in model.invalid_)
    assert {files[i] for i in np.flatnonzero(model.labels_ == -1)} == found


# -- broken bytes ---------------------------------------------------------------------------

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
FUZZ = """
import resource, sys, time, warnings
import numpy as np
from pathlib import Path
from skcc.data.decoding import decode, header
from skcc.exceptions import ImageReadError

warnings.simplefilter("ignore")
with open("/proc/self/status") as status:
    in_use = int(next(line for line in status if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (in_use + 2**29,) * 2)
out, slowest, broken = np.zeros((16, 16, 3), np.uint8), 0.0, 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.perf_counter()
    for work in (header, lambda p: decode(p, out)):
        try:
            work(path)
        except ImageReadError as error:
            assert str(path) in str(error)
            broken += 1
    slowest = max(slowest, time.perf_counter() - started)
print(broken, slowest)
"""


def seeds():
    """Small images of many formats."""
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, how in {
        "jpeg": {"exif": exif}, "png": {"exif": exif}, "webp": {}, "tiff": {"exif": exif},
        "gif": {"save_all": True, "append_images": [picture.rotate(9)]}, "bmp": {}, "ppm": {},
        "tga": {}, "pcx": {}, "sgi": {}, "ico": {}, "dds": {}, "msp": {}, "jpeg2000": {},
        "avif": {},
    }.items():  # fmt: skip
        image = picture.convert("1") if kind == "msp" else picture
        if kind in ("avif", "webp") and not has(kind):
            continue
        if kind == "jpeg2000" and not has("jpg_2000"):
            continue
        file = io.BytesIO()
        image.save(file, kind, **how)
        yield kind, file.getvalue()
    for mode in ("LA", "RGBA", "P", "I;16", "1"):
        file = io.BytesIO()
        picture.convert("L" if mode == "I;16" else mode).convert(mode).save(file, "png")
        yield f"{mode} png", file.getvalue()
    for compression in ("tiff_lzw", "jpeg", "tiff_adobe_deflate", "packbits"):
        file = io.BytesIO()
        picture.save(file, "tiff", compression=compression)
        yield compression, file.getvalue()


def damaged(data, rng):
    """Cut short, some bits flipped, or both."""
    data = bytearray(data)
    how = rng.randrange(3)
    if how != 1:
        del data[rng.randrange(len(data)) :]
    if how != 0:
        for _ in range(rng.randint(1, 30) if data else 0):
            first = rng.random() < 0.5  # headers decide more than pixels do
            data[rng.randrange(min(len(data), 120) if first else len(data))] ^= 1 << rng.randrange(
                8
            )
    return bytes(data)


def fuzz(folder, cases):
    rng = random.Random(0)
    intact = list(seeds())
    for i in range(cases):
        kind, data = intact[i % len(intact)]
        (folder / f"{i:04} {kind}").write_bytes(damaged(data, rng))
    out = subprocess.run(
        [sys.executable, "-c", FUZZ, str(folder)], capture_output=True, text=True, timeout=900
    )
    assert out.returncode == 0, out.stderr
    broken, slowest = out.stdout.split()
    assert int(broken) > cases / 2
    assert float(slowest) < SECONDS


@on_linux
def test_damaged_files_are_images_or_named_errors(tmp_path):
    fuzz(tmp_path, 150)


@on_linux
@pytest.mark.long
def test_a_thousand_damaged_files_are_images_or_named_errors(tmp_path):
    fuzz(tmp_path, 1000)
