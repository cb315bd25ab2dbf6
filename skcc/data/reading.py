"""Read arrays, tensors, files and data sets into one store of samples.

Images become uint8 of shape (n, height, width, channels), without a copy where X has that format
already. Vectors are standardised, or divided by one scale, and become float32.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.utils.validation import check_array
from torch import Tensor

from skcc import distributed
from skcc.data import decoding
from skcc.data.files import Decoder, check_present, common_format, guessed_format, sampled
from skcc.data.formats import (
    BYTE,
    UNIT,
    Format,
    Levels,
    Values,
    known_levels,
    learned_levels,
    summarize,
    to_uint8,
)
from skcc.data.items import as_array, check_no_mask, check_same_kind
from skcc.data.layout import channel_axis, check_channels_last, image_shape_of_rows
from skcc.data.sources import Input, resolve
from skcc.data.stores import Reader, SampleStore, SourceStore, Store, tensor_from_numpy
from skcc.exceptions import ImageReadError
from skcc.readouts import vector_scale

_CHUNK = 2**20  # numbers that are converted at a time


def read(
    X,
    *,
    image_shape: tuple[int, ...] | None = None,
    side: Callable[[int], int] | None = None,
    known: Format | None = None,
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    on_error: str = "raise",
    resize: decoding.Resize | None = None,
) -> tuple[SampleStore, Format]:
    """Read images or vectors.

    Parameters
    ----------
    X : Input, array, tensor, path, pattern, data set, or list of arrays, paths or PIL images
        See `skcc.ContrastiveClustering.fit`; or the result of `resolve`.

    image_shape : tuple of int, default=None
        ``(height, width)`` or ``(height, width, channels)`` of the images in the rows of a 2-D
        array. It also tells which axis of a 4-D array holds the channels. If X has images of
        another shape, that is an error.

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
        Whether an image that cannot be read is an error, or is listed in ``store.invalid``. With
        "warn", rows of a table that are all NaN are features of such images, and listed as well.

    resize : decoding.Resize, default=None
        How files are brought to the shape of `known`; None cuts the centre and is bilinear.

    Returns
    -------
    store : SampleStore
        Samples. If `known` is given, files and lazy arrays are read when they are needed.

    fmt : Format
        `known` if given, otherwise the format of these samples.

    Raises
    ------
    ValueError
        If X is none of these, is empty, is one image, or does not match `image_shape` or `known`;
        or if its numbers have no meaning, or another one than in `fit`.

    TypeError
        If X is sparse or holds objects that are no images.

    ImageReadError
        If an image cannot be read and `on_error` is "raise", or if none can.
    """
    source = X if isinstance(X, Input) else resolve(X)
    if source.kind == "tensor":
        return _read_tensor(source.value, image_shape, known)
    if source.kind in ("table", "array"):
        source.check_invalid(on_error)
        X, missing = _without_nan_rows(source.value) if on_error == "warn" else (source.value, {})
        store, fmt = _read_array(X, image_shape, known)
        store.invalid.update((source.invalid or {}) | missing)
        return store, fmt
    settings = {"cache_dir": cache_dir, "on_error": on_error}
    if source.kind == "lazy":
        if known is None:
            return _fit_lazy(source.value, image_shape, **settings)
        reader = _ArrayReader(source.value, known)
    else:
        _check_fitted_on_images(known)
        if known is None:
            side = side or (lambda short: short)
            return _read_files(source.value, side, image_shape, n_jobs=n_jobs, **settings)
        _check_files(source.value, known, on_error)
        reader = Decoder(source.value, n_jobs, known, resize=resize)
    store = SourceStore(reader, known.shape, on_error)
    cached = store.cached(cache_dir) if cache_dir else None
    return (store if cached is None else cached), known


def learn_format(
    X: Input,
    side: Callable[[int], int],
    *,
    image_shape: tuple[int, ...] | None = None,
    n_jobs: int | None = None,
    cache_dir: str | Path | None = None,
    on_error: str = "raise",
) -> Format:
    """Learn the format of images as `read` does, without keeping any of them.

    Parameters
    ----------
    X : Input
        Images; see `resolve`.

    side : callable
        From the median short side of image files to the side at which they are stored.

    image_shape : tuple of int, default=None
        See `read`.

    n_jobs : int, default=None
        Threads that read the headers of files.

    cache_dir : str or Path, default=None
        Folder in which a summary of the headers of files is kept.

    on_error : {"raise", "warn"}, default="raise"
        Whether an image that cannot be read is an error.

    Returns
    -------
    fmt : Format
        Format of the images.

    Raises
    ------
    ValueError
        If `read` would raise it; for files only of what their headers show.

    ImageReadError
        If a header cannot be read and `on_error` is "raise", or if none can.
    """
    if X.kind in ("files", "path column"):
        settings = {"n_jobs": n_jobs, "cache_dir": cache_dir, "on_error": on_error}
        return common_format(sampled(X.value), side, **settings)
    if X.kind != "lazy":
        return read(X, image_shape=image_shape, on_error=on_error)[1]
    reader = _ArrayReader(X.value, None, image_shape)
    for start in range(0, len(reader), reader.step):
        index = range(start, min(len(reader), start + reader.step))
        failures = reader.read_into(index, np.empty((len(index), *reader.fmt.shape), np.uint8))
        if failures and on_error == "raise":
            raise decoding.first_failure(failures)
    return reader.learned_format()


# -- arrays ---------------------------------------------------------------------------------


def _without_nan_rows(X):
    """Return a table without its rows of NaN alone, and the reasons by index of such rows."""
    is_table = isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "f" and X.size
    nan = np.flatnonzero(np.isnan(X).all(axis=1)) if is_table else ()
    if not len(nan):
        return X, {}
    missing = {int(i): f"row {i} of X is NaN, as for an image that cannot be read" for i in nan}
    if len(missing) == len(X):
        raise decoding.none_could_be_read(missing)
    return np.delete(X, nan, axis=0), missing


def _read_array(X, image_shape, known):
    X = _check_array(X)
    if X.ndim == 2 and image_shape is None and (known is None or not known.is_image):
        return _read_vectors(X, known)
    _check_fitted_on_images(known)
    images, from_rows = _as_images(X, image_shape, known), X.ndim == 2
    if known is not None:
        pixels = _to_pixels(images, known, Levels(known, from_rows))
        return Store(tensor_from_numpy(pixels)), known
    values = summarize(images)
    fields = learned_levels(values, from_rows) | _order_of(X.shape, images.shape)
    fmt = Format(images.shape[1:], **fields)
    pixels = to_uint8(images, known_levels(fmt, values, from_rows))
    return Store(tensor_from_numpy(pixels)), fmt


def _order_of(shape, images_shape):
    """Return the field of a `Format` about the order of the axes in an array."""
    is_first = len(shape) == 4 and images_shape[3] > 1 and tuple(shape) != tuple(images_shape)
    return {"channels_first": is_first}


def _to_pixels(images, fmt, levels):
    """Convert images to uint8, and bring them to the learned shape if `fit` read files."""
    if not fmt.resize:
        _check_shape(images.shape[1:], fmt)
    pixels = to_uint8(images, levels.of(images))
    if pixels.shape[1:] == fmt.shape:
        return pixels
    _check_channels(pixels.shape[3], "X holds images with {} channels")
    resized = np.empty((len(pixels), *fmt.shape), dtype=np.uint8)
    for image, out in zip(pixels, resized, strict=True):
        is_gray = image.shape[2] == 1
        decoding.decode(Image.fromarray(image[..., 0] if is_gray else image), out)
    return resized


def _check_channels(channels, what):
    if channels not in (1, 3):
        raise ValueError(f"{what.format(channels)}; paths and PIL images have 1 or 3")


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
    if X.dtype.kind == "O":
        X = _without_objects(X)
    if X.dtype.kind in "OUST":
        return check_array(X, dtype="numeric", allow_nd=True)
    return check_array(X, dtype=None, allow_nd=True)


def _to_array(X):
    if isinstance(X, (list, tuple)):
        if len(X) and all(isinstance(x, Tensor) for x in X):
            X = [as_array(x) for x in X]
        return _stack(X) if _are_arrays(X) else np.asarray(X)
    if hasattr(X, "toarray") or not hasattr(X, "__array__"):
        return check_array(X, dtype=None)  # raises scikit-learn's error about sparse input
    X = X if isinstance(X, np.ndarray) else np.asarray(X)
    return _stack(list(X)) if X.dtype.kind == "O" and X.ndim == 1 and _are_arrays(X) else X


def _without_objects(X):
    """Return an object array of numbers as an array of these numbers."""
    with contextlib.suppress(ValueError, OverflowError):
        numbers = np.asarray(X.tolist())
        if numbers.dtype.kind in "buif" and numbers.shape == X.shape:
            return numbers
    return X


def _are_arrays(X):
    return len(X) > 0 and all(isinstance(x, np.ndarray) for x in X)


def _stack(arrays):
    for array in arrays:
        check_no_mask(array)
    shapes = {a.shape for a in arrays}
    if len(shapes) == 1:
        if arrays[0].ndim > 1:  # rows hold numbers of one scale whatever their types are
            check_same_kind(arrays)
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
    """Reshape X to (n, h, w, c)."""
    if X.ndim == 2:
        return _rows_as_images(X, image_shape, known)
    if 0 in X.shape[1:]:
        raise ValueError(f"X has shape {X.shape}: its images have no pixels")
    axis = _channel_axis(X.shape, image_shape, known)
    if axis is None:
        return X[..., None]
    return X if axis == -1 else np.moveaxis(X, axis, -1)


def _channel_axis(shape, image_shape, known):
    if known is None:
        return channel_axis(shape, image_shape)
    return channel_axis(shape, known=known.shape, any_size=known.resize)


def _rows_as_images(X, image_shape, known):
    n_features = X.shape[1]
    shape = known.shape if known else image_shape_of_rows(image_shape, n_features)
    if known and known.resize and image_shape and n_features != known.n_features:
        shape = image_shape_of_rows(image_shape, n_features)
    if known and known.channels_first and n_features == known.n_features:
        h, w, c = shape
        raise ValueError(
            f"X holds rows of {n_features} numbers, but the estimator was fitted on images of "
            f"shape ({c}, {h}, {w}), (channels, height, width): cannot tell the order of the "
            f"numbers. Give X.reshape(-1, {c}, {h}, {w}) if it is that of fit"
        )
    if n_features != int(np.prod(shape)):
        raise ValueError(
            f"X has {n_features} features, but images of shape {shape} have "
            f"{int(np.prod(shape))} features as input"
        )
    return X.reshape(len(X), *shape)


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
    # Integers of a large offset would lose their differences in float32.
    X = check_array(X, dtype=np.float64 if X.dtype.kind in "iu" else [np.float32, np.float64])
    if known is None:
        mean, scale, table = vector_scale(X)
        known = Format((X.shape[1],), mean=mean, scale=scale, is_table=table)
        if not np.isfinite(known.scale).all():
            raise ValueError(_too_large(X))
    if X.shape[1] != known.n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but is expecting {known.n_features} features as input"
        )
    with np.errstate(over="ignore"):
        standard = ((X - known.mean) / known.scale).astype(np.float32)
    if not np.isfinite(standard).all():
        raise ValueError(_too_large(X))
    return Store(torch.from_numpy(standard)), known


def _too_large(X):
    return (
        f"X holds vectors with values up to {np.abs(X).max():g}, which are too large to be "
        "standardised; rescale them, for example X / abs(X).max()"
    )


def _read_tensor(X, image_shape, known):
    is_on_device = X.device.type != "cpu" and X.dtype == torch.uint8 and X.ndim in (3, 4)
    if not is_on_device or 0 in X.shape:
        return _read_array(as_array(X), image_shape, known)
    # Images of bytes on an accelerator stay there.
    _check_fitted_on_images(known)
    axis = _channel_axis(X.shape, image_shape, known)
    images = X[..., None] if axis is None else X.movedim(axis, -1)
    levels, fmt = _tensor_levels(images, known)
    if known is None:
        fmt = dataclasses.replace(fmt, **_order_of(X.shape, images.shape))
    is_other_size = fmt.resize and tuple(images.shape[1:]) != fmt.shape
    if is_other_size or levels not in (BYTE, UNIT):
        return _read_array(as_array(X), image_shape, known)
    _check_shape(images.shape[1:], fmt)
    return Store(images if levels == BYTE else images * 255), fmt


def _tensor_levels(images, known):
    """Return black and white of bytes on an accelerator, and their format."""
    low, high = int(images.min()), int(images.max())
    # Few bytes stand for all: whether there are others than black and white decides.
    is_mask = high in (0, 1, 255) and bool(((images == 0) | (images == high)).all())
    some = np.array([[low, high] if is_mask else [low, 2, high]], dtype=np.uint8)
    values = summarize(some)
    fmt = known or Format(tuple(images.shape[1:]), **learned_levels(values, from_rows=False))
    return known_levels(fmt, values, from_rows=False), fmt


# -- lazy arrays ----------------------------------------------------------------------------


def _fit_lazy(X, image_shape, *, cache_dir, on_error):
    """Read a lazy array, and learn on the way what its numbers mean."""
    reader = _ArrayReader(X, None, image_shape)
    store = SourceStore(reader, reader.fmt.shape, on_error).read(cache_dir)
    fmt = reader.learned_format()
    if (fmt.numbers == "binary") and reader.holds_integers(white=1):
        del store  # it was taken for gray levels; free its memory before reading again
        store = SourceStore(_ArrayReader(X, fmt), fmt.shape, on_error).read(cache_dir)
    return store, fmt


class _ArrayReader(Reader):
    """Read images of a lazy array slice by slice."""

    def __init__(self, X, fmt, image_shape=None):
        shape = (len(X), *X.shape[1:])
        if 0 in shape:
            what = "its images have no pixels" if len(X) else "found 0 sample(s), wanted at least 1"
            raise ValueError(f"X has shape {shape}: {what}")
        _check_fitted_on_images(fmt)
        self._X, self._axis = X, _channel_axis(shape, image_shape, fmt)
        sample = self._to_channels_last(np.empty((1, *shape[1:]), dtype=np.uint8))
        if fmt is not None and not fmt.resize:
            _check_shape(sample.shape[1:], fmt)
        self.fmt = fmt or Format(sample.shape[1:], **_order_of((1, *shape[1:]), sample.shape))
        self._levels = None if fmt is None else Levels(fmt)
        self._values = {}  # by kind of number, in `fit`
        self.step = max(1, _CHUNK // int(np.prod(shape[1:])))  # images that are read at a time

    def _to_channels_last(self, images):
        return images[..., None] if self._axis is None else np.moveaxis(images, self._axis, -1)

    def __len__(self) -> int:
        return len(self._X)

    def identity(self) -> None:
        return None

    def read_into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        failures = {}
        for start in range(0, len(index), self.step):
            chunk = index[start : start + self.step]
            images = self._read_chunk(chunk, failures)
            images = self._to_channels_last(_check_array(images))
            out[start : start + len(chunk)] = self._to_pixels(images)
        return failures

    def _to_pixels(self, images):
        if self._levels is not None:
            return _to_pixels(images, self.fmt, self._levels)
        values = summarize(images)
        learned_levels(values, from_rows=False)  # raises errors about the values
        before = self._values.get(values.kind)
        self._values[values.kind] = values if before is None else before | values
        return to_uint8(images, BYTE if values.kind == "i" else UNIT)

    def learned_format(self):
        """Return the format of all that was read, by any rank."""
        merged = {}
        for part in distributed.all_gather_object({k: tuple(v) for k, v in self._values.items()}):
            for kind, fields in part.items():
                merged[kind] = merged[kind] | Values(*fields) if kind in merged else Values(*fields)
        self._values = merged
        values = max(merged.values(), key=lambda v: "bif".index(v.kind))
        return dataclasses.replace(self.fmt, **learned_levels(values, from_rows=False))

    def holds_integers(self, white):
        """Check whether integers were read, up to a number."""
        return "i" in self._values and self._values["i"].high == white

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
        images = [black if image is None else image for image in images]
        check_same_kind(images)
        return np.stack(images)

    def _read_image(self, i, failures):
        try:
            return _slice(self._X, i, i + 1)[0]
        except Exception as error:
            reason = str(error) or type(error).__name__
            if not isinstance(error, ImageReadError):  # those name the item
                reason = f"image {i} of X cannot be read: {reason}"
            failures[i] = ImageReadError(reason)
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
        return as_array(part)
    if isinstance(part, (np.ndarray, list)) or hasattr(part, "__array__"):
        rows = as_array(part)
    else:  # the slice is itself lazy
        rows = np.stack([as_array(part[i]) for i in range(len(part))])
    if rows.shape != (stop - start, *X.shape[1:]):
        raise ValueError(
            f"X says that its shape is {tuple(X.shape)}, but X[{start}:{stop}] has {rows.shape}"
        )
    return rows


# -- files and PIL images -------------------------------------------------------------------


def _read_files(files, side, image_shape, *, n_jobs, cache_dir, on_error):
    """Decode all files to the format that they share."""
    if image_shape is not None:
        check_channels_last(image_shape)
    guess = None if cache_dir else guessed_format(files, side, n_jobs=n_jobs)
    if guess:
        _check_image_shape(image_shape, guess, files)
        reader = Decoder(files, n_jobs, guess, fitting=True)
        store = SourceStore(reader, guess.shape, on_error).read()
        if reader.format(side) == guess:
            reader.warn_of_losses(only_dark=False)
            return store, _after_decoding(guess, store)
        del store  # free its memory before decoding again
    fmt = common_format(files, side, n_jobs=n_jobs, cache_dir=cache_dir, on_error=on_error)
    _check_image_shape(image_shape, fmt, files)
    reader = Decoder(files, n_jobs, fmt, fitting=True)
    store = SourceStore(reader, fmt.shape, on_error).read(cache_dir)
    reader.warn_of_losses(only_dark=True)
    return store, _after_decoding(fmt, store)


def _after_decoding(fmt, store):
    """Note in the format of files whether they are masks."""
    values = summarize(store.samples.numpy())
    is_mask = fmt.numbers == "integer" and values.binary and values.high > 0
    return dataclasses.replace(fmt, numbers="binary") if is_mask else fmt


def _check_image_shape(image_shape, fmt, files):
    """Raise an error if files have another size and are stored at another one."""
    if image_shape is None:
        return
    given, n = tuple(int(side) for side in image_shape), len(image_shape)
    if given == fmt.shape[:n] or (*_size_of_first(files), fmt.shape[2])[:n] == given:
        return
    raise ValueError(
        f"image_shape is {given}, but the files of X are images that are stored at shape "
        f"{fmt.shape}. Did you mean image_size? image_shape is for arrays and tables"
    )


def _size_of_first(files):
    """Return height and width of the first file that can be read."""
    for i in range(len(files)):
        with contextlib.suppress(Exception):  # errors are raised when all files are read
            return decoding.header(files[i]).size[::-1]
    return ()


def _check_files(files, known, on_error):
    """Raise an error for missing files and impossible channels before anything is decoded."""
    _check_channels(known.shape[2], "the estimator was fitted on images with {} channels")
    if on_error == "raise":
        check_present(files)
