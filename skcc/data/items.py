"""Tell what one item of X is: a file, an array, a missing entry, or an image with labels."""

import io
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CONTENTS = (bytes, bytearray, memoryview)
_MAX_NAME = 200  # characters of a name in a message
_URL = re.compile(r"(?i)^([a-z][a-z0-9+.-]+):(?://?|image/)")
_file_lock = threading.Lock()  # file objects have one position for all threads


def is_missing(x) -> bool:
    """Check whether an item stands for an absent image: None, NaN, NA or an empty string."""
    if isinstance(x, (str, bytes)):
        return not x
    if isinstance(x, (float, np.floating)):
        return bool(x != x)
    return x is None or type(x).__name__ in ("NAType", "NaTType")


def missing_reason(i: int, x) -> str:
    """Return the reason for a missing item of X."""
    shown = repr(x) if isinstance(x, (str, bytes)) else str(x)
    return f"item {i} of X is missing ({shown})"


def is_file(x) -> bool:
    """Check whether an item is a path, a PIL image, a file object or the content of a file."""
    kinds = (str, os.PathLike, Image.Image, *CONTENTS)
    return isinstance(x, kinds) or hasattr(x, "read")


def is_array(x) -> bool:
    """Check whether an item is an array or a tensor with at least one axis."""
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim > 0
    return hasattr(x, "__array__") and len(getattr(x, "shape", ())) > 0


def is_image(x) -> bool:
    """Check whether an item is a file or an array of two axes or more."""
    return x.ndim >= 2 if isinstance(x, (np.ndarray, Tensor)) else is_file(x)


def content_of(source) -> bytes:
    """Return the bytes of an encoded image; leave the position of a file object as it is."""
    if isinstance(source, CONTENTS):
        return bytes(source)
    if not hasattr(source, "read"):
        raise TypeError(f"it is of type {type(source).__name__}, neither a path nor a PIL image")
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    with _file_lock:
        if not getattr(source, "seekable", lambda: True)():
            raise ValueError("it is a stream that can be read only once; give its content, bytes")
        position = source.tell()
        source.seek(0)
        content = source.read()
        source.seek(position)
    if isinstance(content, str):
        raise ValueError("it was opened as text; open it with mode 'rb'")
    return content


def as_array(x) -> np.ndarray:
    """Return an array or tensor as an array of NumPy."""
    if not isinstance(x, Tensor):
        return np.asarray(x)
    if x.layout != torch.strided:
        raise TypeError("X holds a sparse tensor; wanted a dense one: X.to_dense()")
    if x.is_meta:
        raise ValueError("X holds a tensor on the device meta, which has no numbers")
    x = x.detach().cpu().resolve_conj().resolve_neg()
    if x.is_quantized:
        return x.dequantize().numpy()
    try:
        return x.numpy()
    except TypeError:  # types that NumPy lacks, such as bfloat16
        return x.float().numpy()


def check_no_mask(x) -> None:
    """Raise an error for a masked array with missing values."""
    if np.ma.is_masked(x):
        raise ValueError(
            f"X holds a masked array with {np.ma.count_masked(x)} missing values; wanted all of "
            "them: X.filled(0) makes them 0"
        )


def check_same_kind(arrays) -> None:
    """Raise an error for arrays of integers beside arrays of floats: they have other scales."""
    dtypes = {a.dtype for a in arrays}
    if len({d.kind.replace("u", "i") for d in dtypes}) > 1:
        raise ValueError(
            f"X holds arrays of different types, {join_some(sorted(map(str, dtypes)))}; wanted "
            "integers from 0 to 255 or floats from 0 to 1, not both"
        )


# -- messages -------------------------------------------------------------------------------


def describe(x) -> str:
    """Describe an item in a few words for a message."""
    if isinstance(x, (str, Path)):
        name = str(x)
        return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."
    if isinstance(x, Image.Image):
        own = f"{type(x).__name__} of mode {x.mode} and {x.size[0]} x {x.size[1]} pixels"
        return str(getattr(x, "filename", "") or own)
    if isinstance(x, CONTENTS):
        return f"{len(x)} bytes"
    name = type(x).__name__
    if isinstance(x, Mapping):
        return f"{name} of {join_some(x)}"
    if isinstance(x, (tuple, list)):
        return f"{name} of ({join_some(type(v).__name__ for v in x)})"
    return f"{name} of shape {tuple(x.shape)}" if is_array(x) else name


def join_some(items, n: int = 4) -> str:
    """Join the first few items by commas."""
    items = [str(item) for item in items]
    return ", ".join(items[:n]) + (", ..." if len(items) > n else "")


def path_hint(source) -> str:
    """Return what to do about a path that does not exist, if it shows that."""
    path = str(source)
    url = _URL.match(path)
    if url and url[1].lower() == "file":
        return f": give the path, {re.sub('^/*', '/', unquote(path[url.end() :]))}"
    if url:
        return ": addresses are not opened; give the files, or their contents as bytes"
    if path.startswith("~") and os.path.exists(os.path.expanduser(path)):
        return ": '~' is not expanded; give os.path.expanduser(path)"
    if os.path.islink(path):
        return f", a link to {os.path.realpath(path)}"
    return ""
