"""Anything a user has, made into one store of samples.

Images end up as uint8 of shape (n, height, width, channels): the user's own array where it is
that already, a new one otherwise; never a float copy of the set. Vectors end up standardised in
float32. `Format` is what `fit` learned about its samples and what later ones must match. This
file knows no views, networks or methods, and leaves names to `sources` and pixels to `decoding`.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.utils.validation import check_array
from torch import Tensor

from skcc.data.files import Decoder, common_shape, guessed_shape
from skcc.data.sources import DatasetImages, image_files, resolve
from skcc.data.stores import HostStore, SourceStore, Store, tensor_from_numpy
from skcc.exceptions import ImageReadError, ImageReadWarning

__all__ = [
    "Format",
    "HostStore",
    "ImageReadError",
    "ImageReadWarning",
    "SourceStore",
    "Store",
    "holds_sources",
    "image_files",
    "is_table",
    "read",
    "resolve",
]
CHANNELS = (1, 2, 3, 4)  # what an axis of channels is recognised by
_CHUNK = 2**20  # numbers that are converted at a time


@dataclass(frozen=True)
class Format:
    """What one sample looks like, learned in `fit` and demanded afterwards.

    Parameters
    ----------
    shape : tuple of int
        ``(height, width, channels)`` of an image, ``(n_features,)`` of a vector.

    low : float, default=0.0
        Value of a floating-point image that is black.

    high : float, default=1.0
        Value that is white. Integers from 0 to 255 go with 0.0 and 1.0.

    mean, scale : ndarray of shape (n_features,) or None, default=None
        Mean and standard deviation of the features, for vectors.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return len(self.shape) == 3

    @property
    def n_features(self) -> int:
        """Numbers per sample."""
        return int(np.prod(self.shape))


# -- what kind of thing X is ----------------------------------------------------------------


def read(
    X,
    *,
    image_shape: tuple[int, ...] | None = None,
    side: Callable[[int], int] | None = None,
    known: Format | None = None,
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    on_error: str = "raise",
) -> tuple[Store, Format]:
    """Read whatever holds images or vectors.

    Parameters
    ----------
    X : array, tensor, path, pattern, data set, or list of arrays, paths or PIL images
        See `skcc.ContrastiveClustering.fit`.

    image_shape : tuple of int, default=None
        ``(height, width)`` or ``(height, width, channels)`` of the images in the rows of a 2-D
        array, or to tell which axis holds the channels of a 4-D array.

    side : callable, default=None
        From the median short side of image files to the side at which they are stored, for
        files and PIL images of differing or large sizes. The default keeps the median.

    known : Format, default=None
        What `fit` learned. None when fitting.

    n_jobs : int, default=None
        Threads that decode files; None means 1 and -1 means all cores.

    cache_dir : str or Path, default=None
        Folder of decoded images, filled when fitting and looked into afterwards. None decodes into
        memory.

    on_error : {"raise", "warn"}, default="raise"
        Whether an image that cannot be read is an error, or is listed in ``store.invalid``.

    Returns
    -------
    store : Store
        The samples; after `fit`, what is not in memory waits to be read.

    fmt : Format
        `known` if given, otherwise what these samples are like.

    Raises
    ------
    ValueError
        If X is none of these, is empty, or does not match `known`.

    TypeError
        If X is sparse or holds objects that are no images.

    ImageReadError
        If an image cannot be read and `on_error` is "raise", or if none can.
    """
    X = _as_sequence(resolve(X))
    if isinstance(X, Tensor):
        return _read_tensor(X, image_shape, known)
    if _holds_sources(X):
        _check_images(known)
        if known is None:
            how = {"n_jobs": n_jobs, "cache_dir": cache_dir, "on_error": on_error}
            return _read_files(X, side or (lambda short: short), **how)
        _check_readable(X, known, on_error)
        reader, fmt = Decoder(X, n_jobs), known
    elif _is_lazy(X):
        fmt = _lazy_format(X, image_shape, known)
        reader = _Slices(X, image_shape, fmt)
    else:
        return _read_array(X, image_shape, known)
    store = SourceStore(reader, fmt.shape, on_error)
    if known is None:
        return store.read(cache_dir), fmt
    return (cache_dir and store.cached(cache_dir)) or store, fmt


