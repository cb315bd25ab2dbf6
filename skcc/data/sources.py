"""Resolve what a user gives as X: expand folders and patterns, open array files, tell its kind.

No pixels are decoded here.
"""

import contextlib
import hashlib
import io
import os
from collections import Counter
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from skcc.data import decoding, plugins
from skcc.data.folders import Search, is_pattern
from skcc.data.items import (
    CONTENTS,
    as_array,
    check_no_mask,
    check_same_kind,
    describe,
    is_array,
    is_file,
    is_missing,
    join_some,
    missing_reason,
    path_hint,
)
from skcc.exceptions import ImageReadError

_ARRAY_SUFFIXES = (".npy", ".npz")
_ARRAY = "__array__", "shape"  # attributes of arrays and tables
_MAX_PATH = 4096  # bytes
_HEAD = 100  # rows of a table in which images are looked for
_NOT_NUMERIC = ("object", "str", "cat", "binary", "list", "array", "struct")  # names of dtypes
_SAMPLE = 9  # items of a data set that tell what the others are
_WANTED = "PIL images, paths or arrays, alone or in tuples with labels"


@dataclass(frozen=True)
class Input:
    """X after `resolve`, with its kind.

    Parameters
    ----------
    value : object
        Samples of X, not yet read.

    kind : {"files", "path column", "table", "tensor", "lazy", "array"}
        "files" is a sequence of images: paths, PIL images, file objects or contents of files;
        "path column" is the same from the only column of a table; "table" rows of numbers;
        "tensor" a tensor of PyTorch; "lazy" an array of images that is read slice by slice;
        "array" an array of images in memory. Anything that `read` rejects is an "array" as well.

    table : object, default=None
        Table of which `value` is the only column, if the kind is "path column".

    invalid : dict of int to str, default=None
        Reasons by index in X of the items that are missing or cannot be read, and are not in
        `value`.
    """

    value: object
    kind: Literal["files", "path column", "table", "tensor", "lazy", "array"]
    table: object = None
    invalid: dict[int, str] | None = None

    def check_invalid(self, on_error: str) -> None:
        """Raise the error of the first item that is missing, unless errors are warnings.

        Parameters
        ----------
        on_error : {"raise", "warn"}
            What to do about images that cannot be read.

        Raises
        ------
        ImageReadError
            If an item is missing and `on_error` is "raise".
        """
        if self.invalid and on_error == "raise":
            errors = {i: ImageReadError(reason) for i, reason in self.invalid.items()}
            raise decoding.first_failure(errors)


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

    Warns of images that are left out: linked folders, and formats that need a plugin of Pillow.

    Parameters
    ----------
    root : str or path-like
        Folder to search.

    Returns
    -------
    files : list of Path
        Files with the suffix of a format that Pillow decodes, and files without a suffix whose
        format Pillow recognises. Files and folders whose names begin with a dot are skipped, and
        links to folders are not followed. Dead links and subfolders that cannot be listed are
        among the files: they count as images that cannot be read.

    Raises
    ------
    ImageReadError
        If there is no such folder, or if it cannot be listed.

    ValueError
        If it holds no image files.
    """
    return [Path(file) for file in _search_folder(os.fsdecode(root))]


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
        If a folder or pattern yields no images, if a data set or a table has several columns of
        images, or if X is one image.

    TypeError
        If X can only be iterated over or has no order, holds something else than images, or mixes
        paths or PIL images with other objects.
    """
    X = _to_path_or_collection(X)
    check_no_mask(X)
    if isinstance(X, str):
        return _resolve_path(X)
    if isinstance(X, Tensor):
        return Input(X.detach(), "tensor")
    if hasattr(X, "column_names") and hasattr(X, "features"):
        return _resolve_dataset(_select_image_column(X))
    if _is_dataset(X):
        return _resolve_dataset(X)
    return _resolve_list_or_array(X)


def identity(sources: Sequence) -> FileIdentity | None:
    """Compute hashes that identify files and their state.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to identify; items may be missing.

    Returns
    -------
    identity : FileIdentity or None
        None if not all sources are paths: other images cannot be recognised later.
    """
    if isinstance(sources, DatasetImages):
        return None
    paths, state = (hashlib.blake2b(digest_size=16) for _ in range(2))
    for source in sources:
        if not (is_missing(source) or isinstance(source, (str, Path))):
            return None
        path, file_state = _state_of(source)
        paths.update(path + b"\0")
        state.update(path + f"\0{file_state}\0".encode())
    return FileIdentity(paths.hexdigest(), state.hexdigest())


