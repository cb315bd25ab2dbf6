"""Decode many files or PIL images in threads, and find the shape that they share."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from skcc import distributed
from skcc.data import cache, decoding
from skcc.data.sources import FileIdentity, identity
from skcc.data.stores import Reader
from skcc.exceptions import ImageReadError

_GUESS_SAMPLE = 64  # headers from which a shape is guessed
_MAX_CHUNK = 64  # images per task of a thread


class Decoder(Reader):
    """Decode paths and PIL images in threads.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        Images to decode.

    n_jobs : int or None
        Number of threads; None means 1 and -1 means all cores.
    """

    def __init__(self, sources: Sequence, n_jobs: int | None):
        self._sources, self._n_jobs = sources, n_jobs
        self._headers: list[decoding.Header] = []

    def __len__(self) -> int:
        return len(self._sources)

    def identity(self) -> FileIdentity | None:
        return identity(self._sources)

    def read_into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        def decode(row):
            source = _item(self._sources, index[row])
            try:
                self._headers.append(decoding.decode(source, out[row]))
            except ImageReadError:
                with contextlib.suppress(ImageReadError):
                    self._headers.append(decoding.header(source))
                raise

        _, failures = _map_in_threads(decode, range(len(index)), self._n_jobs)
        return {index[row]: error for row, error in failures.items()}

    def shape(self, side: Callable[[int], int]) -> tuple[int, int, int]:
        """Compute the same as `common_shape`, after all images have been decoded.

        Parameters
        ----------
        side : callable
            From the median short side to the side at which images are stored, in pixels.

        Returns
        -------
        shape : tuple of (int, int, int)
            Height, width and channels.
        """
        return _stored_shape(_summarize(_gather_headers(self._headers), 0), side)


def common_shape(
    sources: Sequence,
    side: Callable[[int], int],
    *,
    n_jobs: int | None,
    cache_dir: str | Path | None,
    on_error: str,
) -> tuple[int, int, int]:
    """Compute the shape to which images are resized, from their headers.

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
    shape : tuple of (int, int, int)
        Height, width and channels.

    Raises
    ------
    ImageReadError
        If an image cannot be read and `on_error` is "raise", or if none can.
    """
    files = None if cache_dir is None else identity(sources)
    path = files and Path(cache_dir) / f"{files.paths}.json"
    key = files and f"{decoding.version()} {files.state}"
    note = distributed.compute_on_rank_zero(lambda: files and cache.load_note(path, key))
    if not _is_note(note):
        note = _read_headers(sources, n_jobs, on_error)
        if files and distributed.is_rank_zero() and identity(sources) == files:
            with contextlib.suppress(OSError):  # optional; writing the pixels reports the error
                cache.save_note(path, key, note)
    elif note["failed"] and on_error == "raise":
        _read_headers(sources, n_jobs, on_error)  # raises the error
    return _stored_shape(note, side)


def guessed_shape(
    sources: Sequence, side: Callable[[int], int], *, n_jobs: int | None
) -> tuple[int, int, int] | None:
    """Guess the result of `common_shape` from the headers of a few images.

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
    shape : tuple of (int, int, int) or None
        Height, width and channels. None if there are few images, or if their sizes differ such
        that the median is uncertain.
    """
    if len(sources) < 4 * _GUESS_SAMPLE:
        return None
    return distributed.compute_on_rank_zero(lambda: _guess(sources, side, n_jobs))


def _guess(sources, side, n_jobs):
    index = np.linspace(0, len(sources) - 1, _GUESS_SAMPLE).astype(int).tolist()
    headers, failures = _map_in_threads(lambda i: decoding.header(_item(sources, i)), index, n_jobs)
    if failures:
        return None
    note = _summarize(headers, 0)
    if note["size"] is None and side(note["short"]) >= note["short"]:
        return None
    return _stored_shape(note, side)


# -- headers --------------------------------------------------------------------------------


def _read_headers(sources, n_jobs, on_error):
    """Read the headers of all images, a part on each rank; return their summary."""
    with distributed.raise_on_all_ranks():
        headers, failures = _map_in_threads(
            lambda i: decoding.header(_item(sources, i)),
            distributed.rank_slice(len(sources)),
            n_jobs,
        )
    headers = _gather_headers(headers)
    reasons = distributed.merge_dicts({i: str(error) for i, error in failures.items()})
    if reasons and on_error == "raise":
        raise decoding.first_failure({i: ImageReadError(why) for i, why in reasons.items()})
    if not headers:
        raise decoding.none_could_be_read(reasons)
    return _summarize(headers, len(reasons))


def _gather_headers(headers):
    """Concatenate the headers of all ranks."""
    if distributed.world_size() == 1:
        return headers
    pairs = distributed.all_gather_object([(header.size, header.colour) for header in headers])
    return [decoding.Header(tuple(size), colour) for some in pairs for size, colour in some]


def _summarize(headers, failed):
    """Return the median short side, the common size if any, the channels and the failures."""
    sizes = {header.size for header in headers}
    return {
        "short": int(np.median([min(header.size) for header in headers])),
        "size": list(sizes.pop()) if len(sizes) == 1 else None,
        "channels": 3 if any(header.colour for header in headers) else 1,
        "failed": failed,
    }


def _is_note(note):
    """Check whether the content of a file can be the result of `_summarize`."""
    if not note or note.keys() != {"short", "size", "channels", "failed"}:
        return False
    size = note["size"] or [1, 1]
    if not isinstance(size, list) or len(size) != 2 or note["channels"] not in (1, 3):
        return False
    minima = (note["failed"], 0), (note["short"], 1), (size[0], 1), (size[1], 1)
    return all(type(number) is int and number >= minimum for number, minimum in minima)


def _stored_shape(note, side):
    short = note["short"]
    stored = max(1, min(short, side(short)))
    if note["size"] is None:
        return stored, stored, note["channels"]
    width, height = note["size"]
    factor = min(1, stored / min(width, height))
    return max(1, round(height * factor)), max(1, round(width * factor)), note["channels"]


# -- threads --------------------------------------------------------------------------------


def _item(sources, i):
    """Return a source; errors of a user's data set become an ImageReadError."""
    try:
        return sources[i]
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"item {i} of X cannot be read: {reason}") from error


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
