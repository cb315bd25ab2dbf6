"""What the numbers of images mean: learned in `fit`, required afterwards."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UNIT, BYTE = (0.0, 1.0), (0.0, 255.0)  # black and white of floats, and of integers
WHITE_16_BIT = 65535.0  # white in image files of integers with more than 8 bits
_TOLERANCE = 1e-6  # share of white that rounding may add
_CHUNK = 2**20  # numbers that are looked at or converted at a time
# Rows may come from a scaler that was fitted on other rows, so some of their values may lie
# outside: a share of them, or any of them as far as a part of the learned range.
_OUTSIDE_SHARE = 0.05
_OUTSIDE_RANGE = 0.75
# Remedies divide by constants: what depends on X would scale new images otherwise.
_DIVIDED = "X / white, with one number for all images, also new ones"
_SHIFTED = "(X - black) / (white - black), with two numbers for all images, also new ones"
_CLEARLY_NOT_UNIT = 16  # white, beside which numbers from 0 to 1 would all be black


@dataclass(frozen=True)
class Format:
    """Format of the samples, learned in `fit` and required afterwards.

    Parameters
    ----------
    shape : tuple of int
        Shape of one sample: ``(height, width, channels)`` or ``(n_features,)``.

    low : float, default=0.0
        Value of black.

    high : float, default=1.0
        Value of white. The pair 0.0 and 1.0 also stands for integers from 0 to 255.

    mean, scale : ndarray of shape (n_features,) or None, default=None
        What is subtracted from vectors, and what they are divided by then: mean and standard
        deviation of each column of a table; 0 and one scale for all columns of other vectors.

    numbers : {"integer", "float", "binary"}, default="integer"
        Numbers from which 0.0 and 1.0 were learned; "binary" if there was no gray.

    resize : bool, default=False
        Whether arrays are brought to the shape as files are, because `fit` read files.

    channels_first : bool, default=False
        Whether `fit` read an array of shape (n, channels, height, width), so that the order of
        the numbers in a row is unknown.

    is_table : bool, default=False
        Whether the columns of vectors are quantities of their own.
    """

    shape: tuple[int, ...]
    low: float = 0.0
    high: float = 1.0
    mean: np.ndarray | None = None
    scale: np.ndarray | None = None
    numbers: str = "integer"
    resize: bool = False
    channels_first: bool = False
    is_table: bool = False

    @property
    def is_image(self) -> bool:
        """Whether samples are images."""
        return len(self.shape) == 3

    @property
    def n_features(self) -> int:
        """Number of values per sample."""
        return int(np.prod(self.shape))


class Values(NamedTuple):
    """Summary of the numbers in an array of images.

    Parameters
    ----------
    kind : {"b", "i", "f"}
        Booleans, integers or floats.

    low, high : float
        Smallest and largest number.

    binary : bool
        Whether all numbers are 0 or one other number, which is 1 or 255.

    limit : float
        Largest number that the type of the array can hold.

    outside : float
        Share of the numbers outside the learned range.
    """

    kind: str
    low: float
    high: float
    binary: bool
    limit: float
    outside: float

    def __or__(self, other: "Values") -> "Values":
        """Summarize two arrays together."""
        same_white = self.high == other.high or 0 in (self.high, other.high)
        return Values(
            max(self.kind, other.kind, key="bif".index),
            min(self.low, other.low),
            max(self.high, other.high),
            self.binary and other.binary and same_white,
            max(self.limit, other.limit),
            max(self.outside, other.outside),
        )


class Levels:
    """Black and white of one X, which may be read in parts and by several threads.

    Parameters
    ----------
    fmt : Format
        Format that `fit` learned.

    from_rows : bool, default=False
        Whether images come as rows of a table.

    fitting : bool, default=False
        Whether `fmt` is being learned from float image files, so that nothing contradicts it.
    """

    def __init__(self, fmt: Format, from_rows: bool = False, fitting: bool = False):
        self._fmt, self._from_rows, self._fitting = fmt, from_rows, fitting
        self._values: dict[str, Values] = {}
        self._levels: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def of(self, images: np.ndarray) -> tuple[float, float]:
        """Compute black and white of the next part of X.

        Parameters
        ----------
        images : ndarray
            That part.

        Returns
        -------
        levels : tuple of (float, float)
            Values of black and white.

        Raises
        ------
        ValueError
            If the numbers contradict what was learned, or those of an earlier part.
        """
        values = summarize(images, self._fmt)
        _check_not_unit(self._fmt, values)
        return self._levels_of(values)

    def _levels_of(self, values):
        with self._lock:
            if values.kind in self._values:
                values |= self._values[values.kind]
            levels = known_levels(self._fmt, values, self._from_rows)
            before = self._levels.get(values.kind, levels)
            if before != levels:
                raise ValueError(
                    f"X holds values up to {values.high:g}, but also images with values up to "
                    f"{before[1]:g} only; wanted one scale for all images"
                )
            self._values[values.kind] = values
            if values.high > 0:  # black is black on any scale
                self._levels[values.kind] = levels
            return levels

    def of_file(self, numbers: np.ndarray) -> tuple[float, float]:
        """Compute black and white of an image file with more than 8 bits.

        Parameters
        ----------
        numbers : ndarray of shape (height, width)
            Numbers of that file.

        Returns
        -------
        levels : tuple of (float, float)
            Values of black and white.

        Raises
        ------
        ValueError
            If the numbers are out of range, or contradict what was learned.
        """
        fmt = self._fmt
        if (fmt.low, fmt.high) != UNIT and not fmt.resize:  # learned from arrays
            return self.of(numbers[None])
        check_file_range(numbers)
        if numbers.dtype.kind != "f":
            return 0.0, WHITE_16_BIT
        if self._fitting:
            return fmt.low, fmt.high
        return self._levels_of(summarize(numbers[None], fmt))


def summarize(images: np.ndarray, fmt: Format | None = None) -> Values:
    """Summarize the numbers of images.

    Parameters
    ----------
    images : ndarray
        Images, not empty. Bytes are looked at only until they show that they are no mask.

    fmt : Format, default=None
        Learned format, to count the numbers that lie outside its range.

    Returns
    -------
    values : Values
        Summary; `outside` is 0 without a format.
    """
    found = None
    for part in _parts(images):
        values = _summarize_part(part, found is None or found.binary)
        found = values if found is None else found | values
        if images.dtype == np.uint8 and not found.binary and found.high > 0:
            return found
    if fmt is None or found.kind == "b":
        return found
    low, high = fmt.low - _TOLERANCE, fmt.high + _TOLERANCE
    if found.low >= low and found.high <= high:
        return found
    outside = sum(np.count_nonzero((part < low) | (part > high)) for part in _parts(images))
    return found._replace(outside=outside / images.size)


def learned_levels(values: Values, from_rows: bool) -> dict[str, object]:
    """Learn in `fit` what the numbers of X mean.

    Parameters
    ----------
    values : Values
        Summary of X.

    from_rows : bool
        Whether images come as rows of a table, whose values may have any range.

    Returns
    -------
    fields : dict
        `low`, `high` and `numbers` of a `Format`.

    Raises
    ------
    ValueError
        If the numbers have no meaning as an image.
    """
    is_float = values.kind == "f"
    if values.kind == "b" or (values.binary and values.high in ((1,) if is_float else (1, 255))):
        return {"low": 0.0, "high": 1.0, "numbers": "binary"}
    numbers = "float" if is_float else "integer"
    if _is_within(values, UNIT if is_float else BYTE):
        return {"low": 0.0, "high": 1.0, "numbers": numbers}
    if from_rows:  # for example after a scaler in a pipeline
        constant = values.low == values.high
        high = values.low + max(1.0, abs(values.low)) if constant else values.high
        return {"low": values.low, "high": high, "numbers": numbers}
    got = f"got values from {values.low:g} to {values.high:g}"
    if is_float:
        raise ValueError(
            "floating-point images are assumed to lie in [0, 1], black to white; "
            f"{got}. {_float_hint(values)}"
        )
    raise ValueError(f"integer images must lie in [0, 255]; {got}. {_integer_hint(values)}")


def known_levels(fmt: Format, values: Values, from_rows: bool) -> tuple[float, float]:
    """Compute black and white of X from what `fit` has learned.

    Parameters
    ----------
    fmt : Format
        Format that `fit` learned.

    values : Values
        Summary of X.

    from_rows : bool
        Whether images come as rows of a table.

    Returns
    -------
    levels : tuple of (float, float)
        Values of black and white.

    Raises
    ------
    ValueError
        If the numbers contradict what was learned.
    """
    if (fmt.low, fmt.high) != UNIT:
        _check_learned_range(fmt, values)
        return fmt.low, fmt.high
    if values.kind == "b":
        return UNIT
    few_outside = from_rows and values.kind == "f" and values.outside <= _OUTSIDE_SHARE
    if fmt.numbers == "float" and few_outside:
        return UNIT
    if not _is_within(values, BYTE):
        both = fmt.numbers != "float" or values.kind == "i"
        wanted = "integers from 0 to 255 or floats from 0 to 1" if both else "floats from 0 to 1"
        raise ValueError(_contradiction(fmt, values, wanted))
    is_mask = values.binary and values.high == 1
    if values.kind == "i":
        if is_mask and fmt.numbers == "float":
            raise ValueError(_cannot_tell("integers", "floats from 0 to 1"))
        return UNIT if is_mask and fmt.numbers == "binary" else BYTE
    if _is_within(values, UNIT):
        if is_mask and fmt.numbers == "integer":
            raise ValueError(_cannot_tell("floats", "integers from 0 to 255"))
        return UNIT
    if fmt.numbers == "float":
        raise ValueError(_contradiction(fmt, values, "floats from 0 to 1"))
    return BYTE


def to_uint8(images: np.ndarray, levels: tuple[float, float]) -> np.ndarray:
    """Convert numbers to gray levels.

    Parameters
    ----------
    images : ndarray of shape (n, ...)
        Images.

    levels : tuple of (float, float)
        Values of black and white; what lies outside is cut.

    Returns
    -------
    pixels : ndarray of shape (n, ...) and dtype uint8
        `images` itself if nothing changes.
    """
    low, high = levels
    if images.dtype == np.uint8 and levels == BYTE:
        return images
    largest, span = max(abs(low), abs(high)), high / 2 - low / 2
    # Float32 is exact enough unless the range is narrow and far from 0, or huge.
    is_narrow = largest > 2**12 * span or largest > 1e30
    out = np.empty(images.shape, dtype=np.uint8)
    step = max(1, _CHUNK // int(np.prod(images.shape[1:])))
    for start in range(0, len(images), step):
        part = images[start : start + step]
        with np.errstate(over="ignore"):  # an infinite result is cut as any other
            if is_narrow:
                scaled = (part.astype(np.float64) / 2 - low / 2) / span * 255.0
            else:
                scaled = (part.astype(np.float32) - low) * (255.0 / (high - low))
        out[start : start + step] = np.clip(np.rint(scaled), 0, 255)
    return out


# -- float image files ----------------------------------------------------------------------


def learned_file_levels(high: float | None) -> dict[str, object]:
    """Learn in `fit` what the numbers of float image files mean: one scale for all of them.

    Parameters
    ----------
    high : float or None
        Largest number of all these files, less than 510; None if there are none.

    Returns
    -------
    fields : dict
        `low`, `high` and `numbers` of a `Format`. White is 1 or 255; it is `high` if that is
        larger by less than a factor of two.
    """
    if high is None:
        return {"low": 0.0, "high": 1.0, "numbers": "integer"}
    white = UNIT[1] if high < 2 * UNIT[1] else BYTE[1]
    white = white if high <= white * (1 + _TOLERANCE) else high
    return {"low": 0.0, "high": white, "numbers": "float"}


def check_file_range(numbers: np.ndarray) -> None:
    """Check the numbers of one image file with more than 8 bits.

    Parameters
    ----------
    numbers : ndarray of shape (height, width)
        Numbers of that file.

    Raises
    ------
    ValueError
        If a number is negative, a float of 510 or more, or an integer above 65535.
    """
    low, high = finite_range(numbers)
    is_float = numbers.dtype.kind == "f"
    is_too_high = high >= 2 * BYTE[1] if is_float else high > WHITE_16_BIT
    if low < -_TOLERANCE or is_too_high:
        wanted = "[0, 1] or [0, 255]" if is_float else "[0, 65535]"
        raise ValueError(
            f"it holds values from {low:g} to {high:g}; wanted {wanted}. Rescale such images and "
            "give them as arrays"
        )


def finite_range(numbers: np.ndarray) -> tuple[float, float]:
    """Compute the range of the finite numbers of an array.

    Parameters
    ----------
    numbers : ndarray
        Array of integers or floats.

    Returns
    -------
    limits : tuple of (float, float)
        Smallest and largest finite number; 0.0 and 0.0 if there is none.
    """
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return 0.0, 0.0
    return float(finite.min()) + 0.0, float(finite.max()) + 0.0  # no -0.0


# -- inside ---------------------------------------------------------------------------------


def _parts(images: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), step):
        yield images[start : start + step]


def _summarize_part(part, may_be_binary):
    kind = part.dtype.kind if part.dtype.kind in "bf" else "i"
    low, high = float(part.min()) + 0.0, float(part.max()) + 0.0  # no -0.0
    if kind == "b":
        return Values(kind, low, high, True, 1.0, 0.0)
    binary = may_be_binary and low >= 0 and high in (0, 1, 255)
    binary = binary and bool(((part == 0) | (part == high)).all())
    limits = np.iinfo if kind == "i" else np.finfo
    return Values(kind, low, high, binary, float(limits(part.dtype).max), 0.0)


def _is_within(values, levels):
    low, high = levels
    return values.low >= low - _TOLERANCE * high and values.high <= high * (1 + _TOLERANCE)


def _check_learned_range(fmt, values):
    """Raise an error if numbers cannot be on a scale that was learned from the data."""
    slack = _OUTSIDE_RANGE * (fmt.high - fmt.low)
    is_far = values.low < fmt.low - slack or values.high > fmt.high + slack
    is_other = is_far and values.outside > _OUTSIDE_SHARE
    if is_other or values.limit < fmt.high / 2:
        raise ValueError(_contradiction(fmt, values, f"numbers from {fmt.low:g} to {fmt.high:g}"))


def _check_not_unit(fmt, values):
    """Raise an error for numbers from 0 to 1 where much larger ones were learned."""
    if fmt.low >= 0 and fmt.high >= _CLEARLY_NOT_UNIT and 0 < values.high <= 1:
        raise ValueError(_contradiction(fmt, values, f"numbers from {fmt.low:g} to {fmt.high:g}"))


def _contradiction(fmt, values, wanted):
    kind = {"b": "booleans", "i": "integers", "f": "floats"}[values.kind]
    hint = ""
    if (fmt.low, fmt.high) == UNIT and values.kind == "f":
        if _is_near_unit(values):
            hint = ": np.clip(X, 0, 1)"
        elif values.low >= 0 and values.high <= 255:
            hint = ", for example X / 255"
    return (
        f"X holds {kind} from {values.low:g} to {values.high:g}, but the estimator was fitted on "
        f"{wanted}. Scale X as the images of fit{hint}"
    )


def _cannot_tell(got, learned):
    return (
        f"X holds only the {got} 0 and 1, but the estimator was fitted on {learned}: cannot tell "
        "what is white. Give X.astype(bool) if 1 is white, X / 255 if 255 is white"
    )


def _is_near_unit(values):
    return values.low >= -0.1 and values.high <= 1.1


def _float_hint(values):
    """Return a line of code that brings floats into [0, 1]."""
    if _is_near_unit(values) or values.low == values.high < 0:
        return "Cut them, np.clip(X, 0, 1), or give uint8 images."
    if values.low < 0:
        rescaled = "(X + 1) / 2" if values.low >= -1 and values.high <= 1 else _SHIFTED
        return f"Rescale them, {rescaled}, leave out Normalize, or give uint8 images."
    return f"Rescale them, {_divided(values, (255, 65535))}, or give uint8 images."


def _integer_hint(values):
    """Return a line of code that brings integers into [0, 1]."""
    if values.low < 0:
        if values.low == values.high:
            return "Cut them, X.clip(0, 255)."
        return f"Rescale them, {_SHIFTED}."
    return f"Rescale them, {_divided(values, (4095, 65535))}."


def _divided(values, whites):
    """Return a division by one of these constants if X needs most of its range, else by its own."""
    white = next((top for top in whites if top / 2 < values.high <= top), None)
    return f"for example X / {white}" if white else _DIVIDED
