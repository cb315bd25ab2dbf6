"""Many files or PIL images: the shape that they share, and their decoding in threads."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from joblib import effective_n_jobs

from skcc import distributed
from skcc.data import cache, decoding
from skcc.data.sources import identity
from skcc.exceptions import ImageReadError

_SAMPLE = 64  # headers that a guess is made from
_TOGETHER = 64  # most images that a thread takes at a time


class Decoder:
    """Decodes paths and PIL images in threads; what `skcc.stores.SourceStore` reads from.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        The images.

    n_jobs : int or None
        Threads.
    """

    def __init__(self, sources, n_jobs):
        self._sources, self._n_jobs = sources, n_jobs
        self._headers: list[decoding.Header] = []

    def __len__(self) -> int:
        return len(self._sources)

    def identity(self) -> tuple[str, str] | None:
        """As `skcc.sources.identity`.

        Returns
        -------
        identity : tuple of (str, str) or None
            Of these images.
        """
        return identity(self._sources)

    def into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        """Decode some of them.

        Parameters
        ----------
        index : sequence of int
            Which.

        out : ndarray of shape (len(index), height, width, channels) and dtype uint8
            Written.

        Returns
        -------
        failures : dict of int to ImageReadError
            By index.
        """

        def one(at):
            source = _source(self._sources, index[at])
            try:
                self._headers.append(decoding.decode(source, out[at]))
            except ImageReadError:
                with contextlib.suppress(ImageReadError):
                    self._headers.append(decoding.header(source))
                raise

        _, failures = _in_threads(one, range(len(index)), self._n_jobs)
        return {index[at]: error for at, error in failures.items()}

    def shape(self, side: Callable[[int], int]) -> tuple[int, int, int]:
        """What `common_shape` says, once all images have been decoded.

        Parameters
        ----------
        side : callable
            From the median short side to the side at which they are stored.

        Returns
        -------
        shape : tuple of (int, int, int)
            Height, width and channels.
        """
        return _shape(_summary(_of_all(self._headers), 0), side)


def _source(sources, i):
    """One of them; what fails is the user's code, if they are a data set."""
    try:
        return sources[i]
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ImageReadError(f"item {i} of X cannot be read: {reason}") from error


