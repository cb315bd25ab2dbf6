"""The same images in other containers, types and layouts are the same samples, or an error."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image

from skcc.data import read

REFUSED = ValueError, TypeError, OSError  # what may be raised
N = 6
INTEGERS = ["uint8", "int16", "uint16", "int32", "int64"]
FLOATS = ["float16", "float32", "float64"]
LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "strided": lambda X: np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": lambda X: np.ascontiguousarray(X[:, ::-1])[:, ::-1],
    "read-only": lambda X: np.lib.stride_tricks.as_strided(X.copy(), writeable=False),
}


@functools.cache
def pictures(kind, shape):
    """Uint8 images, of shape (N, height, width, channels) or (N, height, width)."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 256, (N, *shape), dtype=np.uint8)
    if kind == "masks":
        X = (X > 127).astype(np.uint8) * np.uint8(255)
    if kind == "dark":
        X[0] = X[0] // 128  # zeros and ones
        X[1] = 0
    return X


def objects(items):
    out = np.empty(len(items), dtype=object)
    out[:] = items
    return out


def npy(X, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, X)
    return path


def tensor(X):
    X = np.ascontiguousarray(X)
    return torch.from_numpy(X if X.flags.writeable else X.copy())


def pil(X):
    """As images of Pillow, if it has a mode for such numbers."""
    modes = {"uint8": (3, 4), "bool": (3,), "float32": (3,)}
    if X.dtype == np.uint8 and X.max() == 1:
        raise TypeError("a file of bytes holds 0 and 255")
    if X.ndim not in modes.get(X.dtype.name, ()) or X.shape[3:] not in ((), (3,)):
        raise TypeError("no mode")
    return [Image.fromarray(x) for x in X]


def rows(X):
    return X.reshape(N, -1)


CONTAINERS = {
    "array": lambda X, folder: X,
    "list of arrays": lambda X, folder: list(X),
    "nested lists": lambda X, folder: X.tolist(),
    "tensor": lambda X, folder: tensor(X),
    "list of tensors": lambda X, folder: list(tensor(X)),
    "rows": lambda X, folder: rows(X),
    "rows of objects": lambda X, folder: rows(X).astype(object),
    "tensor of rows": lambda X, folder: rows(tensor(X)),
    "frame": lambda X, folder: pd.DataFrame(rows(X)),
    "objects": lambda X, folder: X.astype(object),
    "object array": lambda X, folder: objects(list(X)),
    "Series": lambda X, folder: pd.Series(list(X)),
    "npy": npy,
    "data set": lambda X, folder: torch.utils.data.TensorDataset(tensor(X)),
    "labelled": lambda X, folder: [(x, 1) for x in X],
    "PIL": lambda X, folder: pil(X),
    "bfloat16": lambda X, folder: tensor(X).bfloat16(),
    "list of bfloat16": lambda X, folder: list(tensor(X).bfloat16()),
    "data set of bfloat16": lambda X, folder: torch.utils.data.TensorDataset(tensor(X).bfloat16()),
}


def form(X, container, dtype, layout, scale, channels_first, folder):
    """The same images in another form."""
    is_mask = np.isin(X, (0, 255)).all() and X.any()
    if scale == "whole numbers, masks of 0 and 1" and is_mask:
        X = X // 255
    elif scale == "0 to 1":
        X = X / 255
    if dtype == "bool":
        X = X > 0
    X = X.astype(dtype)
    if channels_first and X.ndim == 4:
        X = X.transpose(0, 3, 1, 2)
    return CONTAINERS[container](LAYOUTS[layout](X), folder)


@st.composite
def forms(draw, kind):
    """Arguments of `form`."""
    scale = draw(st.sampled_from(["whole numbers", "whole numbers, masks of 0 and 1", "0 to 1"]))
    dtypes = [*FLOATS] if scale == "0 to 1" else [*INTEGERS, *FLOATS]
    if kind == "masks":
        dtypes = [*dtypes, "bool"]
    container = draw(st.sampled_from(sorted(CONTAINERS)))
    if scale == "0 to 1" and kind != "masks" and "bfloat16" in container:
        container = "tensor"  # it would not hold the same numbers
    return {
        "container": container,
        "dtype": draw(st.sampled_from(dtypes)),
        "layout": draw(st.sampled_from(sorted(LAYOUTS))),
        "scale": scale,
        "channels_first": draw(st.booleans()),
    }