def is_table(X) -> bool:
    """Whether X is a table of numbers, for scikit-learn's own checks.

    Parameters
    ----------
    X : object
        Anything.

    Returns
    -------
    answer : bool
        True for whatever has two axes and is neither a tensor nor a column of paths.
    """
    if isinstance(X, (Tensor, str, Path)):
        return False
    if hasattr(X, "shape"):
        return len(X.shape) == 2 and not _is_column_of_paths(X)
    return isinstance(X, (list, tuple)) and len(X) > 0 and np.ndim(X[0]) == 1


def holds_sources(X) -> bool:
    """Whether X is a folder, or a sequence or column of paths or PIL images.

    Parameters
    ----------
    X : object
        Anything.

    Returns
    -------
    answer : bool
        Then a sample is one thing, not an array of numbers.

    Raises
    ------
    TypeError
        If paths or images are mixed with other things.
    """
    if isinstance(X, (str, Path, DatasetImages)):
        return True
    if isinstance(X, (list, tuple)):  # looked at as it is: stacking arrays is for `read`
        return _holds_sources(X)
    is_column = not isinstance(X, Tensor) and len(getattr(X, "shape", ())) in (1, 2)
    return is_column and _holds_sources(_as_sequence(X))


def _is_column_of_paths(X):
    if X.shape[1] != 1 or not X.shape[0]:
        return False
    return hasattr(X, "__array__") and isinstance(np.asarray(X)[0, 0], (str, Path))


def _as_sequence(X):
    """Unwrap what only needs unwrapping: columns of tables, lists of tensors."""
    if isinstance(X, Tensor):
        return X.detach()
    if isinstance(X, (list, tuple)) and len(X):
        if all(isinstance(x, Tensor) for x in X):
            X = [x.detach().cpu().numpy() for x in X]
        return _stack(X) if all(isinstance(x, np.ndarray) for x in X) else X
    if len(getattr(X, "shape", ())) == 2 and _is_column_of_paths(X):
        return np.asarray(X)[:, 0]
    is_column = hasattr(X, "__array__") and len(getattr(X, "shape", ())) == 1
    return np.asarray(X) if is_column else X


def _some(items, n=4):
    items = sorted(map(str, items))
    return ", ".join(items[:n]) + (", ..." if len(items) > n else "")


