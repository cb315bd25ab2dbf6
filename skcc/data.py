"""Anything a user has, made into one store of samples.

Images end up as uint8 of shape (n, height, width, channels): the user's own array where it is
that already, a new one otherwise; never a float copy of the set. Vectors end up standardised in
float32. `Format` is what `fit` learned about its samples and what later ones must match. This
file knows no views, networks or methods.
"""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image, ImageOps
from sklearn.utils.validation import check_array
from torch import Tensor

CHANNELS = (1, 2, 3, 4)  # what an axis of channels is recognised by
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
RESIDENT_SHARE = 0.4  # of the free memory of a device; the rest is for training
_CHUNK = 2**20  # numbers that are converted at a time
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
_given_images = threading.Lock()  # Pillow loads pixels and EXIF of an image when first asked
_GRAY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"}


class ImageReadError(OSError, ValueError):
    """An image file is missing or cannot be decoded; the message names it."""


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


class Store:
    """Samples that are held once, and handed out in batches.

    Parameters
    ----------
    samples : Tensor of shape (n, h, w, c) and dtype uint8, or (n, d) and dtype float32
        Read, never written.
    """

    def __init__(self, samples: Tensor):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.samples.shape[1:])

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.samples.device

    def to(self, device: torch.device) -> "Store":
        """The same samples on a device.

        Parameters
        ----------
        device : torch.device
            Where batches are needed.

        Returns
        -------
        store : Store
            Itself if the samples are there already; a `HostStore` if they would fill more than
            two fifths of the memory that is free on a CUDA device.
        """
        if self.samples.device == device:
            return self
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.samples.nbytes > RESIDENT_SHARE * free:
                return HostStore(self.samples)
        return Store(self.samples.to(device))

    def batch(self, index: Tensor) -> Tensor:
        """Some samples.

        Parameters
        ----------
        index : Tensor of shape (b,)
            Which, on the device of the samples.

        Returns
        -------
        batch : Tensor of shape (b, ...)
            A copy.
        """
        return self.samples.index_select(0, index)

    def stream(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple]:
        """Hand out batches for training.

        Parameters
        ----------
        order : sequence of Tensor of shape (b,)
            Indices of the samples of each batch, on the CPU.

        device : torch.device
            Where batches are needed.

        Yields
        ------
        index : Tensor of shape (b,)
            Which samples these are, on the device.

        batch : Tensor of shape (b, ...)
            The samples, on the device.
        """
        for index in torch.stack(tuple(order)).to(device):
            yield index, self.batch(index)

    def sweep(
        self, function: Callable[[Tensor, Tensor], Tensor], batch_size: int
    ) -> Iterator[Tensor]:
        """Apply a function to all samples, in order, in batches of one fixed size.

        The last batch is filled up with its own last sample, so that what a sample gives does
        not depend on how many others come along.

        Parameters
        ----------
        function : callable
            From a batch and the indices of its samples to a tensor with one row per sample.

        batch_size : int
            Samples per call.

        Yields
        ------
        rows : Tensor of shape (b, ...)
            Results for the next `batch_size` samples, or for those that are left.
        """
        for start in range(0, len(self), batch_size):
            index = torch.arange(start, start + batch_size, device=self.device)
            index = index.clamp_max(len(self) - 1)
            rows = function(self.batch(index), index)
            yield rows[: len(self) - start]


class HostStore(Store):
    """Samples that stay on the host, and are sent to a CUDA device batch by batch.

    Parameters
    ----------
    samples : Tensor of shape (n, ...)
        On the CPU.
    """

    def stream(self, order: Sequence[Tensor], device: torch.device) -> Iterator[tuple]:
        # Each batch is on its way, on a stream of its own, while the one before is in use.
        copying = torch.cuda.Stream(device) if device.type == "cuda" else None

        def send(index):
            both = index, self.batch(index)
            if copying is None:
                return both, None
            with torch.cuda.stream(copying):
                both = tuple(t.pin_memory().to(device, non_blocking=True) for t in both)
                return both, copying.record_event()

        on_its_way = None
        for index in order:
            ready, on_its_way = on_its_way, send(index)
            if ready is not None:
                yield _arrived(*ready)
        yield _arrived(*on_its_way)


def _arrived(both, sent):
    """What was sent, once the stream in use has been told to wait for it alone."""
    if sent is not None:
        current = torch.cuda.current_stream()
        current.wait_event(sent)
        for tensor in both:
            tensor.record_stream(current)
    return both


class SourceStore(Store):
    """Files or PIL images that are decoded batch by batch, so that memory does not grow with them.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        The images.

    shape : tuple of (int, int, int)
        Height, width and channels to which they are brought.

    n_jobs : int or None
        Threads that decode.
    """

    def __init__(self, sources, shape: tuple[int, ...], n_jobs: int | None):
        self.sources, self._shape, self.n_jobs = sources, shape, n_jobs

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._shape

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return torch.device("cpu")

    def to(self, device: torch.device) -> Store:
        return self.read().to(device)

    def read(self) -> Store:
        """Decode all of them.

        Returns
        -------
        store : Store
            Holds them.
        """
        return Store(self._decoded(range(len(self))))

    def batch(self, index: Tensor) -> Tensor:
        once, back = index.unique(return_inverse=True)
        return self._decoded(once.tolist())[back]

    def _decoded(self, index):
        pixels = np.empty((len(index), *self.shape), dtype=np.uint8)
        Parallel(n_jobs=self.n_jobs, backend="threading")(
            delayed(_decode)(self.sources[i], pixels[at]) for at, i in enumerate(index)
        )
        return torch.from_numpy(pixels)