def file_key(source) -> bytes | None:
    """Compute a hash of the path, size and modification time of one file.

    Parameters
    ----------
    source : str, Path or other
        Image to identify.

    Returns
    -------
    key : bytes or None
        16 bytes; None if the source is no path of a file.
    """
    if is_missing(source) or not isinstance(source, (str, Path)):
        return None
    path, state = _state_of(source)
    if state == "missing":
        return None
    return hashlib.blake2b(path + f"\0{state}".encode(), digest_size=16).digest()


def _state_of(source):
    """Return the absolute path of a file, as bytes, and its size and time as text."""
    path = "" if is_missing(source) else os.path.abspath(source)
    try:
        stat = os.stat(path)
        return os.fsencode(path), f"{stat.st_size} {stat.st_mtime_ns}"
    except (OSError, ValueError):
        return os.fsencode(path), "missing"


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
        return _as_source(_image_of(self.dataset[int(i)]))


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
        arrays = [self.item(i) for i in range(*key.indices(len(self)))]
        check_same_kind(arrays)
        return np.stack(arrays)

    def item(self, i: int) -> np.ndarray:
        """Return one array.

        Parameters
        ----------
        i : int
            Index of the item.

        Returns
        -------
        array : ndarray
            Array of the common shape.

        Raises
        ------
        ImageReadError
            If the item is missing, is no array, or has another shape.
        """
        image = _image_of(self.dataset[i])
        if is_missing(image):
            raise ImageReadError(missing_reason(i, image))
        if not (is_array(image) or isinstance(image, Image.Image)):
            raise ImageReadError(
                f"item {i} of X is of type {type(image).__name__}, but others are arrays"
            )
        array = as_array(image)
        if array.shape != self._item_shape:
            raise ImageReadError(
                f"item {i} of X has shape {array.shape}, but others have {self._item_shape}; "
                "arrays must share one shape, images of different sizes can be PIL images"
            )
        return array


# -- X as a whole ---------------------------------------------------------------------------


def _to_path_or_collection(X):
    """Return a path as a str and an unindexed collection as a list; reject what is neither."""
    if isinstance(X, np.ndarray) and X.ndim == 0 and X.dtype.kind in "OUST":
        X = X.item()
    if isinstance(X, (str, os.PathLike)) or (isinstance(X, bytes) and not _is_content(X)):
        return str(os.fsdecode(X))  # the os module takes a str of NumPy for bytes
    if isinstance(X, (*CONTENTS, Image.Image)) or _is_file_object(X):
        raise ValueError(f"X is one image, {describe(X)}; wanted several: give a list, [image]")
    if hasattr(X, "toarray"):  # sparse; scikit-learn rejects it later
        return X
    if isinstance(X, Mapping):
        raise TypeError(
            f"X is a {type(X).__name__} of {join_some(X)}; wanted one of its values, or a list of "
            "them"
        )
    if isinstance(X, (ValuesView, KeysView, ItemsView)):
        return list(X)
    if isinstance(X, DataLoader) or (hasattr(X, "batch_size") and hasattr(X, "dataset")):
        raise TypeError(
            f"X is a {type(X).__name__}, which gives batches in any order; give its data set, "
            "loader.dataset"
        )
    _check_has_order_and_length(X)
    return X if _has_any(X, "__getitem__", *_ARRAY) or isinstance(X, Number) else list(X)


def _check_has_order_and_length(X):
    kind = type(X).__name__
    if isinstance(X, Set):
        raise TypeError(f"X is a {kind}, which has no order; give a list, such as sorted(X)")
    is_stream = isinstance(X, IterableDataset)
    if is_stream or (isinstance(X, Iterable) and not _has_any(X, "__len__", *_ARRAY)):
        raise TypeError(
            f"X is a {kind}, which can only be iterated over; wanted something with a length, "
            "such as a list or a map-style data set"
        )
    is_sized = hasattr(X, "__len__") and (hasattr(X, "__getitem__") or isinstance(X, Iterable))
    if isinstance(X, type) or not (is_sized or _has_any(X, *_ARRAY) or isinstance(X, Number)):
        what = "None" if X is None else f"of type {kind}"
        what += " without a length" if hasattr(X, "__getitem__") and not is_sized else ""
        raise TypeError(f"X is {what}; wanted an array, a folder, or a list of {_WANTED}")


