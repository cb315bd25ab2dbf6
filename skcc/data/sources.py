"""Resolve what a user gives as X: expand folders and patterns, open array files, tell its kind.

Nothing is decoded here.
"""

import contextlib
import glob
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from skcc.data import decoding
from skcc.exceptions import ImageReadError

_WILDCARDS = "*?["
_ARRAY_SUFFIXES = (".npy", ".npz")


@dataclass(frozen=True)
class Input:
    """X after `resolve`, with its kind.

    Parameters
    ----------
    value : object
        Samples of X, not yet read.

    kind : {"files", "path column", "table", "tensor", "lazy", "array"}
        "files" is a sequence of paths or PIL images; "path column" a table whose only column
        holds paths; "table" rows of numbers; "tensor" a tensor of PyTorch; "lazy" an array of
        images that is read slice by slice; "array" an array of images in memory. Anything that
        `read` rejects is an "array" as well.
    """

    value: object
    kind: Literal["files", "path column", "table", "tensor", "lazy", "array"]


class FileIdentity(NamedTuple):
    """Hashes by which decoded images are found in the cache.

    Parameters
    ----------
    paths : str
        Hash of the absolute paths in their order.

    state : str
        Hash of the paths, sizes and modification times.
    """

    paths: str
    state: str


def image_files(root) -> list[Path]:
    """List all image files below a folder, sorted by path.

    Parameters
    ----------
    root : str or Path
        Folder to search.

    Returns
    -------
    files : list of Path
        Files with the suffix of a format that Pillow decodes, and files without a suffix whose
        format Pillow recognises. Files and folders whose names begin with a dot are skipped.

    Raises
    ------
    ImageReadError
        If there is no such folder.

    ValueError
        If it holds no image files.
    """
    return [Path(file) for file in _files_below(root)]


def resolve(X) -> Input:
    """Replace names and data sets by what they stand for, and classify the result.

    Parameters
    ----------
    X : array, tensor, path, pattern, data set, or list of arrays, paths or PIL images
        See `skcc.ContrastiveClustering.fit`.

    Returns
    -------
    source : Input
        Its value is a list of paths for a folder, a file, a pattern or a list with patterns; an
        array for an array file of NumPy; `DatasetImages` or `DatasetArrays` for a map-style data
        set, a Hugging Face data set, or a list of their items; X itself otherwise.

    Raises
    ------
    ImageReadError
        If a file or folder does not exist or cannot be read.

    ValueError
        If a folder or pattern yields no images, or a data set has not exactly one image column.

    TypeError
        If X can only be iterated over, holds something else than images, or mixes paths or PIL
        images with other objects.
    """
    value = _expand(X)
    if isinstance(value, Tensor):
        value = value.detach()
    elif hasattr(value, "__array__") and len(getattr(value, "shape", ())) == 1:
        value = np.asarray(value)
    return Input(value, _kind_of(value))


def identity(sources: Sequence) -> FileIdentity | None:
    """Compute hashes that identify files and their state.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to identify.

    Returns
    -------
    identity : FileIdentity or None
        None if not all sources are paths: other images cannot be recognised later.
    """
    if isinstance(sources, DatasetImages):
        return None
    paths, state = (hashlib.blake2b(digest_size=16) for _ in range(2))
    for source in sources:
        if not isinstance(source, (str, Path)):
            return None
        path = os.path.abspath(source)
        try:
            stat = os.stat(path)
            file_state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            file_state = "missing"
        paths.update(os.fsencode(path) + b"\0")
        state.update(os.fsencode(path) + f"\0{file_state}\0".encode())
    return FileIdentity(paths.hexdigest(), state.hexdigest())


class DatasetImages:
    """Sequence of the images in a data set of PIL images or paths, with or without labels.

    Parameters
    ----------
    dataset : object
        Map-style data set, with ``__len__`` and ``__getitem__``.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int):
        return _image_of(self.dataset[int(i)])


class DatasetArrays:
    """Lazy array of the images in a data set of arrays, with or without labels.

    Parameters
    ----------
    dataset : object
        Map-style data set, with ``__len__`` and ``__getitem__``.

    shape : tuple of int
        Shape of the array in each item.
    """

    def __init__(self, dataset, shape: tuple[int, ...]):
        self.dataset, self._item_shape = dataset, tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array, ``(n, ...)``."""
        return (len(self), *self._item_shape)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: slice) -> np.ndarray:
        return np.stack([self._item(i) for i in range(*key.indices(len(self)))])

    def _item(self, i):
        array = _as_array(_image_of(self.dataset[i]))
        if array.shape != self._item_shape:
            raise ValueError(
                f"item {i} of X has shape {array.shape}, but others have {self._item_shape}; "
                "arrays must share one shape, images of different sizes can be PIL images"
            )
        return array


