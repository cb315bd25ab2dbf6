"""Decode many files or PIL images in threads, and find the shape that they share."""

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from skcc import distributed
from skcc.data import cache, decoding
from skcc.data.formats import UNIT, WHITE_16_BIT, Format, Levels, learned_file_levels
from skcc.data.items import is_missing, missing_reason
from skcc.data.sources import DatasetImages, FileIdentity, identity
from skcc.data.stores import Reader
from skcc.exceptions import ImageReadError, ImageReadWarning, warn

_GUESS_SAMPLE = 64  # headers from which a format is guessed
_DARK_SHARE = 0.25  # of white; images of 16 bits that are all darker keep few gray levels
_MAX_CHUNK = 64  # images per task of a thread


class Decoder(Reader):
    """Decode paths and PIL images in threads.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to decode.

    n_jobs : int or None
        Number of threads; None means 1 and -1 means all cores.

    fmt : Format
        Format of the samples.

    fitting : bool, default=False
        Whether the format was learned from these images.

    resize : decoding.Resize, default=None
        How images are brought to the shape of the format; None stands for ``Resize()``.
    """

    def __init__(
        self,
        sources: Sequence,
        n_jobs: int | None,
        fmt: Format,
        fitting: bool = False,
        resize: decoding.Resize | None = None,
    ):
        self._sources, self._n_jobs, self._resize = sources, n_jobs, resize
        self._fmt, self._levels = fmt, Levels(fmt, fitting=fitting)
        self._headers: list[decoding.Header] = []

    def __len__(self) -> int:
        return len(self._sources)

    def identity(self) -> FileIdentity | None:
        files = identity(self._sources)
        if files is None or (self._fmt.low, self._fmt.high) == UNIT:
            return files
        scale = f"{self._fmt.low!r} {self._fmt.high!r}"  # the pixels depend on it
        return files._replace(state=f"{files.state} {scale}")

    def read_into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        def decode(source, row):
            try:
                self._headers.append(decoding.decode(source, out[row], self._levels, self._resize))
            except ImageReadError:
                with contextlib.suppress(ImageReadError):
                    self._headers.append(decoding.header(source))
                raise

        def decode_row(row):
            _apply_to_item(self._sources, index[row], lambda source: decode(source, row))

        _, failures = _map_in_threads(decode_row, range(len(index)), self._n_jobs)
        return {index[row]: error for row, error in failures.items()}

    def format(self, side: Callable[[int], int]) -> Format:
        """Compute the same as `common_format`, after all images have been decoded.

        Parameters
        ----------
        side : callable
            From the median short side to the side at which images are stored, in pixels.

        Returns
        -------
        fmt : Format
            Shape of the samples, and black and white of images of floats.
        """
        return _format_of(_summarize(_gather_headers(self._headers)), side)

    def warn_of_losses(self, only_dark: bool) -> None:
        """Warn of what was lost when images were decoded.

        Parameters
        ----------
        only_dark : bool
            Whether `common_format` has warned of what headers show.
        """
        headers = _gather_headers(self._headers)
        if only_dark:
            headers = [h._replace(has_pages=False, has_alpha=False) for h in headers]
        _warn_of_losses(headers)


def common_format(
    sources: Sequence,
    side: Callable[[int], int],
    *,
    n_jobs: int | None,
    cache_dir: str | Path | None,
    on_error: str,
) -> Format:
    """Compute the format to which images are brought, from their headers.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to look at.

    side : callable
        From the median short side to the side at which images are stored, in pixels.

    n_jobs : int or None
        Number of threads.

    cache_dir : str, Path or None
        Folder in which a summary of the headers is kept.

    on_error : {"raise", "warn"}
        Whether an image that cannot be read is an error or is skipped.

    Returns
    -------
    fmt : Format
        Shape of the samples, and black and white of images of floats.

    Raises
    ------
    ImageReadError
        If an image cannot be read and `on_error` is "raise", or if none can.
    """
    files = None if cache_dir is None else identity(sources)
    path = files and Path(cache_dir) / f"{files.paths}.json"
    key = files and f"{decoding.version()} {files.state}"
    note = distributed.compute_on_rank_zero(lambda: files and cache.load_note(path, key))
    if not _is_note(note, len(sources)) or distributed.any_rank(
        any(_can_be_read(sources, i) for i in note["failed"])
    ):
        note = _read_headers(sources, n_jobs, on_error)
        if files and distributed.is_rank_zero() and identity(sources) == files:
            with contextlib.suppress(OSError):  # optional; writing the pixels reports the error
                cache.save_note(path, key, note)
    elif note["failed"] and on_error == "raise":
        _read_headers(sources, n_jobs, on_error)  # raises the error
    return _format_of(note, side)