# -- what kind of thing X is ----------------------------------------------------------------


def read(
    X,
    *,
    image_shape: tuple[int, ...] | None = None,
    side: Callable[[int], int] | None = None,
    known: Format | None = None,
    n_jobs: int | None = None,
) -> tuple[Store, Format]:
    """Read whatever holds images or vectors.

    Parameters
    ----------
    X : array, tensor, path, or list of arrays, tensors, paths or PIL images
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

    Returns
    -------
    store : Store
        The samples; after `fit`, files and PIL images wait to be decoded.

    fmt : Format
        `known` if given, otherwise what these samples are like.

    Raises
    ------
    ValueError
        If X is none of these, is empty, or does not match `known`.

    TypeError
        If X is sparse or holds objects that are no images.
    """
    X = _as_sequence(X)
    if isinstance(X, Tensor):
        return _read_tensor(X, image_shape, known)
    if _holds_sources(X):
        _demand_images(known)
        if known is None:
            shape = _common_shape(X, side or (lambda short: short), n_jobs)
            return SourceStore(X, shape, n_jobs).read(), Format(shape)
        _demand_readable(X, known)
        return SourceStore(X, known.shape, n_jobs), known
    return _read_array(X, image_shape, known)


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
    if isinstance(X, (str, Path)):
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
    """Unwrap what only needs unwrapping: folders, columns of tables, lists of tensors."""
    if isinstance(X, (str, Path)):
        return image_files(X)
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
    _demand_images(known)
    images, rows = _images_of(X, image_shape, known)
    fmt = known
    if fmt is None:
        fmt = Format(images.shape[1:], *_range(images, rows))
    elif not rows and (fmt.low, fmt.high) == (0.0, 1.0):
        _range(images, rows)  # for its errors
    _demand_shape(images.shape[1:], fmt)
    return Store(_tensor(_to_uint8(images, fmt))), fmt


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


def _tensor(array):
    """A tensor on the same memory, also where that may not be written."""
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _demand_shape(shape, fmt):
    if tuple(shape) == tuple(fmt.shape):
        return
    n_features = int(np.prod(shape))
    raise ValueError(
        f"X holds images of shape {tuple(shape)} (height, width, channels), but the estimator "
        f"was fitted on images of shape {tuple(fmt.shape)}: X has {n_features} features, but is "
        f"expecting {fmt.n_features} features as input"
    )


def _demand_images(known):
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
    _demand_images(known)
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
    _demand_shape(X.shape[1:], fmt)
    return Store(X), fmt


# -- files and PIL images -------------------------------------------------------------------


def image_files(root) -> list[Path]:
    """All image files below a folder, sorted by path.

    Parameters
    ----------
    root : str or Path
        The folder.

    Returns
    -------
    files : list of Path
        Files whose suffix is that of an image format.

    Raises
    ------
    ImageReadError
        If there is no such folder.

    ValueError
        If it holds no image files.
    """
    root = Path(root)
    if not root.is_dir():
        raise ImageReadError(f"{root} is not a folder")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise ValueError(f"{root} holds no image files ({', '.join(IMAGE_SUFFIXES)})")
    return files


def _demand_readable(sources, known):
    """Find early what would fail late."""
    if known.shape[2] not in (1, 3):
        raise ValueError(
            f"the estimator was fitted on images with {known.shape[2]} channels; paths and PIL "
            "images have 1 or 3"
        )
    for source in sources:
        if not isinstance(source, Image.Image) and not Path(source).is_file():
            raise ImageReadError(f"no such file: {source}")


@contextlib.contextmanager
def _opened(source):
    """A PIL image of a path or PIL image; what fails while it is open names the source."""
    if isinstance(source, Image.Image):
        with _given_images:
            yield source
        return
    try:
        with Image.open(source) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageReadError(f"no such file: {source}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageReadError(f"cannot read {source} as an image: {error}") from error


def _header(source):
    """Size when upright, and whether there is colour."""
    with _opened(source) as image:
        size = image.size
        if image.getexif().get(_ORIENTATION, 1) in _SIDEWAYS:
            size = size[::-1]
        return size, _has_colour(image)


def _has_colour(image):
    return image.mode not in _GRAY_MODES


def _common_shape(sources, side, n_jobs):
    headers = Parallel(n_jobs=n_jobs, backend="threading")(delayed(_header)(s) for s in sources)
    sizes = {size for size, _ in headers}
    channels = 3 if any(colour for _, colour in headers) else 1
    short = int(np.median([min(size) for size, _ in headers]))
    stored = max(1, min(short, side(short)))
    if len(sizes) == 1:
        width, height = sizes.pop()
        if min(width, height) <= stored:
            return height, width, channels
        factor = stored / min(width, height)
        return max(1, round(height * factor)), max(1, round(width * factor)), channels
    return stored, stored, channels


def _decode(source, out):
    """Decode, turn upright, flatten onto white, convert, and fit one image into `out`."""
    height, width, channels = out.shape
    with _opened(source) as image:
        if image is not source:
            image.draft(None, (2 * width, 2 * height))  # a JPEG decodes to half size in no time
        image = ImageOps.exif_transpose(image)
        image = _convert(image, "L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        out[...] = np.asarray(image).reshape(out.shape)


def _convert(image, mode):
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.float32) / 257  # 16 bits to 8
        image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.asarray(image)
        top = 255 if values.max(initial=0) > 1 else 1
        image = Image.fromarray(np.clip(np.rint(values * (255 / top)), 0, 255).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)
