"""Read arrays, tensors, files and data sets into one store of samples.

Images become uint8 of shape (n, height, width, channels), without a copy where X has that format
already. Vectors are standardised and become float32.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.utils.validation import check_array
from torch import Tensor

from skcc.data.files import Decoder, common_shape, guessed_shape
from skcc.data.sources import DatasetImages, Input, resolve
from skcc.data.stores import Reader, SampleStore, SourceStore, Store, tensor_from_numpy
from skcc.exceptions import ImageReadError

_CHANNEL_COUNTS = (1, 2, 3, 4)  # an axis of one of these lengths is taken for the channels
_CHUNK = 2**20  # numbers that are converted at a time


@dataclass(frozen=True)
class Format:
    """Format of the samples, learned in `fit` and required afterwards.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample: ``(height, width, channels)`` or ``(n_features,)``.

    low : float, default=0.0
        Value of black in images of floats.

    high : float, default=1.0
        Value of white in images of floats. The pair 0.0 and 1.0 also stands for integers from 0
        to 255.

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
        """Number of values per sample."""
        return int(np.prod(self.shape))


def read(
    X,
    *,
    image_shape: tuple[int, ...] | None = None,
    side: Callable[[int], int] | None = None,
    known: Format | None = None,
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    on_error: str = "raise",
) -> tuple[SampleStore, Format]:
    """Read images or vectors.

    Parameters
    ----------
    X : Input, array, tensor, path, pattern, data set, or list of arrays, paths or PIL images
        See `skcc.ContrastiveClustering.fit`; or the result of `resolve`.

    image_shape : tuple of int, default=None
        ``(height, width)`` or ``(height, width, channels)`` of the images in the rows of a 2-D
        array, or to tell which axis holds the channels of a 4-D array.

    side : callable, default=None
        From the median short side of image files to the side at which they are stored, for
        files and PIL images of differing or large sizes. The default keeps the median.

    known : Format, default=None
        Format that `fit` learned. None when fitting.

    n_jobs : int, default=None
        Threads that decode files; None means 1 and -1 means all cores.

    cache_dir : str or Path, default=None
        Folder of decoded images, filled when fitting and looked up afterwards. None decodes into
        memory.

    on_error : {"raise", "warn"}, default="raise"
        Whether an image that cannot be read is an error, or is listed in ``store.invalid``.

    Returns
    -------
    store : SampleStore
        Samples. If `known` is given, files and lazy arrays are read when they are needed.

    fmt : Format
        `known` if given, otherwise the format of these samples.

    Raises
    ------
    ValueError
        If X is none of these, is empty, or does not match `known`.

    TypeError
        If X is sparse or holds objects that are no images.

    ImageReadError
        If an image cannot be read and `on_error` is "raise", or if none can.
    """
    source = X if isinstance(X, Input) else resolve(X)
    if source.kind == "tensor":
        return _read_tensor(source.value, image_shape, known)
    if source.kind in ("table", "array"):
        return _read_array(source.value, image_shape, known)
    if source.kind == "lazy":
        fmt = _lazy_format(source.value, image_shape, known)
        reader = _ArrayReader(source.value, image_shape, fmt)
    else:
        is_column = source.kind == "path column"
        files = np.asarray(source.value)[:, 0] if is_column else source.value
        _check_fitted_on_images(known)
        if known is None:
            side = side or (lambda short: short)
            return _read_files(files, side, n_jobs=n_jobs, cache_dir=cache_dir, on_error=on_error)
        _check_files(files, known, on_error)
        reader, fmt = Decoder(files, n_jobs), known
    store = SourceStore(reader, fmt.shape, on_error)
    if known is None:
        return store.read(cache_dir), fmt
    cached = store.cached(cache_dir) if cache_dir else None
    return (store if cached is None else cached), fmt


# -- arrays ---------------------------------------------------------------------------------