def sampled(sources: Sequence) -> Sequence:
    """Replace a data set by a few of its images, for functions that look at headers only.

    A data set decodes an image to give it, so that its headers cost as much as its pixels.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images.

    Returns
    -------
    sources : sequence
        The same, unless it is a data set.
    """
    if not isinstance(sources, DatasetImages):
        return sources
    index = np.unique(np.linspace(0, len(sources) - 1, _GUESS_SAMPLE).astype(int))
    return [sources[i] for i in index.tolist()]


def guessed_format(
    sources: Sequence, side: Callable[[int], int], *, n_jobs: int | None
) -> Format | None:
    """Guess the result of `common_format` from the headers of a few images.

    Opening a small file takes half as long as decoding it. If the guess is correct, each file is
    opened only once.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images of which a few are looked at.

    side : callable
        From the median short side to the side at which images are stored, in pixels.

    n_jobs : int or None
        Number of threads.

    Returns
    -------
    fmt : Format or None
        Format of the samples. None if there are few images, if their sizes differ such that the
        median is uncertain, or if they are floats, of which a few do not tell the range.
    """
    if len(sources) < 4 * _GUESS_SAMPLE:
        return None
    return distributed.compute_on_rank_zero(lambda: _guess(sources, side, n_jobs))


def _guess(sources, side, n_jobs):
    index = np.linspace(0, len(sources) - 1, _GUESS_SAMPLE).astype(int).tolist()
    headers, failures = _map_in_threads(lambda i: _header(sources, i), index, n_jobs)
    if failures:
        return None
    note = _summarize(headers)
    if note["size"] is None and side(note["short"]) >= note["short"]:
        return None
    return None if note["high"] is not None else _format_of(note, side)


def check_present(sources: Sequence) -> None:
    """Raise an error for the first path that is missing, before anything is decoded.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to look at.

    Raises
    ------
    ImageReadError
        If an item is missing, or if a path is no file.
    """
    if isinstance(sources, DatasetImages):
        return
    for i, source in enumerate(sources):
        if is_missing(source):
            raise decoding.first_failure({i: ImageReadError(missing_reason(i, source))})
        if isinstance(source, (str, Path)) and not os.path.isfile(source):
            _apply_to_item([source], 0, decoding.header)


# -- headers --------------------------------------------------------------------------------


def _read_headers(sources, n_jobs, on_error):
    """Read the headers of all images, a part on each rank; return their summary."""
    with distributed.raise_on_all_ranks():
        headers, failures = _map_in_threads(
            lambda i: _header(sources, i), distributed.rank_slice(len(sources)), n_jobs
        )
    headers = _gather_headers(headers)
    _warn_of_losses(headers)
    reasons = distributed.merge_dicts({i: str(error) for i, error in failures.items()})
    if reasons and on_error == "raise":
        raise decoding.first_failure({i: ImageReadError(why) for i, why in reasons.items()})
    if not headers:
        raise decoding.none_could_be_read(reasons)
    return _summarize(headers, sorted(reasons))


def _gather_headers(headers):
    """Concatenate the headers of all ranks."""
    if distributed.world_size() == 1:
        return headers
    gathered = distributed.all_gather_object([tuple(header) for header in headers])
    return [decoding.Header(*header) for some in gathered for header in some]