# -- kinds ----------------------------------------------------------------------------------


def _kind_of(X):
    if isinstance(X, Tensor):
        return "tensor"
    if _holds_files(X):
        return "files"
    if _is_table(X):
        return "path column" if _is_path_column(X) else "table"
    return "lazy" if _is_lazy(X) else "array"


def _holds_files(X):
    """Check whether X is a sequence of paths or PIL images."""
    if isinstance(X, DatasetImages):
        return True
    is_column = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "OUT"
    if not (isinstance(X, (list, tuple)) or is_column):
        return False
    is_file = [isinstance(x, (str, Path, Image.Image)) for x in X]
    if any(is_file) and not all(is_file):
        other = type(X[is_file.index(False)]).__name__
        raise TypeError(f"X mixes paths or PIL images with {other}")
    return any(is_file)


def _is_table(X):
    """Check whether X has two axes, as an array, a frame or a list of rows."""
    if hasattr(X, "shape"):
        return len(X.shape) == 2
    return isinstance(X, (list, tuple)) and len(X) > 0 and np.ndim(X[0]) == 1


def _is_path_column(table):
    """Check whether the only column of a table holds paths."""
    if isinstance(table, (list, tuple)):
        if len(table[0]) != 1 or not isinstance(next(iter(table[0])), (str, Path)):
            return False
    elif table.shape[1] != 1 or not hasattr(table, "__array__"):
        return False
    column = np.asarray(table)[:, 0]
    return len(column) > 0 and isinstance(column[0], (str, Path)) and _holds_files(column)


def _is_lazy(X):
    """Check whether X is an array of images to be read slice by slice."""
    if len(getattr(X, "shape", ())) not in (3, 4):
        return False
    if isinstance(X, np.ndarray):  # a mapped array that has to be converted to uint8
        return isinstance(X, np.memmap) and X.dtype.kind in "iuf" and X.dtype != np.uint8
    return hasattr(X, "__len__") and hasattr(X, "__getitem__") and not hasattr(X, "toarray")


# -- folders, patterns and array files ------------------------------------------------------


def _expand(X):
    """Replace a path, a pattern or a data set by what it stands for; check that X has a length."""
    if isinstance(X, (str, Path)):
        return _expand_path(os.fspath(X))
    if hasattr(X, "toarray"):  # sparse; scikit-learn rejects it later
        return X
    if isinstance(X, Iterable) and not _has_any(X, "__len__", "__array__"):
        raise TypeError(
            f"X is a {type(X).__name__}, which can only be iterated over; wanted something with "
            "a length, such as a list or a map-style data set"
        )
    if isinstance(X, Mapping):
        raise TypeError(
            f"X is a {type(X).__name__} of {', '.join(map(str, X))}; wanted one of its values"
        )
    if hasattr(X, "column_names") and hasattr(X, "features"):
        return _expand_dataset(_select_image_column(X))
    if _is_dataset(X) or _is_list_of_items(X):
        return _expand_dataset(X)
    return _expand_patterns(X) if _holds_patterns(X) else X


def _expand_path(path):
    if os.path.isdir(path):
        return _files_below(path)
    if os.path.isfile(path):
        return _load_array(path) if path.lower().endswith(_ARRAY_SUFFIXES) else [path]
    if _is_pattern(path):
        return _expand_pattern(path)
    raise ImageReadError(f"{path} is not there; wanted a folder, a file, or a pattern of files")


def _files_below(root):
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise ImageReadError(f"{root} is not a folder")
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    files = _select_images(paths)
    if not files:
        raise ValueError(f"{root} holds no image files: none with a suffix that Pillow knows")
    return files


def _select_images(paths):
    """Select the image files, sorted by the parts of their paths."""
    files = (path for path in paths if os.path.isfile(path) and _is_image_file(path))
    return sorted(files, key=lambda path: path.replace(os.sep, "\0"))


