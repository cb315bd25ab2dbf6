"""Decoded pixels in a file that is mapped into memory.

A file is trusted only whole: what it holds, and a checksum of it, stand in a trailer that is
written last, and a file appears under its name when it is complete. So no locks are needed: two
processes that decode the same images write the same file, one after the other. This file knows no
images.
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
_END = struct.Struct("<QI8s")  # length and checksum of the trailer, and what kind of file this is
_CHUNK = 2**24  # bytes that are read at a time
_ABANDONED = 86400  # seconds after which a partial file has no owner any more
_PARTIAL = re.compile(
    r".+\.(pixels|json)\.[0-9a-f]{32}\.tmp", re.DOTALL
)  # as `replaced` names them
# What files that are damaged, or made to do harm, lead to; too deep a nesting of JSON among it.
_UNTRUSTED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
_UNTRUSTED += (OverflowError, struct.error)


def load_pixels(path: Path, key: str) -> tuple[np.ndarray, dict[int, str]] | None:
    """Map a file of pixels that was written earlier.

    Parameters
    ----------
    path : Path
        The file.

    key : str
        What it must have been made from.

    Returns
    -------
    found : tuple of (ndarray of shape (n, ...), dict of int to str) or None
        The pixels, mapped read-only, and the images that could not be read. None if there is no
        such file, or if it is truncated, damaged, foreign, or made from something else.
    """
    try:
        with open(path, "rb") as file:
            trailer, end = _trailer(file)
            shape = tuple(map(int, trailer["shape"]))
            if trailer["key"] != key or math.prod(shape) != end or min(shape) < 1:
                return None
            pixels = _mapped(file, shape)
            invalid = {int(i): str(reason) for i, reason in trailer["invalid"]}
            intact = _checksum(pixels) == trailer["checksum"]
    except _UNTRUSTED:
        return None
    return (pixels, invalid) if intact else None


def save_pixels(
    path: Path,
    key: str,
    blocks: Callable[[], Iterable[np.ndarray]],
    invalid: Mapping[int, str],
    unchanged: Callable[[], bool],
) -> np.ndarray:
    """Write pixels to a file, at once, and map it.

    Parameters
    ----------
    path : Path
        The file; its folder is made if it is not there.

    key : str
        What they are made from.

    blocks : callable
        Makes the pixels: an iterable of arrays of shape (m, ...) and dtype uint8.

    invalid : dict of int to str
        What could not be read; looked at after the last block.

    unchanged : callable
        Whether, after the last block, they are still made from what `key` says. If not, they
        are put into a file without a name.

    Returns
    -------
    pixels : ndarray of shape (n, ...)
        Mapped read-only.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_up(path.parent)
    try:
        with atomic_write(path) as file:
            shape, checksum = _write(file, blocks())
            if not unchanged():
                raise _ChangedError
            content = {"key": key, "shape": shape, "checksum": checksum}
            trailer = json.dumps(content | {"invalid": list(invalid.items())}).encode()
            file.write(trailer + _END.pack(len(trailer), zlib.crc32(trailer), _MAGIC))
        with open(path, "rb") as file:
            return _mapped(file, shape)
    except _ChangedError:
        return nameless_pixels(path.parent, blocks)


def nameless_pixels(folder: Path, blocks: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Put pixels into a file that nobody else sees, and that goes when it is no longer used.

    Parameters
    ----------
    folder : Path
        Where the space is taken; made if it is not there.

    blocks : callable
        As in `save_pixels`.

    Returns
    -------
    pixels : ndarray of shape (n, ...)
        Mapped read-only.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        shape, _ = _write(file, blocks())
        file.flush()
        return _mapped(file, shape)


def load_note(path: Path, key: str) -> dict | None:
    """Read a few values that were written earlier.

    Parameters
    ----------
    path : Path
        The file.

    key : str
        What they must have been made from.

    Returns
    -------
    note : dict or None
        None if there is no such file, or one that cannot be trusted.
    """
    try:
        content = json.loads(path.read_bytes())
        return dict(content["note"]) if content["key"] == key else None
    except _UNTRUSTED:
        return None


def save_note(path: Path, key: str, note: Mapping[str, object]) -> None:
    """Write a few values, at once.

    Parameters
    ----------
    path : Path
        The file; its folder is made if it is not there.

    key : str
        What they are made from.

    note : dict of str to object
        Plain values.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(json.dumps({"key": key, "note": dict(note)}).encode())


class _ChangedError(Exception):
    """What was read is not what it was before."""


def _trailer(file: BinaryIO) -> tuple[dict, int]:
    """The trailer, and how many bytes of pixels stand before it."""
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


def _mapped(file, shape):
    length = math.prod(shape)
    area = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
    return np.frombuffer(area, np.uint8, length).reshape(shape)


def _checksum(pixels):
    checksum, flat = 0, pixels.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        checksum = zlib.crc32(flat[start : start + _CHUNK], checksum)
    return checksum


def _write(file, blocks):
    """Append the blocks; return the shape of all and their checksum."""
    n, checksum, shape = 0, 0, ()
    for block in blocks:
        block = np.ascontiguousarray(block)
        file.write(block)
        checksum = zlib.crc32(block, checksum)
        n, shape = n + len(block), block.shape[1:]
    return (n, *shape), checksum


def _sweep_up(folder):
    """Remove what processes left behind that were killed while they wrote; nothing else."""
    for path in folder.glob("*.tmp"):
        with contextlib.suppress(OSError):
            is_old = time.time() - path.lstat().st_mtime > _ABANDONED
            if is_old and _PARTIAL.fullmatch(path.name):
                path.unlink()