def _is_file_object(X):
    return hasattr(X, "read") and not _has_any(X, "shape", "__getitem__", "__array__")


def _has_any(X, *names):
    return any(hasattr(X, name) for name in names)


def _is_dataset(X):
    """Check whether X is a map-style data set, and no list, array or table."""
    if isinstance(X, (list, tuple, Tensor)) or _has_any(X, "shape", "__array__", "iloc"):
        return False
    return hasattr(X, "__len__") and hasattr(X, "__getitem__")


def _resolve_list_or_array(X):
    if hasattr(X, "__array__") and len(getattr(X, "shape", ())) < 2:
        column, X = X, np.asarray(X)
        if X.ndim and X.dtype.kind in "OUST":
            return _resolve_items(X if X.dtype.kind == "U" else _to_list(column, X))
    if isinstance(X, (list, tuple)):
        return _resolve_items(X)
    return _resolve_table(X) if len(getattr(X, "shape", ())) == 2 else _resolve_array(X)


def _to_list(column, array):
    """Return the items of a Series or an array; polars makes two axes of dicts in an array."""
    return column.to_list() if hasattr(column, "to_list") else array.tolist()


def _resolve_array(X):
    if len(getattr(X, "shape", ())) not in (3, 4):
        return Input(X, "array")
    if isinstance(X, np.ndarray):  # a mapped array that has to be converted to uint8
        is_lazy = isinstance(X, np.memmap) and X.dtype.kind in "iuf" and X.dtype != np.uint8
    else:
        is_lazy = _has_any(X, "__len__") and _has_any(X, "__getitem__")
        is_lazy &= not hasattr(X, "toarray")
    return Input(X, "lazy" if is_lazy else "array")


# -- folders, patterns and array files ------------------------------------------------------


def _resolve_path(path):
    if os.path.isdir(path):
        return Input(_search_folder(path), "files")
    if os.path.isfile(path):
        is_array_file = path.lower().endswith(_ARRAY_SUFFIXES)
        return resolve(_load_array(path)) if is_array_file else Input([path], "files")
    hint = path_hint(path)
    if is_pattern(path) and not hint:
        return Input(_expand_patterns([path]), "files")
    hint = hint or "; wanted a folder, a file, or a pattern of files"
    raise ImageReadError(f"{describe(path) or repr(path)} is not there{hint}")


def _search_folder(root):
    search = Search()
    files = search.folder(root)
    search.warn(root)
    return files


def _expand_patterns(paths):
    """Replace the patterns among paths and images by the files that match."""
    search, expanded, patterns = Search(), [], []
    for x in paths:
        text = str(x) if isinstance(x, (str, Path)) else ""
        if is_pattern(text) and not path_hint(text) and not os.path.exists(text):
            patterns.append(text)
            expanded += search.pattern(text)
        else:
            expanded.append(x)
    search.warn(join_some(patterns))
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


# -- lists, and columns of tables -----------------------------------------------------------


def _resolve_items(X):
    """Classify a list by all of its items, of which some may be missing."""
    present = [x for x in X if not is_missing(x)]
    if not present:
        return Input(X, "files" if len(X) else "array")
    are_files = [is_file(x) for x in present]
    if all(are_files):
        return Input(_to_sources(X), "files")
    if any(are_files):
        other = type(present[are_files.index(False)]).__name__
        raise TypeError(f"X mixes paths or PIL images with {other}")
    if any(_is_labelled(x) for x in present):
        return _resolve_dataset(X)
    if isinstance(present[0], (list, tuple)):
        return _resolve_rows(X)
    if not (is_array(present[0]) or _is_number(present[0])):
        raise TypeError(_about_other_items(present[0]))
    return _without_missing(X)


def _to_sources(X):
    """Return paths as str or Path, and the files that match patterns."""
    if not all(isinstance(x, (str, Path, Image.Image)) for x in X):
        X = [_as_source(x) for x in X]
    if not any(isinstance(x, (str, Path)) and is_pattern(str(x)) for x in X):
        return X
    return _expand_patterns(X)


