"""Decode one image file or PIL image into an array of a given shape.

All rules about formats, modes and orientation are here; docs/images.md lists them in a table.
"""

import contextlib
import functools
import io
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from skcc.data import plugins
from skcc.data.formats import Format, Levels, check_file_range, finite_range, to_uint8
from skcc.data.items import content_of, describe, path_hint
from skcc.exceptions import ImageReadError

# Pillow recognises these but does not decode them by itself: EPS and WMF start other programs.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
if int(PIL.__version__.split(".")[0]) < 13:
    # Older releases loop forever on truncated DDS files and inflate FITS files without a limit.
    NOT_DECODED |= {"DDS", "FITS"}
_FREQUENT_FORMATS = {"BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"}  # tried first
_RULES_VERSION = 2  # increase it when the same file would give other pixels
_EXIF_ORIENTATION = 0x0112
_SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)
# Keys of `Image.info` that may hold the orientation of a PNG.
_ORIENTATION_KEYS = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_TRANSPOSE_BY_ORIENTATION = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GRAY_MODES = {"1", "L", "LA", "La", "I", "F"}
_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_pil_image_lock = threading.Lock()  # Pillow loads pixels and EXIF of a PIL image lazily


def first_failure(failures: Mapping[int, ImageReadError]) -> ImageReadError:
    """Select the error of the first image that could not be read, and add a hint to it.

    Parameters
    ----------
    failures : dict of int to ImageReadError
        Errors by index of the image; not empty.

    Returns
    -------
    error : ImageReadError
        Error of the lowest index, with a note about ``on_error="warn"``. The caller raises it.
    """
    error = failures[min(failures)]
    error.add_note('on_error="warn", or --on-error warn, goes on without such images')
    return error


def none_could_be_read(reasons: Mapping[int, str]) -> ImageReadError:
    """Make the error for a set of images of which none could be read.

    Parameters
    ----------
    reasons : dict of int to str
        Reasons by index of the image; not empty.

    Returns
    -------
    error : ImageReadError
        States the number of images and the first reason. The caller raises it.
    """
    first = reasons[min(reasons)]
    return ImageReadError(f"none of the {len(reasons)} images of X could be read; first: {first}")


class Header(NamedTuple):
    """Properties of an image by which the format of a set is found.

    Parameters
    ----------
    size : tuple of (int, int)
        Width and height in pixels, after the EXIF orientation is applied.

    colour : bool
        Whether the mode of the image can hold colour.

    high : float or None, default=None
        Largest number of an image of floats; None for all others.

    has_pages : bool, default=False
        Whether it is a TIFF of several pages, of which the first is read.

    has_alpha : bool, default=False
        Whether it is a TIFF whose last channel is read as transparency.

    deep_high : int or None, default=None
        Largest number of an image of integers of more than 8 bits, once it is decoded.
    """

    size: tuple[int, int]
    colour: bool
    high: float | None = None
    has_pages: bool = False
    has_alpha: bool = False
    deep_high: int | None = None