def _read_array(X, image_shape, known):
    X = _check_array(X)
    if X.ndim == 2 and image_shape is None and (known is None or not known.is_image):
        return _read_vectors(X, known)
    _check_fitted_on_images(known)
    images, from_rows = _as_images(X, image_shape, known)
    fmt = known
    if fmt is None:
        fmt = Format(images.shape[1:], *_value_range(images, from_rows))
    elif not from_rows and (fmt.low, fmt.high) == (0.0, 1.0):
        _value_range(images, from_rows)  # raises errors about the values
    _check_shape(images.shape[1:], fmt)
    return Store(tensor_from_numpy(_to_uint8(images, fmt))), fmt


def _check_array(X):
    """Convert X to a numeric array; raise an error if it is ragged, empty or has wrong axes."""
    try:
        X = _to_array(X)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            "X is ragged: its items have different lengths. Arrays must share one shape; images "
            "of different sizes can be given as PIL images or as paths."
        ) from error
    if X.dtype.kind == "O" and X.ndim == 1 and len(X):
        types = _join_some({type(x).__name__ for x in X})
        raise TypeError(
            f"X is an object array of {types}; wanted numbers, or images given as arrays of one "
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


def _to_array(X):
    if isinstance(X, (list, tuple)):
        if len(X) and all(isinstance(x, Tensor) for x in X):
            X = [x.detach().cpu().numpy() for x in X]
        return _stack(X) if _are_arrays(X) else np.asarray(X)
    if hasattr(X, "toarray") or not hasattr(X, "__array__"):
        return check_array(X, dtype=None)  # raises scikit-learn's error about sparse input
    X = X if isinstance(X, np.ndarray) else np.asarray(X)
    return _stack(list(X)) if X.dtype.kind == "O" and X.ndim == 1 and _are_arrays(X) else X


def _are_arrays(X):
    return len(X) > 0 and all(isinstance(x, np.ndarray) for x in X)


def _stack(arrays):
    shapes = {a.shape for a in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    channels = {s[2] for s in shapes if len(s) == 3} | {1 for s in shapes if len(s) == 2}
    what = "channel counts" if len(channels) > 1 else "shapes"
    raise ValueError(
        f"X holds arrays of different {what}: shapes {_join_some(shapes)}. Arrays must share one "
        "shape; images of different sizes can be given as PIL images or as paths."
    )


def _join_some(items, n=4):
    items = sorted(map(str, items))
    return ", ".join(items[:n]) + (", ..." if len(items) > n else "")


def _as_images(X, image_shape, known):
    """Reshape X to (n, h, w, c); return it, and whether the images were rows of a 2-D array."""
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
    """Return which axis of a 3-D shape holds the channels: -1 or 0."""
    if wanted is not None:
        h, w, c = wanted
        if tuple(shape) == (h, w, c):
            return -1
        if tuple(shape) == (c, h, w):
            return 0
    if shape[2] in _CHANNEL_COUNTS:
        return -1
    if shape[0] in _CHANNEL_COUNTS:
        return 0
    if shape[1] == shape[2] != shape[0]:
        return 0
    if shape[0] == shape[1] != shape[2]:
        return -1
    raise ValueError(
        f"cannot tell which axis of images of shape {tuple(shape)} holds the channels; give "
        "image_shape=(height, width, channels)"
    )


def _value_range(images, from_rows):
    """Return the values of black and white; raise an error if they cannot be determined."""
    integers = images.dtype.kind in "iu"
    if images.dtype == np.uint8:
        return 0.0, 1.0
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= (255 if integers else 1 + 1e-6):
        return 0.0, 1.0
    if from_rows:  # rows may have any range, for example after a scaler in a pipeline
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
    """Convert integers as they are, and floats by the range that was learned, to uint8."""
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


def _check_fitted_on_images(known):
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
    # uint8 images on an accelerator stay there.
    _check_fitted_on_images(known)
    if X.dtype != torch.uint8:
        return _read_array(X.cpu().numpy(), image_shape, known)
    if X.ndim == 3:
        X = X[..., None]
    wanted = known.shape if known is not None else image_shape
    if X.ndim != 4 or not len(X):
        return _read_array(X.cpu().numpy(), image_shape, known)  # raises the error
    if _channel_axis(X.shape[1:], wanted if wanted and len(wanted) == 3 else None) == 0:
        X = X.permute(0, 2, 3, 1)
    fmt = known or Format(tuple(X.shape[1:]))
    _check_shape(X.shape[1:], fmt)
    return Store(X), fmt


# -- lazy arrays ----------------------------------------------------------------------------


def _lazy_format(X, image_shape, known):
    if len(X) == 0:
        raise ValueError("X is empty: found 0 sample(s), wanted at least 1")
    empty = np.empty((1, *X.shape[1:]), dtype=np.uint8)
    return _read_array(empty, image_shape, known)[1]


class _ArrayReader(Reader):
    """Read images of a lazy array slice by slice."""

    def __init__(self, X, image_shape, fmt):
        self._X, self._image_shape, self._fmt = X, image_shape, fmt
        self._step = max(1, _CHUNK // fmt.n_features)

    def __len__(self) -> int:
        return len(self._X)

    def identity(self) -> None:
        return None

    def read_into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        failures = {}
        for start in range(0, len(index), self._step):
            chunk = index[start : start + self._step]
            images = self._read_chunk(chunk, failures)
            store, _ = _read_array(images, self._image_shape, self._fmt)
            out[start : start + len(chunk)] = store.samples.numpy()
        return failures

    def _read_chunk(self, index, failures):
        """Return the images of some indices; those that cannot be read are black."""
        if index[-1] - index[0] + 1 == len(index):
            # If reading the whole slice fails, reading image by image finds which one fails.
            with contextlib.suppress(Exception):
                return _slice(self._X, index[0], index[-1] + 1)
        images = [self._read_image(i, failures) for i in index]
        black = next((np.zeros_like(image) for image in images if image is not None), None)
        if black is None:
            black = np.zeros(self._X.shape[1:], dtype=np.uint8)
        return np.stack([black if image is None else image for image in images])

    def _read_image(self, i, failures):
        try:
            return _slice(self._X, i, i + 1)[0]
        except Exception as error:
            reason = str(error) or type(error).__name__
            failures[i] = ImageReadError(f"image {i} of X cannot be read: {reason}")
            failures[i].__cause__ = error
            return None


def _slice(X, start, stop):
    """Read a slice of a lazy array, by a slice or by the tuples that scikit-learn indexes with."""
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
    else:  # the slice is itself lazy
        rows = np.stack([np.asarray(part[i]) for i in range(len(part))])
    if rows.shape != (stop - start, *X.shape[1:]):
        raise ValueError(
            f"X says that its shape is {tuple(X.shape)}, but X[{start}:{stop}] has {rows.shape}"
        )
    return rows


# -- files and PIL images -------------------------------------------------------------------


def _read_files(files, side, *, n_jobs, cache_dir, on_error):
    """Decode all files to the shape that they share."""
    guess = None if cache_dir else guessed_shape(files, side, n_jobs=n_jobs)
    if guess:
        reader = Decoder(files, n_jobs)
        store = SourceStore(reader, guess, on_error).read()
        if reader.shape(side) == guess:
            return store, Format(guess)
        del store  # free its memory before decoding again
    shape = common_shape(files, side, n_jobs=n_jobs, cache_dir=cache_dir, on_error=on_error)
    return SourceStore(Decoder(files, n_jobs), shape, on_error).read(cache_dir), Format(shape)


def _check_files(files, known, on_error):
    """Raise an error for missing files and impossible channels before anything is decoded."""
    if known.shape[2] not in (1, 3):
        raise ValueError(
            f"the estimator was fitted on images with {known.shape[2]} channels; paths and PIL "
            "images have 1 or 3"
        )
    if on_error == "warn" or isinstance(files, DatasetImages):
        return
    for file in files:
        if not isinstance(file, Image.Image) and not Path(file).is_file():
            raise ImageReadError(f"no such file: {file}")
