"""The state of an unfinished training run, in one file that is always whole.

A checkpoint holds tensors and plain values only, and is read without executing anything.
"""

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

_VERSION = 1
_SECONDS = 20.0
_PART = 2**24  # bytes of samples that are looked at together


def fingerprint(samples: Tensor) -> str:
    """A short name for the contents of a data set.

    Parameters
    ----------
    samples : Tensor of shape (n, ...)
        The samples.

    Returns
    -------
    digest : str
        Differs if a value, the order, the shape or the type differs.
    """
    digest = hashlib.blake2b(f"{samples.dtype} {tuple(samples.shape)}".encode(), digest_size=16)
    # In parts of one size in bytes: the samples may be a file, mapped, larger than memory.
    for part in samples.split(max(1, _PART * len(samples) // max(1, samples.nbytes))):
        digest.update(part.cpu().contiguous().numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path : Path
        The file; one that is there stays as it is until the new one is complete.

    Yields
    ------
    file : BinaryIO
        To be written.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


class Checkpoint:
    """One file of a folder, replaced as training goes on.

    Parameters
    ----------
    path : Path
        The file; its folder is made when it is needed.

    settings : dict of str to object
        What must be the same for a run to be continued; plain values.

    seed : int or None
        Seed of the run; kept in the file.
    """

    def __init__(self, path: Path, settings: dict[str, object], seed: int | None):
        self.path = Path(path)
        self.settings = settings
        self.seed = seed
        self._saved = time.monotonic()

    def load(self) -> dict | None:
        """Read the state that was saved last.

        Returns
        -------
        state : dict or None
            None if there is none.

        Raises
        ------
        ValueError
            If the file is damaged, or belongs to a run with other settings; says which.
        """
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            version, settings = state["version"], state["settings"]
        except Exception as error:
            raise ValueError(f"{self.path} is no checkpoint that can be read: {error}") from error
        if version != _VERSION:
            raise ValueError(f"{self.path} has version {version}; this skcc reads {_VERSION}")
        differing = [
            f"{name} was {settings.get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if settings.get(name) != value
        ]
        if differing:
            raise ValueError(
                f"{self.path} belongs to another run: {'; '.join(differing)}. Give another "
                "checkpoint_dir, or the same data and parameters."
            )
        return state

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save.

        Returns
        -------
        answer : bool
            Saving after every epoch would cost more than the epoch.
        """
        return time.monotonic() - self._saved >= _SECONDS

    def save(self, state: dict) -> None:
        """Replace the file by a new one, at once.

        Parameters
        ----------
        state : dict
            Tensors, plain values, and lists and dicts of them.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        own = {"version": _VERSION, "settings": self.settings, "seed": self.seed}
        with replaced(self.path) as file:
            torch.save({**own, **state}, file)
        self._saved = time.monotonic()