def _in_threads(function, index, n_jobs):
    """Results of a function that may raise ImageReadError, and failures by index."""
    decoding.formats()  # loaded before threads ask for them
    threads = effective_n_jobs(n_jobs)
    size = max(1, min(_TOGETHER, len(index) // (16 * threads)))
    pieces = [index[start : start + size] for start in range(0, len(index), size)]

    def work(piece):
        results, failures = [], {}
        for i in piece:
            try:
                results.append(function(i))
            except ImageReadError as error:
                failures[i] = ImageReadError(str(error))  # without frames, which hold images
        return results, failures

    with decoding.quiet:
        if threads == 1:
            done = [work(piece) for piece in pieces]
        else:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(work, pieces))
    failures = {i: error for _, some in done for i, error in some.items()}
    return [result for results, _ in done for result in results], failures


def common_shape(
    sources: Sequence,
    side: Callable[[int], int],
    *,
    n_jobs: int | None,
    cache_dir: str | Path | None,
    on_error: str,
) -> tuple[int, int, int]:
    """The shape to which images are brought; what their headers say is kept in the cache.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        The images.

    side : callable
        From the median short side to the side at which they are stored.

    n_jobs : int or None
        Threads.

    cache_dir : str, Path or None
        Folder of decoded images.

    on_error : {"raise", "warn"}
        Whether an image that cannot be read is an error, or is passed over.

    Returns
    -------
    shape : tuple of (int, int, int)
        Height, width and channels.

    Raises
    ------
    ImageReadError
        If one cannot be read and that is not allowed, or if none can.
    """
    names = None if cache_dir is None else identity(sources)
    path = names and Path(cache_dir) / f"{names[0]}.json"
    key = names and f"{decoding.version()} {names[1]}"
    note = distributed.compute_on_rank_zero(lambda: names and cache.load_note(path, key))
    if not _is_note(note):
        note = _survey(sources, n_jobs, on_error)
        if names and distributed.is_rank_zero() and identity(sources) == names:
            with contextlib.suppress(OSError):  # it saves time only; pixels that follow will tell
                cache.save_note(path, key, note)
    elif note["failed"] and on_error == "raise":
        _survey(sources, n_jobs, on_error)  # for its error
    return _shape(note, side)


def guessed_shape(
    sources: Sequence, side: Callable[[int], int], *, n_jobs: int | None
) -> tuple[int, int, int] | None:
    """What `common_shape` is likely to say, from a few headers.

    Opening a small file costs half as much as decoding it; so where a guess is good, files are
    decoded at once.

    Parameters
    ----------
    sources : sequence of str, Path or PIL.Image.Image
        The images.

    side : callable
        From the median short side to the side at which they are stored.

    n_jobs : int or None
        Threads.

    Returns
    -------
    shape : tuple of (int, int, int) or None
        Height, width and channels. None if there are few images, or if they differ so that others
        may shift the median.
    """
    if len(sources) < 4 * _SAMPLE:
        return None
    return distributed.compute_on_rank_zero(lambda: _guess(sources, side, n_jobs))


def _guess(sources, side, n_jobs):
    index = np.linspace(0, len(sources) - 1, _SAMPLE).astype(int).tolist()
    headers, failures = _in_threads(lambda i: decoding.header(_source(sources, i)), index, n_jobs)
    if failures:
        return None
    note = _summary(headers, 0)
    if note["size"] is None and side(note["short"]) >= note["short"]:
        return None
    return _shape(note, side)


def _is_note(note):
    """Whether what a file held can be what `_summary` gave."""
    if not note or note.keys() != {"short", "size", "channels", "failed"}:
        return False
    size = note["size"] or [1, 1]
    if not isinstance(size, list) or len(size) != 2 or note["channels"] not in (1, 3):
        return False
    lowest = (note["failed"], 0), (note["short"], 1), (size[0], 1), (size[1], 1)
    return all(type(number) is int and number >= least for number, least in lowest)


def _shape(note, side):
    short = note["short"]
    stored = max(1, min(short, side(short)))
    if note["size"] is None:
        return stored, stored, note["channels"]
    width, height = note["size"]
    factor = min(1, stored / min(width, height))
    return max(1, round(height * factor)), max(1, round(width * factor)), note["channels"]


def _survey(sources, n_jobs, on_error):
    """Summary of the headers of all images, of which several processes read a part each."""
    with distributed.raise_on_all_ranks():
        headers, failures = _in_threads(
            lambda i: decoding.header(_source(sources, i)), distributed.rank_slice(len(sources)), n_jobs
        )
    headers = _of_all(headers)
    failures = distributed.merge_dicts({i: str(error) for i, error in failures.items()})
    if failures and on_error == "raise":
        raise decoding.first_failure({i: ImageReadError(why) for i, why in failures.items()})
    if not headers:
        raise decoding.none_could_be_read(failures)
    return _summary(headers, len(failures))


def _of_all(headers):
    """Headers that all processes have read."""
    if distributed.world_size() == 1:
        return headers
    pairs = distributed.all_gather_object([(header.size, header.colour) for header in headers])
    return [decoding.Header(tuple(size), colour) for some in pairs for size, colour in some]


def _summary(headers, failed):
    """Median short side, common size, channels, and how many had none to read."""
    sizes = {header.size for header in headers}
    return {
        "short": int(np.median([min(header.size) for header in headers])),
        "size": list(sizes.pop()) if len(sizes) == 1 else None,
        "channels": 3 if any(header.colour for header in headers) else 1,
        "failed": failed,
    }