def _warn_of_losses(headers):
    """Warn of pages, channels and gray levels that files hold and images do not."""
    n_pages, n_alpha = sum(h.has_pages for h in headers), sum(h.has_alpha for h in headers)
    deep = [h.deep_high for h in headers if h.deep_high is not None]
    lost = []
    if n_pages:
        lost.append(
            f"{n_pages} TIFF file(s) of several pages: only the first page is read. If pages are "
            "channels, give arrays (n, height, width, channels)"
        )
    if n_alpha:
        lost.append(
            f"{n_alpha} TIFF file(s) whose fourth channel is read as transparency, on white. If it "
            "is a channel like the others, give arrays"
        )
    if deep and 0 < max(deep) < _DARK_SHARE * WHITE_16_BIT:
        lost.append(
            f"{len(deep)} file(s) of 16 bits with values up to {max(deep)} of {WHITE_16_BIT:.0f}: "
            "they are dark. Give arrays, scaled by one number for all images, as X / 4095 is"
        )
    if lost and distributed.is_rank_zero():
        warn("X holds " + "; ".join(lost), ImageReadWarning)


def _summarize(headers, failed=()):
    """Return short side, common size if any, channels, largest float if any and what failed."""
    sizes = {tuple(header.size) for header in headers}
    return {
        "short": int(np.median([min(header.size) for header in headers])),
        "size": list(sizes.pop()) if len(sizes) == 1 else None,
        "channels": 3 if any(header.colour for header in headers) else 1,
        "high": max((h.high for h in headers if h.high is not None), default=None),
        "failed": list(failed),
    }


def _is_note(note, n):
    """Check whether the content of a file can be the result of `_summarize` for n images."""
    if not note or note.keys() != {"short", "size", "channels", "high", "failed"}:
        return False
    size = note["size"] or [1, 1]
    if not isinstance(size, list) or len(size) != 2 or note["channels"] not in (1, 3):
        return False
    if not all(type(number) is int and number >= 1 for number in (note["short"], *size)):
        return False
    if not isinstance(note["high"], (float, type(None))):
        return False
    failed = note["failed"]
    return isinstance(failed, list) and all(type(i) is int and 0 <= i < n for i in failed)


def _format_of(note, side):
    return Format(_stored_shape(note, side), **learned_file_levels(note["high"]), resize=True)


def _stored_shape(note, side):
    short = note["short"]
    stored = max(1, min(short, side(short)))
    if note["size"] is None:
        return stored, stored, note["channels"]
    width, height = note["size"]
    factor = min(1, stored / min(width, height))
    return max(1, round(height * factor)), max(1, round(width * factor)), note["channels"]


def _header(sources, i):
    return _apply_to_item(sources, i, decoding.header)


def _can_be_read(sources, i):
    try:
        _header(sources, i)
    except ImageReadError:
        return False
    return True


# -- threads --------------------------------------------------------------------------------


def _apply_to_item(sources, i, function):
    """Call a function of a source; errors are ImageReadErrors that name the item."""
    try:
        source = sources[i]
    except Exception as error:  # of a user's data set
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"item {i} of X cannot be read: {reason}") from error
    if is_missing(source):
        raise ImageReadError(missing_reason(i, source))
    try:
        return function(source)
    except ImageReadError as error:
        if isinstance(source, (str, Path)):  # the message names it
            raise
        raise ImageReadError(f"item {i} of X: {error}") from error


def _map_in_threads(function, index, n_jobs):
    """Return the results of a function, and its ImageReadErrors by index."""
    decoding.formats()  # initialise Pillow before the threads start
    threads = effective_n_jobs(n_jobs)
    size = max(1, min(_MAX_CHUNK, len(index) // (16 * threads)))
    chunks = [index[start : start + size] for start in range(0, len(index), size)]

    def map_chunk(chunk):
        results, failures = [], {}
        for i in chunk:
            try:
                results.append(function(i))
            except ImageReadError as error:
                failures[i] = ImageReadError(str(error))  # its traceback would keep images alive
        return results, failures

    with decoding.ignore_pillow_warnings:
        if threads == 1:
            outputs = [map_chunk(chunk) for chunk in chunks]
        else:
            with ThreadPoolExecutor(threads) as pool:
                outputs = list(pool.map(map_chunk, chunks))
    failures = {i: error for _, some in outputs for i, error in some.items()}
    return [result for results, _ in outputs for result in results], failures
