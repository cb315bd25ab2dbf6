"""Samples, held once or read when they are needed, and handed out in batches.

A store knows which images of X are not among its samples because they could not be read. It knows
neither what X was nor what becomes of a batch.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skcc import distributed
from skcc.data import cache, decoding

RESIDENT_SHARE = 0.4  # of the free memory of a device; the rest is for training
_BLOCK = 2**22  # bytes of pixels on their way to a file, if 64 images fill no more
_LARGE_BLOCK = 2**26  # bytes that are decoded into memory before failures are looked at


class Store:
    """Samples that are held once, and handed out in batches.

    Parameters
    ----------
    samples : Tensor of shape (n, h, w, c) and dtype uint8, or (n, d) and dtype float32
        Read, never written.

    invalid : dict of int to str, default=None
        Images of X that could not be read, and why; they are not among the samples.
    """

    def __init__(self, samples: Tensor, invalid: Mapping[int, str] | None = None):
        self.samples = samples
        self.invalid = dict(invalid or {})

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
                return HostStore(self.samples, self.invalid)
        return Store(self.samples.to(device), self.invalid)

    @property
    def n_images(self) -> int:
        """Images of X, whether they could be read or not."""
        return len(self) + len(self.invalid)

    @property
    def sample_indices(self) -> np.ndarray:
        """Which image of X each sample is."""
        places = np.arange(self.n_images)
        return np.delete(places, list(self.invalid)) if self.invalid else places

    def scatter_to_input(self, rows: np.ndarray, fill: float) -> np.ndarray:
        """Results for samples as results for X.

        Parameters
        ----------
        rows : ndarray of shape (n, ...)
            One per sample.

        fill : float
            What images get that could not be read.

        Returns
        -------
        rows : ndarray of shape (n_X, ...)
            One per image of X.
        """
        if not self.invalid:
            return rows
        whole = np.full((self.n_images, *rows.shape[1:]), fill, rows.dtype)
        whole[self.sample_indices] = rows
        return whole

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
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        part: range | None = None,
    ) -> Iterator[Tensor]:
        """Apply a function to samples, in order, in batches of one fixed size.

        The last batch is filled up with its own last sample, so that what a sample gives does
        not depend on how many others come along.

        Parameters
        ----------
        function : callable
            From a batch and the indices of its samples to a tensor with one row per sample.

        batch_size : int
            Samples per call.

        part : range, default=None
            Which samples; None means all.

        Yields
        ------
        rows : Tensor of shape (b, ...)
            Results for the next `batch_size` samples, or for those that are left.
        """
        part = range(len(self)) if part is None else part
        for start in range(part.start, part.stop, batch_size):
            index = torch.arange(start, start + batch_size, device=self.device)
            index = index.clamp_max(part.stop - 1)
            rows = function(self.batch(index), index)
            yield rows[: part.stop - start]


class HostStore(Store):
    """Samples that stay on the host, and are sent to a CUDA device batch by batch.

    Parameters
    ----------
    samples : Tensor of shape (n, ...)
        On the CPU.

    invalid : dict of int to str, default=None
        Images of X that could not be read, and why; they are not among the samples.
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


