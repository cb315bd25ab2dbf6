"""Write files atomically: a file is complete, or it is not there."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `path` only when it is complete.

    Parameters
    ----------
    path : Path
        File to write. An existing file stays unchanged until the new one replaces it, and also if
        the body of the ``with`` statement raises an error.

    Yields
    ------
    file : BinaryIO
        Temporary file in the same folder, open for writing.

    Raises
    ------
    OSError
        If the file cannot be written; it names `path`, not the temporary file.
    """
    check_can_be_written(path)
    # Cut, so that it is not too long where the name itself is not.
    partial = path.with_name(f"{path.name[:60]}.{uuid.uuid4().hex}.tmp")
    try:
        with _named(path):
            file = open(partial, "wb")  # noqa: SIM115
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with _named(path):
            os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def check_can_be_written(path: Path) -> None:
    """Check that a file can be made at a path, before its contents are computed.

    Parameters
    ----------
    path : Path
        File to write.

    Raises
    ------
    OSError
        If it is a folder, or its folder is missing, is no folder or may not be written to.
    """
    with _named(path):
        if path.is_dir():
            raise _os_error(errno.EISDIR)
        if not path.parent.exists():
            raise _os_error(errno.ENOENT, f"There is no folder {path.parent}")
        if not path.parent.is_dir():
            raise _os_error(errno.ENOTDIR, f"{path.parent} is not a folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise _os_error(errno.EACCES, f"The folder {path.parent} may not be written to")


@contextlib.contextmanager
def _named(path):
    """Let an OSError name the path that was given."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _os_error(number, reason=None):
    return OSError(number, reason or os.strerror(number))


def _sync_folder(folder):
    """Flush the directory entry to disk, where the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