def samples(store):
    return (store if hasattr(store, "samples") else store.read()).samples.numpy()


def are_rows(how):
    return "rows" in how["container"] or how["container"] == "frame"


SHAPES = [(6, 6), (5, 9), (6, 6, 3), (5, 9, 3), (7, 7, 5), (3, 3, 6), (4, 6, 5), (9, 5, 2)]


@st.composite
def pairs(draw):
    kind = draw(st.sampled_from(["photos", "photos", "masks", "dark"]))
    fitted, later = draw(forms(kind)), draw(forms(kind))
    # The order of the numbers in a row is height, width, channels; it may be that of the array.
    fitted["channels_first"] &= not are_rows(fitted)
    later["channels_first"] &= fitted["channels_first"] or not are_rows(later)
    return kind, draw(st.sampled_from(SHAPES)), fitted, later


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def read_form(X, how, folder, **known):
    """Samples and format of a form of X, or None if it is refused."""
    try:
        made = form(X, **how, folder=folder)
    except (TypeError, ValueError):  # Pillow or torch cannot hold it
        return None
    if are_rows(how) and not known:
        known = {"image_shape": X.shape[1:]}
    try:
        store, fmt = read(made, **known)
        return samples(store), fmt
    except REFUSED:
        return None


@settings(max_examples=400)
@given(pairs())
def test_what_is_read_later_is_what_fit_has_read_or_an_error(folder, pair):
    kind, shape, how, later = pair
    X = pictures(kind, shape)
    fitted = read_form(X, how, folder)
    if fitted is None:
        return event("fit refused")
    expected, fmt = fitted
    again = read_form(X, later, folder, known=fmt)
    if again is None:
        return event("later refused")
    event("same")
    np.testing.assert_array_equal(again[0], expected)


SCALES = ["whole numbers", "0 to 1"]
WORKS = [
    (container, dtype, "contiguous", scale, first)
    for scale in SCALES
    for container in CONTAINERS
    for dtype in (["uint8", "int64", "float32", "float64"] if scale == SCALES[0] else ["float32"])
    for first in (False, True)
    if not (scale == SCALES[1] and ("bfloat16" in container or container == "PIL"))
    and not (container == "PIL" and (dtype != "uint8" or first))
    and not (first and ("rows" in container or container == "frame"))
]
NAMES = "container", "dtype", "layout", "scale", "channels_first"


@pytest.mark.parametrize("shape", [(5, 9), (5, 9, 3)])
def test_after_bytes_all_forms_are_the_same_images(folder, shape):
    X = pictures("photos", shape)
    store, fmt = read(X)
    for case in WORKS:
        found = read_form(X, dict(zip(NAMES, case, strict=True)), folder, known=fmt)
        assert found is not None, case
        np.testing.assert_array_equal(found[0], samples(store), err_msg=str(case))


@pytest.mark.parametrize("fitted", ["bool", "uint8", "int64", "float32"])
@pytest.mark.parametrize("white", [1, 255])
def test_masks_are_black_and_white_whatever_brings_them(folder, fitted, white):
    X = pictures("masks", (5, 9)) > 0
    if fitted == "float32" and white == 255:
        pytest.skip("floats from 0 to 255 are refused in fit")
    store, fmt = read(X if fitted == "bool" else X.astype(fitted) * white)
    np.testing.assert_array_equal(samples(store)[..., 0], X * 255)
    for dtype in ("uint8", "int16", "int64", "float16", "float32", "float64"):
        for other in (X.astype(dtype), X.astype(dtype) * 255, X):
            for made in (other, rows(other), list(other), tensor(other)):
                again, _ = read(made, known=fmt)
                np.testing.assert_array_equal(samples(again), samples(store))
