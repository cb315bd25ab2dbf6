"""Stores hold the samples in memory, or read them when they are needed, and hand out batches."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skcc import distributed
from skcc.data import cache, decoding
from skcc.data.sources import FileIdentity
from skcc.exceptions import ImageReadError

RESIDENT_SHARE = 0.4  # of the free memory of a device; the rest is for training
_FILE_BLOCK = 2**22  # bytes of pixels that are decoded before they are written to a file
_MEMORY_BLOCK = 2**26  # bytes of pixels that are decoded before failures are removed
_MIN_BLOCK = 64  # images that are decoded together, however large they are


class SampleStore(ABC):
    """Samples that are handed out in batches.

    Training and inference use this interface. `invalid` maps the index in X of each image that
    could not be read to the reason.
    """

    invalid: dict[int, str]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the batches that `batch` returns."""

    @property
    @abstractmethod
    def n_images(self) -> int:
        """Number of images of X, including those that could not be read."""

    @property
    @abstractmethod
    def sample_indices(self) -> np.ndarray:
        """Index in X of each sample, an array of shape (n,)."""

    @abstractmethod
    def scatter_to_input(self, rows: np.ndarray, fill: float) -> np.ndarray:
        """Arrange results for samples in the order of X.

        Parameters
        ----------
        rows : ndarray of shape (n, ...)
            One row per sample; may be overwritten.

        fill : float
            Value for images that could not be read.

        Returns
        -------
        rows : ndarray of shape (n_images, ...)
            One row per image of X.
        """

    @abstractmethod
    def to(self, device: torch.device) -> "SampleStore":
        """Move the samples to a device.

        Parameters
        ----------
        device : torch.device
            Device on which batches are needed.

        Returns
        -------
        store : SampleStore
            The store itself if the samples are there already; a `HostStore` if they would fill
            more than two fifths of the free memory of a CUDA device.
        """

    @abstractmethod
    def batch(self, index: Tensor) -> Tensor:
        """Select samples.

        Parameters
        ----------
        index : Tensor of shape (b,)
            Indices of samples, on the device of the store.

        Returns
        -------
        batch : Tensor of shape (b, ...)
            Copy of the samples.
        """

    @abstractmethod
    def stream(
        self, order: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over batches for training.

        Parameters
        ----------
        order : sequence of Tensor of shape (b,)
            Indices of the samples of each batch, on the CPU.

        device : torch.device
            Device on which batches are needed.

        Yields
        ------
        index : Tensor of shape (b,)
            Indices of the samples, on the device.

        batch : Tensor of shape (b, ...)
            Samples, on the device.
        """

    def sweep(
        self,
        function: Callable[[Tensor, Tensor], Tensor],
        batch_size: int,
        part: range | None = None,
    ) -> Iterator[Tensor]:
        """Apply a function to samples, in order, in batches of one fixed size.

        The last batch is padded with its last sample, so the result for a sample does not depend
        on the number of samples.

        Parameters
        ----------
        function : callable
            From a batch and the indices of its samples to a tensor with one row per sample.

        batch_size : int
            Samples per call.

        part : range, default=None
            Indices of the samples; None means all.

        Yields
        ------
        rows : Tensor of shape (b, ...)
            Results for the next `batch_size` samples, or for the remaining ones.
        """
        part = range(len(self)) if part is None else part
        for start in range(part.start, part.stop, batch_size):
            index = torch.arange(start, start + batch_size, device=self.device)
            index = index.clamp_max(part.stop - 1)
            rows = function(self.batch(index), index)
            yield rows[: part.stop - start]


class _TensorStore(SampleStore):
    """Base of the stores that hold their samples in one tensor."""

    def __init__(self, samples: Tensor, invalid: Mapping[int, str] | None = None):
        self.samples = samples
        self.invalid = dict(invalid or {})

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.samples.shape[1:])

    @property
    def device(self) -> torch.device:
        return self.samples.device

    @property
    def n_images(self) -> int:
        return len(self) + len(self.invalid)

    @property
    def sample_indices(self) -> np.ndarray:
        indices = np.arange(self.n_images)
        return np.delete(indices, list(self.invalid)) if self.invalid else indices

    def scatter_to_input(self, rows: np.ndarray, fill: float) -> np.ndarray:
        if not self.invalid:
            return rows
        scattered = np.full((self.n_images, *rows.shape[1:]), fill, rows.dtype)
        scattered[self.sample_indices] = rows
        return scattered

    def to(self, device: torch.device) -> SampleStore:
        if self.samples.device == device:
            return self
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.samples.nbytes > RESIDENT_SHARE * free:
                return HostStore(self.samples, self.invalid)
        return Store(self.samples.to(device), self.invalid)

    def batch(self, index: Tensor) -> Tensor:
        return self.samples.index_select(0, index)


class Store(_TensorStore):
    """Samples in one tensor, on the device on which they are used.

    Parameters
    ----------
    samples : Tensor of shape (n, h, w, c) and dtype uint8, or (n, d) and dtype float32
        Images or vectors; never written to.

    invalid : dict of int to str, default=None
        Reasons by index in X of the images that could not be read and are not among the samples.
    """

    def stream(
        self, order: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.stack(tuple(order)).to(device):
            yield index, self.batch(index)


class HostStore(_TensorStore):
    """Samples that stay in host memory and are sent to a CUDA device batch by batch.

    Parameters
    ----------
    samples : Tensor of shape (n, h, w, c) and dtype uint8, or (n, d) and dtype float32
        Images or vectors on the CPU; never written to.

    invalid : dict of int to str, default=None
        Reasons by index in X of the images that could not be read and are not among the samples.
    """

    def stream(
        self, order: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        # Each batch is copied on a stream of its own while the previous one is in use.
        copy_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

        def send(index):
            tensors = index, self.batch(index)
            if copy_stream is None:
                return tensors, None
            with torch.cuda.stream(copy_stream):
                tensors = tuple(t.pin_memory().to(device, non_blocking=True) for t in tensors)
                return tensors, copy_stream.record_event()

        pending = None
        for index in order:
            ready, pending = pending, send(index)
            if ready is not None:
                yield _wait_for_copy(*ready)
        yield _wait_for_copy(*pending)


def _wait_for_copy(tensors, copied):
    """Make the current CUDA stream wait for a copy; return the tensors."""
    if copied is not None:
        stream = torch.cuda.current_stream(tensors[0].device)
        stream.wait_event(copied)
        for tensor in tensors:
            tensor.record_stream(stream)
    return tensors


class Reader(ABC):
    """Images that a `SourceStore` reads by index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def identity(self) -> FileIdentity | None:
        """Identify the images, so that they are found in the cache.

        Returns
        -------
        identity : FileIdentity or None
            None if the images cannot be recognised later.
        """

    @abstractmethod
    def read_into(self, index: Sequence[int], out: np.ndarray) -> dict[int, ImageReadError]:
        """Read images into the rows of an array.

        Parameters
        ----------
        index : sequence of int
            Indices of the images.

        out : ndarray of shape (len(index), height, width, channels) and dtype uint8
            Array to write to.

        Returns
        -------
        failures : dict of int to ImageReadError
            Errors by index of the images that could not be read.
        """


class SourceStore(SampleStore):
    """Images that are read batch by batch, so that memory does not grow with their number.

    An image that cannot be read is black, and listed in `invalid` from then on.

    Parameters
    ----------
    reader : Reader
        Images to read.

    shape : tuple of int
        Shape of one sample, ``(height, width, channels)``.

    on_error : {"raise", "warn"}
        Whether an image that cannot be read is an error, or is listed in `invalid`.
    """

    def __init__(self, reader: Reader, shape: tuple[int, ...], on_error: str):
        self._reader, self._shape, self._on_error = reader, tuple(shape), on_error
        self.invalid: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._reader)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def n_images(self) -> int:
        return len(self)

    @property
    def sample_indices(self) -> np.ndarray:
        return np.arange(len(self))

    def scatter_to_input(self, rows: np.ndarray, fill: float) -> np.ndarray:
        rows[list(self.invalid)] = fill
        return rows

    def to(self, device: torch.device) -> SampleStore:
        return self.read().to(device)

    def batch(self, index: Tensor) -> Tensor:
        distinct, inverse = index.unique(return_inverse=True)
        return torch.from_numpy(self._read_pixels(distinct.tolist()))[inverse]

    def stream(
        self, order: Sequence[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for index in order:
            yield index.to(device), self.batch(index).to(device)

    # -- all images at once -----------------------------------------------------------------

    def read(self, cache_dir: str | Path | None = None) -> Store:
        """Read all images.

        Parameters
        ----------
        cache_dir : str or Path, default=None
            Folder in which decoded images are kept. None keeps them in memory.

        Returns
        -------
        store : Store
            Images that could be read.

        Raises
        ------
        ImageReadError
            If an image cannot be read and `on_error` is "raise", or if none can.

        OSError
            If the folder cannot be written to, or its disk is full. No file is left behind.

        MemoryError
            If the images do not fit into memory.
        """
        if cache_dir is None:
            return self._read_into_memory()
        cached = self.cached(cache_dir)
        if distributed.all_ranks(cached is not None):
            return cached
        try:
            return self._read_into_file(cache_dir)
        except OSError as error:
            if error.errno is None:  # raised for an image, not for the disk
                raise
            raise type(error)(
                error.errno,
                f"decoded images cannot be kept, {self._describe_size()}: {error.strerror}. Make "
                "room, or give another cache_dir, or None to hold them in memory",
                str(cache_dir),
            ) from error

    def cached(self, cache_dir: str | Path) -> Store | None:
        """Load all images from a folder of decoded images.

        Parameters
        ----------
        cache_dir : str or Path
            Folder in which decoded images are kept.

        Returns
        -------
        store : Store or None
            Images that could be read. None if the folder does not hold these images in their
            present state, or if one that could not be read then can be read now.
        """
        entry = self._cache_entry(cache_dir)
        content = None if entry is None else cache.load_pixels(*entry)
        if content is None:
            return None
        pixels, invalid = content
        if pixels.shape[1:] != self.shape or len(pixels) + len(invalid) != len(self):
            return None
        self._read_pixels(list(invalid))  # try again what could not be read
        if self.invalid.keys() != invalid.keys():
            return None
        return Store(tensor_from_numpy(pixels), invalid)

    def _read_into_memory(self):
        try:
            samples = np.zeros((len(self), *self.shape), dtype=np.uint8)
        except MemoryError as error:
            raise MemoryError(
                f"decoded images do not fit into memory, {self._describe_size()}: cache_dir keeps "
                "them in a file, a smaller image_size takes less"
            ) from error
        n_read = 0
        for index in self._index_blocks(_MEMORY_BLOCK):
            n_read += len(self._read_block(index, samples[n_read : n_read + len(index)]))
        return Store(torch.from_numpy(samples[:n_read]), self.invalid)

    def _read_into_file(self, cache_dir):
        self.invalid.clear()
        entry = self._cache_entry(cache_dir)
        if entry is None:
            pixels = cache.temporary_pixels(Path(cache_dir), self._blocks)
        else:
            pixels = self._read_into_cache(entry)
        return Store(tensor_from_numpy(pixels), self.invalid)

    def _read_into_cache(self, entry):
        """Write the pixels on one rank per machine; map the same file on all ranks."""
        folder = entry.path.parent

        def unchanged():
            return distributed.all_ranks(self._cache_entry(folder) == entry)

        if distributed.is_local_rank_zero():
            pixels = cache.save_pixels(*entry, self._blocks, self.invalid, unchanged)
        else:
            for _ in self._blocks():  # decode this rank's part for the rank that writes
                pass
            pixels = None if unchanged() else cache.temporary_pixels(folder, self._blocks)
        distributed.all_gather_object(None)  # wait until the file is written
        if pixels is not None:
            return pixels
        content = cache.load_pixels(*entry)
        if content is None:
            raise OSError(
                f"{entry.path} cannot be read back; another process of this machine wrote it"
            )
        return content[0]

    def _cache_entry(self, cache_dir):
        """Return path and key of these images in the cache; None if they have no identity."""
        files = self._reader.identity()
        if files is None:
            return None
        shape = "x".join(map(str, self.shape))
        path = Path(cache_dir) / f"{files.paths}-{shape}.pixels"
        return _CacheEntry(path, f"{decoding.version()} {files.state}")

    def _describe_size(self):
        n_bytes = len(self) * int(np.prod(self.shape))
        return f"{len(self):,} of shape {self.shape} or {n_bytes / 2**20:,.0f} MiB"

    # -- blocks of images -------------------------------------------------------------------

    def _blocks(self):
        """Iterate over the pixels of the images that can be read."""
        for index in self._index_blocks(_FILE_BLOCK):
            yield self._read_block(index, self._black_images(len(index)))

    def _index_blocks(self, n_bytes):
        """Iterate over ranges of indices; raise an error at the end if no image could be read."""
        self.invalid.clear()
        step = max(_MIN_BLOCK, n_bytes // int(np.prod(self.shape)))
        for start in range(0, len(self), step):
            yield range(start, min(len(self), start + step))
        if len(self.invalid) == len(self):
            raise decoding.none_could_be_read(self.invalid)

    def _read_block(self, index, pixels):
        """Read images on all ranks together; return the rows that could be read, without gaps."""
        if distributed.world_size() == 1:
            self._fill(pixels, index)
        else:
            self._fill_on_all_ranks(pixels, index)
        valid = [row for row, i in enumerate(index) if i not in self.invalid]
        for target, row in enumerate(valid):
            if target != row:
                pixels[target] = pixels[row]
        return pixels[: len(valid)]

    def _read_pixels(self, index):
        pixels = self._black_images(len(index))
        self._fill(pixels, index)
        return pixels

    def _black_images(self, n):
        return np.zeros((n, *self.shape), dtype=np.uint8)

    def _fill(self, pixels, index):
        self._record(self._reader.read_into(index, pixels))

    def _fill_on_all_ranks(self, pixels, index):
        part = distributed.rank_slice(len(index))
        own = pixels[part.start : part.stop]
        with distributed.raise_on_all_ranks():
            failures = self._reader.read_into(index[part.start : part.stop], own)
        pixels[:] = distributed.all_gather_rows(torch.from_numpy(own), len(index)).numpy()
        reasons = distributed.merge_dicts({i: str(error) for i, error in failures.items()})
        self._record({i: ImageReadError(reason) for i, reason in reasons.items()})

    def _record(self, failures):
        """Raise the first failure, or list all in `invalid`."""
        if failures and self._on_error == "raise":
            raise decoding.first_failure(failures)
        self.invalid |= {i: str(error) for i, error in failures.items()}


class _CacheEntry(NamedTuple):
    """Where pixels are cached, and what they are made from."""

    path: Path
    key: str


def tensor_from_numpy(array: np.ndarray) -> Tensor:
    """Make a tensor that shares the memory of an array, even if it is read-only.

    Parameters
    ----------
    array : ndarray
        Array; copied only if it has negative strides.

    Returns
    -------
    tensor : Tensor
        Must not be written to.
    """
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