def _resolve_rows(X):
    """Classify a list of lists: rows of numbers, nested images, or a column of images."""
    head = [row for row in X if not is_missing(row)][:_HEAD]
    if not any(isinstance(row, (list, tuple)) and any(map(_holds_image, row)) for row in head):
        is_column = all(len(row) == 1 and is_file(row[0]) for row in head)
        if not is_column:
            return _without_missing(X)
    if any(len(row) != 1 for row in head):
        raise TypeError(_about_other_items(head[0]))
    column = [row[0] if isinstance(row, (list, tuple)) else row for row in X]
    return _as_column(_resolve_items(column), X)


def _without_missing(X):
    """Classify a list of arrays, rows or numbers; set missing arrays and rows apart."""
    if any(isinstance(x, Tensor) for x in X):
        X = [as_array(x) if isinstance(x, Tensor) else x for x in X]
    present = [x for x in X if not is_missing(x)]
    n_axes = _n_axes(present[0])
    if n_axes == 0:
        return Input(X, "array")
    invalid = {i: missing_reason(i, x) for i, x in enumerate(X) if is_missing(x)}
    return Input(present if invalid else X, "table" if n_axes == 1 else "array", invalid=invalid)


def _n_axes(x):
    try:
        return len(x.shape) if hasattr(x, "shape") else np.ndim(x)
    except ValueError:  # lists of different lengths
        return 2


def _resolve_table(X):
    """Classify an array or a frame of two axes, whose only column may hold images."""
    if X.shape[1] == 1 and hasattr(X, "__array__"):
        column = X.to_series(0) if hasattr(X, "to_series") else np.asarray(X)[:, 0]
        array = np.asarray(column)
        if array.dtype.kind in "OUST" and not all(map(_is_number, array)):
            return _as_column(_resolve_items(_to_list(column, array)), X)
        if array.ndim > 1:  # arrays of one shape in the cells of polars
            return _resolve_list_or_array(array)
    names = [name for name, column in _text_columns(X) if any(map(_holds_image, column))]
    if names:
        kind, one = type(X).__name__, f"X{names[0]}"
        some = (
            f"; give that column, {one}"
            if len(names) == 1
            else f"; give one of them, such as {one}"
        )
        raise ValueError(
            f"X is a {kind} of {X.shape[1]} columns, with images in {join_some(names)}{some}"
        )
    return Input(X, "table")


def _text_columns(X):
    """Iterate over the names of columns that are not numeric, and their first cells."""
    if isinstance(X, np.ndarray):
        if X.dtype.kind in "OUST":
            yield from ((f"[:, {j}]", X[:_HEAD, j]) for j in range(X.shape[1]))
    elif hasattr(X, "columns") and hasattr(X, "dtypes"):
        head = X[:_HEAD]
        for j, (name, dtype) in enumerate(zip(X.columns, X.dtypes, strict=True)):
            if str(dtype).lower().startswith(_NOT_NUMERIC):
                yield (
                    f"[{name!r}]",
                    np.asarray(head.iloc[:, j] if hasattr(X, "iloc") else head[:, j]),
                )


def _as_column(source, table):
    """Note that files are the only column of a table, which may have a name."""
    if source.kind != "files":
        return source
    return Input(source.value, "path column", table)


# -- items ----------------------------------------------------------------------------------


def _as_source(x):
    """Return an item as a str or Path if it is a path; return other items as they are."""
    if isinstance(x, (str, Path)):
        return x
    if isinstance(x, os.PathLike):
        return os.fsdecode(x)
    return os.fsdecode(x) if isinstance(x, bytes) and not _is_content(x) else x


def _is_content(x):
    """Check whether bytes are the content of a file rather than a path."""
    if b"\0" in x or len(x) > _MAX_PATH:
        return True
    try:
        with Image.open(io.BytesIO(x), formats=decoding.formats()):
            return True
    except Exception:  # broken bytes can make Pillow's plugins raise any exception
        return False


def _is_image(x):
    """Check whether an item is a file or an array of two axes or more."""
    return len(x.shape) >= 2 if is_array(x) else is_file(x)


def _is_number(x):
    if isinstance(x, Tensor):
        return x.ndim == 0
    return isinstance(x, (Number, np.generic)) and not isinstance(x, (str, bytes))


def _holds_image(cell):
    """Check whether a cell of a table is an image, or text that looks like the path of one."""
    if not isinstance(cell, str):
        return _is_image(_image_of(cell)) if isinstance(cell, Mapping) else _is_image(cell)
    suffix = os.path.splitext(cell)[1].lower()
    is_known = suffix in decoding.suffixes() or plugins.remedy(suffix) is not None
    return is_known or os.path.isfile(cell)