def _is_image_file(path):
    suffix = os.path.splitext(path)[1].lower()
    return suffix in decoding.suffixes() if suffix else decoding.is_image(path)


def _is_pattern(path):
    return any(wildcard in path for wildcard in _WILDCARDS)


def _expand_pattern(pattern):
    files = _select_images(glob.glob(pattern, recursive=True))
    if not files:
        raise ImageReadError(f"no image files match {pattern}")
    return files


def _holds_patterns(X):
    is_column = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "OU"
    if not isinstance(X, (list, tuple)) and not is_column:
        return False
    return any(isinstance(x, (str, Path)) and _is_pattern(str(x)) for x in X)


def _expand_patterns(X):
    expanded = []
    for x in X:
        is_pattern = isinstance(x, (str, Path)) and _is_pattern(str(x)) and not os.path.exists(x)
        expanded += _expand_pattern(str(x)) if is_pattern else [x]
    return expanded


def _load_array(path):
    """Map the array of a .npy file; load "images" or the only array of a .npz file."""
    try:
        if path.lower().endswith(".npy"):
            return np.lib.format.open_memmap(path, mode="r")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            if "images" in names or len(names) == 1:
                return arrays["images" if "images" in names else names[0]]
    except Exception as error:  # broken bytes can make NumPy and zipfile raise any exception
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"cannot read {path} as a file of NumPy: {reason}") from error
    raise ValueError(
        f"{path} holds {', '.join(names) or 'nothing'}; wanted one array, or one called 'images'"
    )


# -- data sets ------------------------------------------------------------------------------


def _has_any(X, *names):
    return any(hasattr(X, name) for name in names)


def _is_dataset(X):
    """Check whether X is a map-style data set, and no list, array or table."""
    if isinstance(X, (list, tuple, bytes, Tensor)) or _has_any(X, "shape", "__array__", "iloc"):
        return False
    return hasattr(X, "__len__") and hasattr(X, "__getitem__")


def _is_list_of_items(X):
    """Check whether X is a list of items, which scikit-learn makes of a subset of a data set."""
    if not isinstance(X, list) or not X or not isinstance(X[0], (tuple, Mapping)):
        return False
    return _is_image(_image_of(X[0]))


def _select_image_column(dataset):
    """Drop the other columns of a Hugging Face data set."""
    columns = [n for n, kind in dataset.features.items() if type(kind).__name__ == "Image"]
    if len(columns) != 1:
        raise ValueError(
            f"X is a data set with columns {', '.join(dataset.column_names)}, of which "
            f"{', '.join(columns) or 'none'} holds images; wanted one, or X[column] itself"
        )
    return dataset.select_columns(columns)


def _expand_dataset(dataset):
    first = _first_image(dataset)
    if isinstance(first, (np.ndarray, Tensor)):
        lazy = DatasetArrays(dataset, tuple(first.shape))
        return lazy[:] if first.ndim < 2 else lazy
    if len(dataset) and not _is_image(first):
        kind = type(first).__name__
        raise TypeError(
            f"the items of X are of type {kind}; wanted PIL images, paths or arrays, alone or in "
            "tuples with labels"
        )
    return DatasetImages(dataset) if len(dataset) else []


def _first_image(dataset):
    """Return the image of the first item that can be read; a PIL image if there is none."""
    for i in range(len(dataset)):
        with contextlib.suppress(Exception):  # errors are raised later, when images are read
            return _image_of(dataset[i])
    return Image.Image()


def _image_of(item):
    """Return the image in an item of a data set, or the item itself."""
    if isinstance(item, Mapping):
        if item.keys() == {"bytes", "path"}:  # an undecoded image of a Hugging Face data set
            return item["path"] if item["bytes"] is None else Image.open(io.BytesIO(item["bytes"]))
        images = [v for v in item.values() if _is_image(v) and not isinstance(v, str)]
        images += [v for v in item.values() if isinstance(v, Mapping)]
        return _image_of(images[0]) if len(images) == 1 else item
    if isinstance(item, tuple) and item:
        return item[0]
    return item


def _is_image(x):
    if isinstance(x, (np.ndarray, Tensor)):
        return x.ndim >= 2
    return isinstance(x, (Image.Image, str, Path))


def _as_array(x):
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