def tensor_from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the same memory, also where that may not be written.

    Parameters
    ----------
    array : ndarray
        Copied only if it runs backwards.

    Returns
    -------
    tensor : Tensor
        To be read only.
    """
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


class SourceStore(Store):
    """Samples that are read batch by batch, so that memory does not grow with them.

    What cannot be read is black, and listed in `invalid` from then on.

    Parameters
    ----------
    reader : object
        Has ``__len__``, ``into(index, out)``, which fills rows of an array and returns the failures
        by index, and ``identity()`` as in `skcc.sources.identity`.

    shape : tuple of int
        Shape of one sample.

    on_error : {"raise", "warn"}
        Whether the first failure is raised, or all are noted.
    """

    def __init__(self, reader, shape: tuple[int, ...], on_error: str):
        self._reader, self._shape, self._on_error = reader, tuple(shape), on_error
        self.invalid: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._shape

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return torch.device("cpu")

    @property
    def n_images(self) -> int:
        """Images of X, whether they could be read or not."""
        return len(self)

    @property
    def sample_indices(self) -> np.ndarray:
        """Which image of X each sample is."""
        return np.arange(len(self))

    def scatter_to_input(self, rows: np.ndarray, fill: float) -> np.ndarray:
        rows[list(self.invalid)] = fill
        return rows

    def to(self, device: torch.device) -> Store:
        return self.read().to(device)

    def batch(self, index: Tensor) -> Tensor:
        once, back = index.unique(return_inverse=True)
        return torch.from_numpy(self._pixels(once.tolist()))[back]

    def read(self, cache_dir: str | Path | None = None) -> Store:
        """Read all of them.

        Parameters
        ----------
        cache_dir : str or Path, default=None
            Folder where they are kept. None keeps them in memory.

        Returns
        -------
        store : Store
            Holds those that could be read.

        Raises
        ------
        ImageReadError
            If one cannot be read and that is not allowed, or if none can.

        OSError
            If the folder cannot be written to, or its disk is full; nothing is left there then.

        MemoryError
            If they do not fit into memory.
        """
        if cache_dir is None:
            return self._read_into_memory()
        found = self.cached(cache_dir)
        if distributed.all_ranks(found is not None):
            return found
        try:
            return self._read_into_file(cache_dir)
        except OSError as error:
            if error.errno is None:  # an image, and not the disk
                raise
            raise type(error)(
                error.errno,
                f"decoded images cannot be kept, {self._amount()}: {error.strerror}. Make room, or "
                "give another cache_dir, or None to hold them in memory",
                str(cache_dir),
            ) from error

    def _amount(self):
        n_bytes = len(self) * int(np.prod(self.shape))
        return f"{len(self):,} of shape {self.shape} or {n_bytes / 2**20:,.0f} MiB"

    def _read_into_memory(self):
        try:
            samples = np.zeros((len(self), *self.shape), dtype=np.uint8)
        except MemoryError as error:
            raise MemoryError(
                f"decoded images do not fit into memory, {self._amount()}: cache_dir keeps them in "
                "a file, a smaller image_size takes less"
            ) from error
        filled = 0
        for index in self._runs(_LARGE_BLOCK):
            filled += len(self._readable(index, samples[filled : filled + len(index)]))
        return Store(torch.from_numpy(samples[:filled]), self.invalid)

    def _read_into_file(self, cache_dir):
        self.invalid.clear()
        named = self._file(cache_dir)
        if named is None:
            pixels = cache.nameless_pixels(Path(cache_dir), self._blocks)
        else:
            pixels = self._into_cache(cache_dir, named)
        return Store(tensor_from_numpy(pixels), self.invalid)

    def _into_cache(self, cache_dir, named):
        """Of several processes of a machine one writes; all map the same file."""

        def unchanged():
            return distributed.all_ranks(self._file(cache_dir) == named)

        writes = distributed.is_local_rank_zero()
        if writes:
            pixels = cache.save_pixels(*named, self._blocks, self.invalid, unchanged)
        else:
            for _ in self._blocks():
                pass
            pixels = None if unchanged() else cache.nameless_pixels(Path(cache_dir), self._blocks)
        distributed.all_gather_object(None)  # the file is there now
        if pixels is None:
            found = cache.load_pixels(*named)
            if found is None:
                raise OSError(f"{named[0]} cannot be read back; another process of this machine "
                              "wrote it")  # fmt: skip
            pixels = found[0]
        return pixels

    def cached(self, cache_dir: str | Path) -> Store | None:
        """All of them, if a folder holds them as they are now.

        Parameters
        ----------
        cache_dir : str or Path
            The folder.

        Returns
        -------
        store : Store or None
            Holds those that could be read. None also if an image can be read today that could not
            be when the file was written.
        """
        named = self._file(cache_dir)
        found = None if named is None else cache.load_pixels(*named)
        if found is None:
            return None
        pixels, invalid = found
        if pixels.shape[1:] != self.shape or len(pixels) + len(invalid) != len(self):
            return None
        self._pixels(list(invalid))
        return Store(tensor_from_numpy(pixels), invalid) if self.invalid.keys() == invalid.keys() else None

    def _file(self, cache_dir):
        """Name of the file in the cache, and what must have gone into it."""
        names = self._reader.identity()
        if names is None:
            return None
        shape = "x".join(map(str, self.shape))
        return Path(cache_dir) / f"{names[0]}-{shape}.pixels", f"{decoding.version()} {names[1]}"

    def _pixels(self, index):
        pixels = np.zeros((len(index), *self.shape), dtype=np.uint8)
        self._fill(pixels, index)
        return pixels

    def _fill(self, pixels, index):
        failures = self._reader.into(index, pixels)
        if failures and self._on_error == "raise":
            raise decoding.first_failure(failures)
        self.invalid |= {i: str(error) for i, error in failures.items()}

    def _fill_together(self, pixels, index):
        mine = distributed.rank_slice(len(index))
        own = pixels[mine.start : mine.stop]
        with distributed.raise_on_all_ranks():
            failures = self._reader.into(index[mine.start : mine.stop], own)
        pixels[:] = distributed.all_gather_rows(torch.from_numpy(own), len(index)).numpy()
        failures = distributed.merge_dicts({i: str(error) for i, error in failures.items()})
        if failures and self._on_error == "raise":
            raise decoding.first_failure(
                {i: decoding.ImageReadError(why) for i, why in failures.items()}
            )
        self.invalid |= failures

    def _readable(self, index, pixels):
        """Fill pixels with the images that can be read, without gaps; return that part.

        Several processes read a part each.
        """
        if distributed.world_size() == 1:
            self._fill(pixels, index)
        else:
            self._fill_together(pixels, index)
        good = [at for at, i in enumerate(index) if i not in self.invalid]
        for to, at in enumerate(good):
            if to != at:
                pixels[to] = pixels[at]
        return pixels[: len(good)]

    def _runs(self, n_bytes):
        """All indices, in runs; an error at the end if no image could be read."""
        self.invalid.clear()
        step = max(64, n_bytes // int(np.prod(self.shape)))
        for start in range(0, len(self), step):
            yield range(start, min(len(self), start + step))
        if len(self.invalid) == len(self):
            raise decoding.none_could_be_read(self.invalid)

    def _blocks(self):
        """Pixels of those that can be read, in order."""
        for index in self._runs(_BLOCK):
            pixels = np.zeros((len(index), *self.shape), dtype=np.uint8)
            yield self._readable(index, pixels)
