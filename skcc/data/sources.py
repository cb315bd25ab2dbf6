"""Which images X names: files of a folder or pattern, an array in a file, items of a data set.

This file goes by names and kinds, and by what stands first; it decodes nothing.
"""

import contextlib
import glob
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from skcc.data import decoding
from skcc.exceptions import ImageReadError

_WILD = "*?["
_ARRAY_SUFFIXES = (".npy", ".npz")


def image_files(root) -> list[Path]:
    """All image files below a folder, sorted by path.

    Parameters
    ----------
    root : str or Path
        The folder.

    Returns
    -------
    files : list of Path
        Files with the suffix of a format that Pillow decodes, and files without any suffix in which
        it recognises one. Names that begin with a dot are passed over, folders as well.

    Raises
    ------
    ImageReadError
        If there is no such folder.

    ValueError
        If it holds no image files.
    """
    return [Path(file) for file in _files_below(root)]


def resolve(X):
    """What X stands for, if it is a name or a data set.

    Parameters
    ----------
    X : object
        Anything.

    Returns
    -------
    images : object
        A list of paths for a folder, a file, a pattern or a list with patterns; an array for a
        file of NumPy; `DatasetImages` or `DatasetArrays` for a map-style data set, a Hugging Face
        data set, or a list of their items; X itself otherwise.

    Raises
    ------
    ImageReadError
        If there is no such file or folder, or it cannot be read.

    ValueError
        If a folder or pattern yields no images, or a data set has not one column of images.

    TypeError
        If X can only be iterated over, or holds what is no image.
    """
    if isinstance(X, (str, Path)):
        return _of_path(os.fspath(X))
    if hasattr(X, "toarray"):  # sparse, which scikit-learn refuses in its own words
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
        return _of_dataset(_image_column(X))
    if _is_dataset(X) or _is_list_of_items(X):
        return _of_dataset(X)
    return _with_patterns_expanded(X) if _holds_patterns(X) else X


def identity(sources: Sequence) -> tuple[str, str] | None:
    """A name for files as such, and one for the state that they are in.

    Parameters
    ----------
    sources : sequence
        The images.

    Returns
    -------
    identity : tuple of (str, str) or None
        The first goes by the paths and their order; the second by sizes and times of change as
        well. None if anything is not a path, for then nobody knows what it will be next time.
    """
    if isinstance(sources, DatasetImages):
        return None
    names, states = (hashlib.blake2b(digest_size=16) for _ in range(2))
    for source in sources:
        if not isinstance(source, (str, Path)):
            return None
        path = os.path.abspath(source)
        try:
            stat = os.stat(path)
            state = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:
            state = "missing"
        names.update(os.fsencode(path) + b"\0")
        states.update(os.fsencode(path) + f"\0{state}\0".encode())
    return names.hexdigest(), states.hexdigest()


class DatasetImages:
    """The images of a data set whose items are PIL images or paths, alone or with labels.

    Parameters
    ----------
    dataset : object
        Has ``__len__`` and ``__getitem__``.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int):
        return _image_of(self.dataset[int(i)])


class DatasetArrays:
    """The images of a data set whose items are arrays, as an array that is read in parts.

    Parameters
    ----------
    dataset : object
        Has ``__len__`` and ``__getitem__``.

    shape : tuple of int
        Of the array in each item.
    """

    def __init__(self, dataset, shape: tuple[int, ...]):
        self.dataset, self._item_shape = dataset, tuple(shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""
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


# -- names ----------------------------------------------------------------------------------


def _of_path(path):
    if os.path.isdir(path):
        return _files_below(path)
    if os.path.isfile(path):
        return _stored_array(path) if path.lower().endswith(_ARRAY_SUFFIXES) else [path]
    if _is_pattern(path):
        return _matches(path)
    raise ImageReadError(f"{path} is not there; wanted a folder, a file, or a pattern of files")


def _files_below(root):
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise ImageReadError(f"{root} is not a folder")
    found = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [os.path.join(folder, name) for name in names if not name.startswith(".")]
    files = _listed(found)
    if not files:
        raise ValueError(f"{root} holds no image files: none with a suffix that Pillow knows")
    return files


def _listed(paths):
    """Those that are taken for images, in the order of the parts of their paths."""
    files = (path for path in paths if os.path.isfile(path) and _is_listed(path))
    return sorted(files, key=lambda path: path.replace(os.sep, "\0"))


def _is_listed(path):
    suffix = os.path.splitext(path)[1].lower()
    return suffix in decoding.suffixes() if suffix else decoding.is_image(path)


def _is_pattern(path):
    return any(sign in path for sign in _WILD)


def _matches(pattern):
    files = _listed(glob.glob(pattern, recursive=True))
    if not files:
        raise ImageReadError(f"no image files match {pattern}")
    return files


def _holds_patterns(X):
    is_column = isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "OU"
    if not isinstance(X, (list, tuple)) and not is_column:
        return False
    return any(isinstance(x, (str, Path)) and _is_pattern(str(x)) for x in X)


def _with_patterns_expanded(X):
    expanded = []
    for x in X:
        wild = isinstance(x, (str, Path)) and _is_pattern(str(x)) and not os.path.exists(x)
        expanded += _matches(str(x)) if wild else [x]
    return expanded


def _stored_array(path):
    """The array of a .npy file, mapped; of a .npz file "images" or the only one."""
    try:
        if path.lower().endswith(".npy"):
            return np.lib.format.open_memmap(path, mode="r")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = arrays.files
            if "images" in names or len(names) == 1:
                return arrays["images" if "images" in names else names[0]]
    except Exception as error:  # NumPy and zipfile raise whatever broken bytes led them to
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"cannot read {path} as a file of NumPy: {reason}") from error
    raise ValueError(
        f"{path} holds {', '.join(names) or 'nothing'}; wanted one array, or one called 'images'"
    )


# -- data sets ------------------------------------------------------------------------------


def _has_any(X, *names):
    return any(hasattr(X, name) for name in names)


def _is_dataset(X):
    """Whether X is map-style, and nothing that has a meaning of its own."""
    if isinstance(X, (list, tuple, bytes, Tensor)) or _has_any(X, "shape", "__array__", "iloc"):
        return False
    return hasattr(X, "__len__") and hasattr(X, "__getitem__")


def _is_list_of_items(X):
    """Whether X is what scikit-learn makes of a data set when it takes a part of it."""
    if not isinstance(X, list) or not X or not isinstance(X[0], (tuple, Mapping)):
        return False
    return _is_image(_image_of(X[0]))


def _image_column(dataset):
    """A Hugging Face data set without its other columns."""
    columns = [n for n, kind in dataset.features.items() if type(kind).__name__ == "Image"]
    if len(columns) != 1:
        raise ValueError(
            f"X is a data set with columns {', '.join(dataset.column_names)}, of which "
            f"{', '.join(columns) or 'none'} holds images; wanted one, or X[column] itself"
        )
    return dataset.select_columns(columns)


def _of_dataset(dataset):
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
    """The image of the first item that can be read; PIL's kind if there is none."""
    for i in range(len(dataset)):
        with contextlib.suppress(Exception):  # of the user's code; raised when images are read
            return _image_of(dataset[i])
    return Image.Image()


def _image_of(item):
    """The image in an item of a data set."""
    if isinstance(item, Mapping):
        if item.keys() == {"bytes", "path"}:  # Hugging Face's form of an image not yet decoded
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