class Resize(NamedTuple):
    """How an image is brought to another size.

    Parameters
    ----------
    resample : PIL.Image.Resampling, default=2
        Filter; the default is bilinear.

    squash : bool, default=False
        Whether the whole image is squeezed into the shape; the default is to cut the centre.
    """

    resample: Image.Resampling = Image.Resampling.BILINEAR
    squash: bool = False

    def apply(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Resize an image to a width and height."""
        if image.size == size:
            return image
        if self.squash:
            return image.resize(size, self.resample)
        return ImageOps.fit(image, size, self.resample)


def formats() -> tuple[str, ...]:
    """List the formats that are decoded, in the order in which they are tried.

    Returns
    -------
    names : tuple of str
        Pillow's names of the formats that Pillow and the registered plugins decode by themselves.
    """
    Image.init()
    return _sorted_formats(tuple(Image.ID))


@functools.lru_cache(maxsize=1)
def _sorted_formats(registered):
    names = sorted(registered, key=lambda name: name not in _FREQUENT_FORMATS)
    return tuple(name for name in names if name not in NOT_DECODED)


def suffixes() -> frozenset[str]:
    """List the file suffixes that mark a file as an image.

    Returns
    -------
    suffixes : frozenset of str
        Suffixes that Pillow registers for the decoded formats, in lower case, with the dot.
    """
    known = {*formats(), "MPO"}  # Pillow opens an MPO file as a JPEG
    return frozenset(s for s, name in Image.registered_extensions().items() if name in known)


def version() -> str:
    """Describe what the pixels depend on beside the file and the shape.

    Returns
    -------
    version : str
        Version of the rules in this module, versions of Pillow and of its plugin for HEIF, and the
        settings of Pillow that decide which files are rejected.
    """
    settings = f"{Image.MAX_IMAGE_PIXELS} {ImageFile.LOAD_TRUNCATED_IMAGES}"
    return f"{_RULES_VERSION} {PIL.__version__} {settings} {plugins.version()}".rstrip()


def is_image(path) -> bool:
    """Check whether Pillow recognises a file by its first bytes.

    Parameters
    ----------
    path : str or Path
        File to look at.

    Returns
    -------
    recognised : bool
        Whether Pillow knows the format.

    Raises
    ------
    OSError
        If the file cannot be opened.
    """
    with open(path, "rb"):
        pass
    try:
        with _open_file(path):
            return True
    except Exception:  # broken bytes can make Pillow's plugins raise any exception
        return False


def header(source) -> Header:
    """Read the header of an image; decode its pixels only if they are floats.

    Parameters
    ----------
    source : str, Path, PIL.Image.Image, bytes or binary file
        Image to look at.

    Returns
    -------
    header : Header
        Size of the image, whether it can hold colour, and the largest float.

    Raises
    ------
    ImageReadError
        If the file is missing or is no image, if the image has more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``, or if it holds floats without a meaning.
    """
    return _apply_to_image(source, _checked_header_of)


def decode(
    source, out: np.ndarray, levels: Levels | None = None, resize: Resize | None = None
) -> Header:
    """Decode an image, apply its orientation, put it on white, and resize it into an array.

    Parameters
    ----------
    source : str, Path, PIL.Image.Image, bytes or binary file
        Image to decode; it is not changed.

    out : ndarray of shape (height, width, channels) and dtype uint8
        Array to write to; gray if it has 1 channel, RGB if it has 3.

    levels : Levels, default=None
        Black and white of the set, for images of more than 8 bits. The default takes floats for 0
        to 1 or 0 to 255, and integers for 0 to 65535.

    resize : Resize, default=None
        How the image is brought to the size of `out`; None stands for ``Resize()``.

    Returns
    -------
    header : Header
        The same as `header` returns.

    Raises
    ------
    ImageReadError
        If the file is missing or cannot be decoded, or if the image has more pixels than
        ``PIL.Image.MAX_IMAGE_PIXELS``.
    """
    levels = levels or Levels(Format(out.shape, numbers="binary"))
    return _apply_to_image(
        source, lambda image: _decode(image, out, levels, resize, is_given=image is source)
    )


class _IgnorePillowWarnings:
    """Reentrant context that ignores the warnings of Pillow in all threads."""

    # If a user turns warnings into errors, they would decide which files can be read. Filters
    # belong to the process, so they are restored when the last thread leaves.

    def __init__(self):
        self._lock, self._n_inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            if self._n_inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._n_inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._filters.__exit__(*error)


ignore_pillow_warnings = _IgnorePillowWarnings()


def _reset_after_fork():
    """Free the locks in a forked child, whose other threads do not exist."""
    global _pil_image_lock
    _pil_image_lock = threading.Lock()
    ignore_pillow_warnings._lock, ignore_pillow_warnings._n_inside = threading.Lock(), 0


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_reset_after_fork)


@contextlib.contextmanager
def _open(source) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        with _pil_image_lock:
            _load_given(source)
            _orientation(source)  # makes the image cache its EXIF data
        yield source
        return
    if isinstance(source, (str, Path)):
        _check_regular(source)
    else:
        source = io.BytesIO(content_of(source))
    with _open_file(source) as image:
        yield image


def _load_given(image):
    try:
        image.load()
    except AssertionError as error:
        raise ValueError(
            "its file was closed before the pixels were loaded; call image.load() before"
        ) from error


def _check_regular(path):
    """Raise an error if a path exists and is no regular file."""
    if os.path.isfile(path) or not os.path.exists(path):
        return
    if os.path.isdir(path):
        os.scandir(path).close()  # raises an error if the folder cannot be listed
        raise OSError(f"it is no regular file but a folder; its files are {Path(path) / '*'}")
    raise OSError("it is no regular file")  # reading from a pipe could block forever


def _open_file(file):
    """Open a path or a buffer by its content; register a plugin if its format needs one."""
    try:
        return Image.open(file, formats=formats())
    except UnidentifiedImageError:
        if not plugins.register(plugins.suffix_of(file)):
            raise
        return Image.open(file, formats=formats())


def _apply_to_image(source, function):
    """Open an image and call a function of it; raise errors that name the source."""
    try:
        with _open(source) as image:
            _check_safe_size(image)
            return function(image)
    except FileNotFoundError as error:
        raise ImageReadError(f"no such file: {describe(source)}{path_hint(source)}") from error
    except Exception as error:  # broken bytes can make Pillow's plugins raise any exception
        reason = f"{_reason(error)}{_plugin_hint(source, error)}"
        raise ImageReadError(f"cannot read {describe(source)} as an image: {reason}") from error


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "cannot identify the format of the image file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _plugin_hint(source, error):
    """Return how a file of a format that Pillow does not know can be read."""
    if not isinstance(error, UnidentifiedImageError):
        return ""
    try:
        file = source if isinstance(source, (str, Path)) else io.BytesIO(content_of(source))
        suffix = plugins.suffix_of(file)
    except Exception:
        return ""
    remedy = None if suffix in suffixes() else plugins.remedy(suffix)
    return f"; {suffix}: {remedy}" if remedy else ""


def _check_safe_size(image):
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise Image.DecompressionBombError(
            f"it has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {limit}"
        )


def _header_of(image):
    sideways = _orientation(image) in _SIDEWAYS_ORIENTATIONS
    if sideways and image.format == "TIFF":
        image.load()  # newer releases of Pillow apply the orientation of TIFF files themselves
        sideways = _orientation(image) in _SIDEWAYS_ORIENTATIONS
    size = image.size[::-1] if sideways else image.size
    is_gray = image.mode in _GRAY_MODES or image.mode.startswith("I;16")
    is_tiff = image.format == "TIFF"
    return Header(
        size,
        colour=not is_gray,
        high=finite_range(np.asarray(image))[1] if image.mode == "F" else None,
        has_pages=is_tiff and getattr(image, "is_animated", False),
        has_alpha=is_tiff and image.mode in _ALPHA_MODES,
    )


def _checked_header_of(image):
    header = _header_of(image)
    if image.mode == "F":
        check_file_range(np.asarray(image))
    return header


def _orientation(image):
    if image.format == "PNG" and not _ORIENTATION_KEYS & image.info.keys():
        return 1  # EXIF behind the pixel data is known only after decoding
    try:
        # The method of the base class, because that of PNG decodes the whole image first.
        orientation = Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1)
    except Exception:  # ignore EXIF data that cannot be read
        return 1
    return orientation if isinstance(orientation, int) else 1


def _decode(image, out, levels, resize, is_given):
    height, width, channels = out.shape
    header = _header_of(image)
    if not is_given:
        image.draft(None, (2 * width, 2 * height))  # JPEG: decode at a reduced size
        _load(image)
    transpose = _TRANSPOSE_BY_ORIENTATION.get(_orientation(image))
    if transpose is not None:
        image = image.transpose(transpose)
    if image.mode == "I" or image.mode.startswith("I;16"):
        header = header._replace(deep_high=int(np.asarray(image).max()))
    image = _convert(image, "L" if channels == 1 else "RGB", levels)
    image = (resize or Resize()).apply(image, (width, height))
    out[...] = np.asarray(image).reshape(out.shape)
    return header


def _load(image):
    try:
        image.load()
    except Exception:
        if image.format != "PNG" or image.tile:
            raise
        image.load()  # the error came after the pixel data; keep what was decoded


def _convert(image, mode, levels):
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _from_numbers(np.asarray(image), levels)
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif image.mode in _ALPHA_MODES or "transparency" in image.info:
        if image.mode == "La":  # Pillow does not convert La to RGBA directly
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _from_numbers(numbers, levels):
    """Make an 8-bit image of integers or floats; NaN is black, and infinity white."""
    if numbers.dtype.kind == "f":
        black_white = levels.of_file(np.nan_to_num(numbers, nan=0, posinf=0, neginf=0))
        numbers = np.nan_to_num(numbers, nan=0, posinf=np.inf, neginf=0)
    else:
        black_white = levels.of_file(numbers)
    return Image.fromarray(to_uint8(numbers[None], black_white)[0])


def _from_lab(image):
    from PIL import ImageCms  # some builds of Pillow lack it

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
