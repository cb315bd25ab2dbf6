"""One image file, or PIL image, made into pixels of a given shape.

Every rule about kinds of images is here; docs/images.md has them as a table. This file knows no
sets of images, caches or batches.
"""

import contextlib
import functools
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image, ImageFile, ImageOps

from skcc.exceptions import ImageReadError

# Recognised by Pillow, but not decoded by it alone: EPS and WMF call other programs of the system.
NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}
_FIRST = {"BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"}  # tried first, being the most frequent
if int(PIL.__version__.split(".")[0]) < 13:
    # Older ones read for ever where a DDS file ends early, and inflate FITS files without a limit.
    NOT_DECODED |= {"DDS", "FITS"}
_RULES = 1  # to be raised when the same file would give other pixels
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF
_ORIENTED = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # what may turn a PNG
_TURNS = {
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
_given_images = threading.Lock()  # Pillow loads pixels and EXIF of an image when first asked


def first_failure(failures: Mapping[int, ImageReadError]) -> ImageReadError:
    """The error to end with where images cannot be read, with a note on how not to.

    Parameters
    ----------
    failures : dict of int to ImageReadError
        By index; not empty.

    Returns
    -------
    error : ImageReadError
        The first, to be raised.
    """
    error = failures[min(failures)]
    error.add_note('on_error="warn", or --on-error warn, goes on without such images')
    return error


def none_could_be_read(reasons: Mapping[int, str]) -> ImageReadError:
    """The error for a set of images without a good one.

    Parameters
    ----------
    reasons : dict of int to str
        Why, by index.

    Returns
    -------
    error : ImageReadError
        To be raised.
    """
    first = reasons[min(reasons)]
    return ImageReadError(f"none of the {len(reasons)} images of X could be read; first: {first}")


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Parameters
    ----------
    size : tuple of (int, int)
        Width and height when upright.

    colour : bool
        Whether its mode can hold colour.
    """

    size: tuple[int, int]
    colour: bool


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are decoded, in the order in which they are tried.

    Returns
    -------
    names : tuple of str
        All that this Pillow decodes by itself.
    """
    Image.init()
    names = sorted(Image.ID, key=lambda name: name not in _FIRST)  # else as Pillow has them
    return tuple(name for name in names if name not in NOT_DECODED)


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes of the files that are taken for images.

    Returns
    -------
    suffixes : frozenset of str
        In lower case, with the dot: those that Pillow registers for the formats that it decodes.
    """
    known = {*formats(), "MPO"}  # which is a JPEG until it has been opened
    return frozenset(s for s, name in Image.registered_extensions().items() if name in known)


def version() -> str:
    """What the pixels of a file depend on, beside the file and the shape.

    Returns
    -------
    version : str
        Of our rules and of Pillow, and the settings of Pillow that decide what is refused.
    """
    settings = f"{Image.MAX_IMAGE_PIXELS} {ImageFile.LOAD_TRUNCATED_IMAGES}"
    return f"{_RULES} {PIL.__version__} {settings}"


def is_image(path) -> bool:
    """Whether Pillow recognises a file by its first bytes.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    answer : bool
        False also where it cannot be opened.
    """
    try:
        with Image.open(path, formats=formats()):
            return True
    except Exception:  # as in `_read`
        return False


def header(source) -> Header:
    """Look at an image without decoding it.

    Parameters
    ----------
    source : str, Path or PIL.Image.Image
        The image.

    Returns
    -------
    header : Header
        Its size and whether there is colour.

    Raises
    ------
    ImageReadError
        If it is missing, no image, or has more pixels than Pillow finds safe.
    """
    return _read(source, _header_of)


def decode(source, out: np.ndarray) -> Header:
    """Decode, turn upright, lay on white, convert, and fit one image into an array.

    Parameters
    ----------
    source : str, Path or PIL.Image.Image
        The image; never changed.

    out : ndarray of shape (height, width, channels) and dtype uint8
        Written; 1 channel is gray, 3 are RGB.

    Returns
    -------
    header : Header
        As `header` gives it.

    Raises
    ------
    ImageReadError
        If it is missing, cannot be decoded, or has more pixels than Pillow finds safe.
    """
    return _read(source, lambda image: _decode(image, out, is_given=image is source))


class _Quiet:
    """No warnings of Pillow while any thread is in here.

    They tell of odd files, one by one; and where a user makes warnings errors, they would decide
    which files can be read. Filters are of the process, hence the count.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.__exit__(*error)


quiet = _Quiet()


@contextlib.contextmanager
def _opened(source) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        with _given_images:
            source.load()
            _orientation(source)  # which the image keeps from now on
        yield source
        return
    if not isinstance(source, (str, Path)):
        kind = type(source).__name__
        raise TypeError(f"it is of type {kind}, neither a path nor a PIL image")
    if not os.path.isfile(source) and os.path.exists(source):
        raise OSError("it is no regular file")  # reading from a pipe would wait for ever
    with Image.open(source, formats=formats()) as image:
        yield image


def _read(source, work):
    """`work` of the opened image; whatever fails names the source."""
    try:
        with _opened(source) as image:
            _check_safe_size(image)
            return work(image)
    except FileNotFoundError as error:
        raise ImageReadError(f"no such file: {_name(source)}") from error
    except Exception as error:  # Pillow's plugins raise whatever broken bytes led them to
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"cannot read {_name(source)} as an image: {reason}") from error


def _name(source):
    if isinstance(source, Image.Image):
        return getattr(source, "filename", "") or repr(source)
    return str(source)


def _check_safe_size(image):
    width, height = image.size
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise Image.DecompressionBombError(
            f"it has {width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {limit}"
        )


def _header_of(image):
    sideways = _orientation(image) in _SIDEWAYS
    if sideways and image.format == "TIFF":
        image.load()  # newer releases of Pillow turn TIFF files themselves, then or before
        sideways = _orientation(image) in _SIDEWAYS
    size = image.size[::-1] if sideways else image.size
    return Header(size, image.mode not in _GRAY_MODES and not image.mode.startswith("I;16"))


def _orientation(image):
    if image.format == "PNG" and not _ORIENTED & image.info.keys():
        return 1  # so far: EXIF may also stand behind the pixels
    try:
        # As every class of images inherits it: PNG's own one decodes the whole image first.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # EXIF that cannot be read turns nothing
        return 1
    return orientation if isinstance(orientation, int) else 1


def _decode(image, out, is_given):
    height, width, channels = out.shape
    header = _header_of(image)
    if not is_given:
        image.draft(None, (2 * width, 2 * height))  # a JPEG decodes to half size in no time
        _load(image)
    turn = _TURNS.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    image = _convert(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    out[...] = np.asarray(image).reshape(out.shape)
    return header


def _load(image):
    try:
        image.load()
    except Exception:  # as in `_read`
        if image.format != "PNG" or image.tile:
            raise
        image.load()  # the pixel data came to their end; what failed was noticed after them


def _convert(image, mode):
    if image.mode.startswith("I;16") or image.mode == "I":
        image = _levels(np.asarray(image).astype(np.float32) / 257)  # 16 bits to 8
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image), nan=0, posinf=np.inf, neginf=0)
        image = _levels(values * (255 if values.max(initial=0) <= 1 else 1))
    elif image.mode == "LAB":
        image = _from_lab(image)
    elif image.mode in _ALPHA_MODES or "transparency" in image.info:
        if image.mode == "La":  # Pillow goes no further in one step
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _levels(values):
    return Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))


def _from_lab(image):
    from PIL import ImageCms  # here, for builds of Pillow without it

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