def _stack(arrays):
    shapes = {a.shape for a in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    channels = {s[2] for s in shapes if len(s) == 3} | {1 for s in shapes if len(s) == 2}
    what = "channel counts" if len(channels) > 1 else "shapes"
    raise ValueError(
        f"X holds arrays of different {what}: shapes {_some(shapes)}. Arrays must share one "
        "shape; images of different sizes can be given as PIL images or as paths."
    )


def _holds_sources(X):
    """Whether X is a sequence of paths or PIL images."""
    if isinstance(X, DatasetImages):
        return True
    if isinstance(X, np.ndarray) and (X.ndim != 1 or X.dtype.kind not in "OUT"):
        return False
    if not isinstance(X, (list, tuple, np.ndarray)) or len(X) == 0:
        return False
    sources = [isinstance(x, (str, Path, Image.Image)) for x in X]
    if not any(sources):
        return False
    if not all(sources):
        other = type(X[sources.index(False)]).__name__
        raise TypeError(f"X mixes paths or PIL images with {other}")
    return True


# -- arrays ---------------------------------------------------------------------------------


def _read_array(X, image_shape, known):
    X = _checked_array(X)
    if X.ndim == 2 and image_shape is None and (known is None or not known.is_image):
        return _read_vectors(X, known)
    _check_images(known)
    images, rows = _images_of(X, image_shape, known)
    fmt = known
    if fmt is None:
        fmt = Format(images.shape[1:], *_range(images, rows))
    elif not rows and (fmt.low, fmt.high) == (0.0, 1.0):
        _range(images, rows)  # for its errors
    _check_shape(images.shape[1:], fmt)
    return Store(tensor_from_numpy(_to_uint8(images, fmt))), fmt


def _checked_array(X):
    try:
        X = X if isinstance(X, np.ndarray) else _from_array_like(X)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            "X is ragged: its items have different lengths. Arrays must share one shape; images "
            "of different sizes can be given as PIL images or as paths."
        ) from error
    if X.dtype.kind == "O" and X.ndim == 1 and len(X):
        kinds = _some({type(x).__name__ for x in X})
        if all(isinstance(x, np.ndarray) for x in X):
            return _checked_array(_stack(list(X)))
        raise TypeError(
            f"X is an object array of {kinds}; wanted numbers, or images given as arrays of one "
            "shape, PIL images or paths"
        )
    if X.ndim == 1:
        if len(X) == 0:
            raise ValueError("X is empty: found 0 sample(s), wanted at least 1")
        raise ValueError(
            f"Expected 2D array, got 1D array instead: shape {X.shape}. Reshape your data: "
            "X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if it is one sample."
        )
    if X.ndim > 4:
        raise ValueError(
            f"X has shape {X.shape}; wanted (n, height, width), (n, height, width, channels), "
            "(n, channels, height, width) or (n, features)"
        )
    if X.dtype.kind == "b":
        X = X.astype(np.uint8) * np.uint8(255) if X.ndim > 2 else X
    if X.dtype.kind in "OUST":
        return check_array(X, dtype="numeric", allow_nd=True)
    return check_array(X, dtype=None, allow_nd=True)


def _from_array_like(X):
    if hasattr(X, "toarray") or not hasattr(X, "__array__"):
        # check_array refuses sparse containers in scikit-learn's words.
        return np.asarray(X) if isinstance(X, (list, tuple)) else check_array(X, dtype=None)
    return np.asarray(X)


def _images_of(X, image_shape, known):
    """View X as (n, h, w, c); say whether its images came as rows."""
    wanted = known.shape if known is not None else _full_shape(image_shape, X)
    if X.ndim == 2:
        if X.shape[1] != int(np.prod(wanted)):
            raise ValueError(
                f"X has {X.shape[1]} features, but images of shape {tuple(wanted)} have "
                f"{int(np.prod(wanted))} features as input"
            )
        return X.reshape(len(X), *wanted), True
    if 0 in X.shape[1:]:
        raise ValueError(f"X has shape {X.shape}: its images have no pixels")
    if X.ndim == 3:
        return X[..., None], False
    axis = _channel_axis(X.shape[1:], wanted)
    return (X if axis == -1 else X.transpose(0, 2, 3, 1)), False


def _full_shape(image_shape, X):
    if image_shape is None:
        return None
    shape = tuple(int(s) for s in image_shape)
    if len(shape) == 3:
        return shape
    if X.ndim == 2 and X.shape[1] != shape[0] * shape[1]:
        channels, rest = divmod(X.shape[1], shape[0] * shape[1])
        if channels and not rest:
            return (*shape, channels)
    return (*shape, 1)


def _channel_axis(shape, wanted):
    """Which axis of (a, b, c) holds the channels: -1 or 0."""
    if wanted is not None:
        h, w, c = wanted
        if tuple(shape) == (h, w, c):
            return -1
        if tuple(shape) == (c, h, w):
            return 0
    if shape[2] in CHANNELS:
        return -1
    if shape[0] in CHANNELS:
        return 0
    if shape[1] == shape[2] != shape[0]:
        return 0
    if shape[0] == shape[1] != shape[2]:
        return -1
    raise ValueError(
        f"cannot tell which axis of images of shape {tuple(shape)} holds the channels; give "
        "image_shape=(height, width, channels)"
    )


