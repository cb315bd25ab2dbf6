"""Checkpoints of training: written atomically, with a checksum and one previous version.

A checkpoint holds tensors and plain values only, and reading one executes no code.
"""

import contextlib
import hashlib
import io
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from skcc._version import __version__
from skcc.atomic import atomic_write
from skcc.exceptions import CheckpointWarning, warn

_VERSION = 3
_SECONDS = 20.0  # between two writes
_HASH_CHUNK = 2**24  # bytes
_MAGIC = b"skccsum1"  # last bytes of a file, after the checksum of everything before it
_DIGEST = 32  # bytes of the checksum
_CONTENTS = ", contents "  # precedes the hash in a fingerprint


def fingerprint(samples: Tensor) -> str:
    """Describe a data set by its size, type and a hash of its contents.

    Parameters
    ----------
    samples : Tensor of shape (n, ...)
        The samples.

    Returns
    -------
    description : str
        Differs if a value, the order, the shape or the type differs.
    """
    digest = hashlib.blake2b(f"{samples.dtype} {tuple(samples.shape)}".encode(), digest_size=16)
    # In chunks, since the samples may be a memory-mapped file that is larger than memory.
    for chunk in samples.split(max(1, _HASH_CHUNK * len(samples) // max(1, samples.nbytes))):
        digest.update(chunk.cpu().contiguous().numpy())
    n, *shape = samples.shape
    size = f"{n} samples of shape {tuple(shape)}" if shape else f"{n} values"
    dtype = str(samples.dtype).removeprefix("torch.")
    return f"{size}, {dtype}{_CONTENTS}{digest.hexdigest()}"


class Checkpoint:
    """The checkpoint file of a training run, and the previous version of it.

    Parameters
    ----------
    path : Path
        The file. Its folder is created by the first `save`. The previous version is in the same
        folder, with ".previous" in its name.

    settings : dict of str to object
        Plain values that must be equal for a run to be continued.

    seed : int or None
        Seed of the run, stored in the file.
    """

    def __init__(self, path: Path, settings: dict[str, object], seed: int | None):
        self.path = Path(path)
        self.previous = self.path.with_suffix(f".previous{self.path.suffix}")
        self.settings = settings | {"the version of skcc": __version__}
        self.seed = seed
        self._last_save = time.monotonic()
        self._is_valid = False  # whether the file was read or written by this object

    def load(self) -> dict | None:
        """Read the newest state that can be read.

        Returns
        -------
        state : dict or None
            As given to `save`, with the version, settings and seed of the run; None if there is no
            file.

        Raises
        ------
        ValueError
            If there are files but none can be read, or if the run had other settings.

        Warns
        -----
        CheckpointWarning
            If the newest file cannot be read, or was written by another version of torch.
        """
        problems = []
        for path in (self.path, self.previous):
            try:
                state = _read(path)
            except FileNotFoundError:  # a process may be killed between the two renames of `save`
                continue
            except Exception as error:
                problems.append(f"{path} is no checkpoint that can be read: {error}")
                continue
            self._check_same_run(state, path)
            self._is_valid = path == self.path
            if problems:
                message = f"{problems[0]}. Going on from {path}, which was saved before it"
                warn(message, CheckpointWarning)
            self._warn_about_torch(state, path)
            return state
        if problems:
            raise ValueError(f"{'; '.join(problems)}. Delete it, and training starts again.")
        return None

    def _check_same_run(self, state, path):
        """Raise ValueError if the state has another format version or other settings."""
        if state["version"] != _VERSION:
            raise ValueError(f"{path} has version {state['version']}; this skcc reads {_VERSION}")
        then, now = state["settings"], self.settings
        names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
        # Data first, since other differences may be consequences of it.
        names.sort(key=lambda name: _CONTENTS not in f"{then.get(name)}")
        if names:
            raise ValueError(
                f"{path} belongs to another run: "
                + "; ".join(_describe_difference(n, then.get(n), now.get(n)) for n in names)
                + ". Give another checkpoint_dir, or the data and parameters of that run."
            )

    def _warn_about_torch(self, state, path):
        """Warn if the state was saved with another version of torch."""
        then, now = state["torch"], _torch_version()
        if then != now:
            warn(
                f"{path} was saved with torch {then}, and this is torch {now}: training goes on "
                "from it, but the last digits may differ from those of a run in one piece",
                CheckpointWarning,
            )

    def is_due(self) -> bool:
        """Whether the last call of `save` is long enough ago; a write may cost more than an epoch.

        Returns
        -------
        is_due : bool
            True 20 seconds after the last call, successful or not.
        """
        return time.monotonic() - self._last_save >= _SECONDS

    def save(self, state: dict) -> None:
        """Replace the file atomically, and keep the old one as the previous version.

        Parameters
        ----------
        state : dict
            Tensors, plain values, and lists and dicts of them.

        Raises
        ------
        OSError
            If the file cannot be written, as on a full disk; earlier files are kept.
        """
        self._last_save = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self.path.parent.glob(f"{self.path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)  # from a process that was killed in `save`
        header = {"version": _VERSION, "torch": _torch_version()}
        header |= {"settings": self.settings, "seed": self.seed}
        with atomic_write(self.path) as file:
            _write({**header, **state}, file)
            if self._is_valid and self.path.exists():
                # The new file must be on disk before the old one loses its name.
                file.flush()
                os.fsync(file.fileno())
                os.replace(self.path, self.previous)
        self._is_valid = True


def remove_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished run, and their folder if it is empty then.

    Parameters
    ----------
    folder : Path
        A `checkpoint_dir`.
    """
    for path in Path(folder).glob("phase-*.pt*"):  # also previous versions and temporary files
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the folder does not exist, or holds other files
        Path(folder).rmdir()


def _write(state, file):
    """Write an archive of torch, its checksum and the magic bytes."""
    archive = io.BytesIO()
    torch.save(state, archive)
    file.write(archive.getbuffer())
    file.write(hashlib.blake2b(archive.getbuffer(), digest_size=_DIGEST).digest() + _MAGIC)


def _read(path):
    """Read a state; raise ValueError if the file is damaged or no checkpoint."""
    content = Path(path).read_bytes()
    end = len(content) - _DIGEST - len(_MAGIC)
    archive = memoryview(content)[: max(0, end)]
    digest = hashlib.blake2b(archive, digest_size=_DIGEST).digest()
    # torch does not verify the checksums in its archives.
    if content[max(0, end) :] != digest + _MAGIC:
        raise ValueError("it is cut off, damaged, or not written by this skcc")
    state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not {"version", "torch", "settings", "seed"} <= state.keys():
        raise ValueError("it is not a checkpoint of this skcc")
    return state


def _describe_difference(name, then, now):
    """Describe how a setting differs, without the hashes of fingerprints."""
    if not any(_CONTENTS in f"{value}" for value in (then, now)):
        return f"{name} was {then!r} and is {now!r}"
    size_then, size_now = (f"{value}".partition(_CONTENTS)[0] for value in (then, now))
    if size_then == size_now:
        return f"{name} was changed: {size_now}, as before, but other values or another order"
    return f"{name} was {size_then} and is {size_now}"


def _torch_version():
    """The version of torch, without its build such as "+cu128"."""
    return str(torch.__version__).partition("+")[0]
