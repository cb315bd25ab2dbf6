"""Keep decoded pixels in files that are mapped into memory.

A file consists of the pixels and a trailer with their shape, key and checksum. It is written
atomically, so no locks are needed: two processes that decode the same images write the same file.
"""

import contextlib
import json
import math
import mmap
import os
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from skcc.atomic import atomic_write

_MAGIC = b"skccpix1"
_END = struct.Struct("<QI8s")  # length of the trailer, checksum of the trailer, _MAGIC
_CHUNK = 2**24  # bytes per step of the checksum
_MAX_PARTIAL_AGE = 86400  # seconds after which a partial file counts as abandoned
# Names that `atomic_write` gives to partial files.
_PARTIAL = re.compile(r".+\.(pixels|json)\.[0-9a-f]{32}\.tmp", re.DOTALL)
# Errors that damaged or malicious files can cause, such as deeply nested JSON.
_INVALID_FILE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_INVALID_FILE += (OverflowError, struct.error)


def load_pixels(path: Path, key: str) -> tuple[np.ndarray, dict[int, str]] | None:
    """Map a file of pixels into memory.

    Parameters
    ----------
    path : Path
        File to map.

    key : str
        Key that the file must have been written with.

    Returns
    -------
    content : tuple of (ndarray of shape (n, ...), dict of int to str) or None
        Pixels, mapped read-only, and the reasons by index of the images that could not be read.
        None if the file is missing, truncated or damaged, or has another key or format.
    """
    try:
        with open(path, "rb") as file:
            trailer, n_bytes = _read_trailer(file)
            shape = tuple(map(int, trailer["shape"]))
            if trailer["key"] != key or math.prod(shape) != n_bytes or min(shape) < 1:
                return None
            pixels = _map(file, shape)
            invalid = {int(i): str(reason) for i, reason in trailer["invalid"]}
            intact = _checksum(pixels) == trailer["checksum"]
    except _INVALID_FILE:
        return None
    return (pixels, invalid) if intact else None


def save_pixels(
    path: Path,
    key: str,
    blocks: Callable[[], Iterable[np.ndarray]],
    invalid: Mapping[int, str],
    unchanged: Callable[[], bool],
) -> np.ndarray:
    """Write pixels to a file atomically, and map the file into memory.

    Parameters
    ----------
    path : Path
        File to write; its folder is created if needed.

    key : str
        Key of what the pixels are made from, which `load_pixels` compares.

    blocks : callable
        Returns the pixels as an iterable of arrays of shape (m, ...) and dtype uint8.

    invalid : dict of int to str
        Reasons by index of the images that could not be read. It may be filled while the blocks
        are made; it is written after the last block.

    unchanged : callable
        Called after the last block; returns whether `key` still holds. If it does not, the pixels
        are written to a temporary file instead.

    Returns
    -------
    pixels : ndarray of shape (n, ...)
        Pixels, mapped read-only.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_files(path.parent)
    try:
        with atomic_write(path) as file:
            shape, checksum = _write(file, blocks())
            if not unchanged():
                raise _ChangedError
            content = {"key": key, "shape": shape, "checksum": checksum}
            trailer = json.dumps(content | {"invalid": list(invalid.items())}).encode()
            file.write(trailer + _END.pack(len(trailer), zlib.crc32(trailer), _MAGIC))
        with open(path, "rb") as file:
            return _map(file, shape)
    except _ChangedError:
        return temporary_pixels(path.parent, blocks)


def temporary_pixels(folder: Path, blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Write pixels to an unnamed temporary file, and map it into memory.

    Parameters
    ----------
    folder : Path
        Folder on whose disk the file is; created if needed.

    blocks : callable
        Returns the pixels as an iterable of arrays of shape (m, ...) and dtype uint8.

    Returns
    -------
    pixels : ndarray of shape (n, ...)
        Pixels, mapped read-only. The file is removed together with the array.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        shape, _ = _write(file, blocks())
        file.flush()
        return _map(file, shape)


def load_note(path: Path, key: str) -> dict | None:
    """Read a small dict from a JSON file.

    Parameters
    ----------
    path : Path
        File to read.

    key : str
        Key that the file must have been written with.

    Returns
    -------
    note : dict or None
        The dict; None if the file is missing or damaged, or has another key.
    """
    try:
        content = json.loads(path.read_bytes())
        return dict(content["note"]) if content["key"] == key else None
    except _INVALID_FILE:
        return None


def save_note(path: Path, key: str, note: Mapping[str, object]) -> None:
    """Write a small dict to a JSON file atomically.

    Parameters
    ----------
    path : Path
        File to write; its folder is created if needed.

    key : str
        Key of what the values are made from, which `load_note` compares.

    note : dict of str to object
        Values that JSON can represent.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps({"key": key, "note": dict(note)}).encode())


class _ChangedError(Exception):
    """The images changed while they were decoded."""


def _read_trailer(file: BinaryIO) -> tuple[dict, int]:
    """Return the trailer, and the number of bytes before it."""
    size = file.seek(0, os.SEEK_END)
    if size < _END.size:
        raise ValueError("no trailer")
    file.seek(size - _END.size)
    length, checksum, magic = _END.unpack(file.read(_END.size))
    start = size - _END.size - length
    if magic != _MAGIC or start < 0:
        raise ValueError("no trailer")
    file.seek(start)
    trailer = file.read(length)
    if zlib.crc32(trailer) != checksum:
        raise ValueError("damaged")
    return json.loads(trailer), start


def _map(file, shape):
    length = math.prod(shape)
    buffer = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    return np.frombuffer(buffer, np.uint8, length).reshape(shape)


def _checksum(pixels):
    checksum, flat = 0, pixels.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        checksum = zlib.crc32(flat[start : start + _CHUNK], checksum)
    return checksum


def _write(file, blocks):
    """Append all blocks to a file; return their joint shape and checksum."""
    n, checksum, shape = 0, 0, ()
    for block in blocks:
        block = np.ascontiguousarray(block)
        file.write(block)
        checksum = zlib.crc32(block, checksum)
        n, shape = n + len(block), block.shape[1:]
        del block  # free it before the next one is made
    return (n, *shape), checksum


def _remove_abandoned_files(folder):
    """Remove partial files of processes that were killed while they wrote."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            is_old = time.time() - path.lstat().st_mtime > _MAX_PARTIAL_AGE
            if is_old and _PARTIAL.fullmatch(path.name):
                path.unlink()