def _range(images, rows):
    """The values of `images` that are black and white; an error where they cannot be known."""
    integers = images.dtype.kind in "iu"
    if images.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= (255 if integers else 1 + 1e-6):
        return 0.0, 1.0
    if rows:  # whatever scaler stands before us in a pipeline decides the range of a row
        return low, high
    if integers:
        raise ValueError(
            f"integer images must lie in [0, 255]; got values from {low:g} to {high:g}"
        )
    raise ValueError(
        "floating-point images are assumed to lie in [0, 1], black to white; got values from "
        f"{low:g} to {high:g}. Rescale them, for example X / {max(abs(low), abs(high)):g}, or "
        "give uint8 images."
    )


def _to_uint8(images, fmt):
    """0..255 from integers as they are, from floats by the range that was learned."""
    if (fmt.low, fmt.high) == (0.0, 1.0):
        if images.dtype == np.uint8:
            return images
        offset, factor = 0.0, 1.0 if images.dtype.kind in "iu" else 255.0
    else:
        offset, factor = fmt.low, 255.0 / (fmt.high - fmt.low)
    out = np.empty(images.shape, dtype=np.uint8)
    step = max(1, _CHUNK // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        part = images[start : start + step].astype(np.float32)
        out[start : start + step] = np.clip(np.rint((part - offset) * factor), 0, 255)
    return out


def _check_shape(shape, fmt):
    if tuple(shape) == tuple(fmt.shape):
        return
    n_features = int(np.prod(shape))
    raise ValueError(
        f"X holds images of shape {tuple(shape)} (height, width, channels), but the estimator "
        f"was fitted on images of shape {tuple(fmt.shape)}: X has {n_features} features, but is "
        f"expecting {fmt.n_features} features as input"
    )


def _check_images(known):
    if known is not None and not known.is_image:
        raise ValueError(
            f"X holds images, but the estimator was fitted on vectors of {known.n_features} "
            "features"
        )


def _read_vectors(X, known):
    X = check_array(X, dtype=[np.float32, np.float64])
    if known is None:
        scale = X.std(axis=0, dtype=np.float64)
        known = Format(
            (X.shape[1],),
            mean=X.mean(axis=0, dtype=np.float64),
            scale=np.where(scale > 1e-12, scale, 1.0),
        )
    if X.shape[1] != known.n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but is expecting {known.n_features} features as input"
        )
    standard = ((X - known.mean) / known.scale).astype(np.float32)
    return Store(torch.from_numpy(standard)), known


def _read_tensor(X, image_shape, known):
    if X.device.type == "cpu" or X.ndim == 2:
        X = X.float() if X.dtype in (torch.bfloat16, torch.float16) else X
        return _read_array(X.cpu().numpy(), image_shape, known)
    # Images that are on an accelerator already stay there.
    _check_images(known)
    if X.dtype != torch.uint8:
        return _read_array(X.cpu().numpy(), image_shape, known)
    if X.ndim == 3:
        X = X[..., None]
    wanted = known.shape if known is not None else image_shape
    if X.ndim != 4 or not len(X):
        return _read_array(X.cpu().numpy(), image_shape, known)  # for its messages
    if _channel_axis(X.shape[1:], wanted if wanted and len(wanted) == 3 else None) == 0:
        X = X.permute(0, 2, 3, 1)
    fmt = known or Format(tuple(X.shape[1:]))
    _check_shape(X.shape[1:], fmt)
    return Store(X), fmt


# -- arrays that are read in parts ----------------------------------------------------------


def _is_lazy(X):
    """Whether X is an array of images that should not be taken into memory as a whole."""
    if len(getattr(X, "shape", ())) not in (3, 4):
        return False
    if isinstance(X, np.ndarray):
        return isinstance(X, np.memmap) and X.dtype.kind in "iuf" and X.dtype != np.uint8
    return hasattr(X, "__len__") and hasattr(X, "__getitem__") and not hasattr(X, "toarray")