def _image_of(item):
    """Return the image in an item of a data set, or the item itself."""
    if isinstance(item, Mapping):
        if item.keys() == {"bytes", "path"}:  # an undecoded image of a Hugging Face data set
            return item["path"] if is_missing(item["bytes"]) else _opened(item["bytes"])
        images = [v for v in item.values() if _is_image(v) and not isinstance(v, str)]
        images += [v for v in item.values() if isinstance(v, Mapping)]
        if not images and any(map(is_missing, item.values())):
            return None
        return _image_of(images[0]) if len(images) == 1 else item
    if isinstance(item, tuple) and item:
        return item[0]
    return item


def _opened(content):
    return Image.open(io.BytesIO(content), formats=decoding.formats())


def _kind_of_item(item):
    """Return "file", the shape of an array, or None if an item holds no image."""
    image = _image_of(item)
    if isinstance(item, tuple) and isinstance(image, str) and not _holds_image(image):
        return None if any(map(_holds_image, item[1:])) else "file"
    if is_file(image):
        return "file"
    return tuple(image.shape) if is_array(image) else None


def _is_labelled(item):
    """Check whether an item of a list is a tuple or a mapping with an image or vector."""
    if not isinstance(item, (tuple, Mapping)) or is_missing(_image_of(item)):
        return False
    kind = _kind_of_item(item)
    if kind is None or kind == "file" or len(kind) > 1:
        return kind is not None
    return len(item) > 1 and not any(is_array(v) for v in tuple(item)[1:])


def _about_other_items(item):
    text = f"the items of X are of type {describe(item)}; wanted {_WANTED}"
    if isinstance(item, (tuple, list)):
        at = next((j for j, v in enumerate(item) if _holds_image(v)), None)
        text += "" if at is None else f"; give [x[{at}] for x in X]"
    return text


# -- data sets ------------------------------------------------------------------------------


def _select_image_column(dataset):
    """Drop the other columns of a Hugging Face data set."""
    columns = [n for n, kind in dataset.features.items() if type(kind).__name__ == "Image"]
    if len(columns) != 1:
        raise ValueError(
            f"X is a data set with columns {', '.join(dataset.column_names)}, of which "
            f"{', '.join(columns) or 'none'} holds images; wanted one, or X[column] itself"
        )
    return dataset.select_columns(columns)


def _resolve_dataset(dataset):
    """Classify a data set, or a list of its items, by the items that can be read."""
    if not len(dataset):
        return Input([], "array")
    kind = _common_kind(dataset)
    if kind == "file":
        return Input(DatasetImages(dataset), "files")
    if len(kind) > 3:
        raise ValueError(
            f"the items of X have shape {kind}; wanted (height, width), (height, width, channels), "
            "(channels, height, width) or (features,)"
        )
    arrays = DatasetArrays(dataset, kind)
    return Input(arrays, "lazy") if len(kind) > 1 else _read_vectors(arrays)


def _common_kind(dataset):
    """Return the most frequent kind in a sample; if it has none, that of the first image."""
    sample = np.linspace(0, len(dataset) - 1, min(len(dataset), _SAMPLE)).astype(int)
    kinds = [_kind_of_item(item) for item in _readable_items(dataset, sample.tolist())]
    frequent = Counter(kind for kind in kinds if kind is not None).most_common(1)
    if frequent:
        return frequent[0][0]
    other = None
    for item in _readable_items(dataset, range(len(dataset))):
        kind = _kind_of_item(item)
        if kind is not None:
            return kind
        other = item if other is None else other
    if other is not None:
        raise TypeError(_about_other_items(other))
    return "file"  # none can be read, which is an error later


def _readable_items(dataset, index):
    for i in index:
        with contextlib.suppress(Exception):  # raised again when images are read
            item = dataset[i]
            if not is_missing(_image_of(item)):
                yield item


def _read_vectors(arrays):
    """Read all vectors of a data set; set those that cannot be read apart."""
    rows, invalid = [], {}
    for i in range(len(arrays)):
        try:
            rows.append(arrays.item(i))
        except ImageReadError as error:
            invalid[i] = str(error)
        except Exception as error:
            invalid[i] = f"item {i} of X cannot be read: {str(error) or type(error).__name__}"
    return Input(np.stack(rows), "table", invalid=invalid)