def _lazy_format(X, image_shape, known):
    if len(X) == 0:
        raise ValueError("X is empty: found 0 sample(s), wanted at least 1")
    empty = np.empty((1, *X.shape[1:]), dtype=np.uint8)
    return _read_array(empty, image_shape, known)[1]


class _Slices:
    """Reads images of a lazy array."""

    def __init__(self, X, image_shape, fmt):
        self._X, self._image_shape, self._fmt = X, image_shape, fmt
        self._step = max(1, _CHUNK // fmt.n_features)

    def __len__(self):
        return len(self._X)

    def identity(self):
        return None

    def into(self, index, out):
        failures = {}
        for start in range(0, len(index), self._step):
            part = index[start : start + self._step]
            images = self._part(part, failures)
            store, _ = _read_array(images, self._image_shape, self._fmt)
            out[start : start + len(part)] = store.samples.numpy()
        return failures

    def _part(self, index, failures):
        """Images of some indices, in order; what cannot be read is black, and noted."""
        if index[-1] - index[0] + 1 == len(index):
            # What fails is the user's code; the lines below find out where.
            with contextlib.suppress(Exception):
                return _rows(self._X, index[0], index[-1] + 1)
        rows = [self._row(i, failures) for i in index]
        black = next((np.zeros_like(row) for row in rows if row is not None), None)
        if black is None:
            black = np.zeros(self._X.shape[1:], dtype=np.uint8)
        return np.stack([black if row is None else row for row in rows])

    def _row(self, i, failures):
        try:
            return _rows(self._X, i, i + 1)[0]
        except Exception as error:
            reason = str(error) or type(error).__name__
            failures[i] = ImageReadError(f"image {i} of X cannot be read: {reason}")
            failures[i].__cause__ = error
            return None


def _rows(X, start, stop):
    """A part of a lazy array, by a slice or by the tuples that scikit-learn indexes with."""
    try:
        part = X[start:stop]
    except (TypeError, IndexError) as error:
        try:
            part = X[np.arange(start, stop), ...]
        except Exception:
            raise error from None
    if isinstance(part, Tensor):
        return part.detach().cpu().numpy()
    if isinstance(part, (np.ndarray, list)) or hasattr(part, "__array__"):
        rows = np.asarray(part)
    else:  # again something lazy
        rows = np.stack([np.asarray(part[i]) for i in range(len(part))])
    if rows.shape != (stop - start, *X.shape[1:]):
        raise ValueError(
            f"X says that its shape is {tuple(X.shape)}, but X[{start}:{stop}] has {rows.shape}"
        )
    return rows


# -- files and PIL images -------------------------------------------------------------------


def _read_files(sources, side, *, n_jobs, cache_dir, on_error):
    guess = None if cache_dir else guessed_shape(sources, side, n_jobs=n_jobs)
    if guess:
        reader = Decoder(sources, n_jobs)
        store = SourceStore(reader, guess, on_error).read()
        if reader.shape(side) == guess:
            return store, Format(guess)
        del store  # before another one is made
    shape = common_shape(sources, side, n_jobs=n_jobs, cache_dir=cache_dir, on_error=on_error)
    return SourceStore(Decoder(sources, n_jobs), shape, on_error).read(cache_dir), Format(shape)


def _check_readable(sources, known, on_error):
    """Find early what would fail late."""
    if known.shape[2] not in (1, 3):
        raise ValueError(
            f"the estimator was fitted on images with {known.shape[2]} channels; paths and PIL "
            "images have 1 or 3"
        )
    if on_error == "warn" or isinstance(sources, DatasetImages):
        return
    for source in sources:
        if not isinstance(source, Image.Image) and not Path(source).is_file():
            raise ImageReadError(f"no such file: {source}")
