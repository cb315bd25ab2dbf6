"""The state of an unfinished training run, in a file that is always whole, and the one before it.

A checkpoint holds tensors and plain values only, and is read without executing anything.
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
_SECONDS = 20.0
_PART = 2**24  # bytes that are looked at together
_MAGIC = b"skccsum1"  # the last bytes of a file, after a checksum of what precedes them
_DIGEST = 32
_CONTENTS = ", contents "


def fingerprint(samples: Tensor) -> str:
    """A short name for the contents of a data set.

    Parameters
    ----------
    samples : Tensor of shape (n, ...)
        The samples.

    Returns
    -------
    digest : str
        Says how many samples there are and of which kind; differs if a value, the order, the
        shape or the type differs.
    """
    digest = hashlib.blake2b(f"{samples.dtype} {tuple(samples.shape)}".encode(), digest_size=16)
    # In parts of one size in bytes: the samples may be a file, mapped, larger than memory.
    for part in samples.split(max(1, _PART * len(samples) // max(1, samples.nbytes))):
        digest.update(part.cpu().contiguous().numpy())
    n, *shape = samples.shape
    what = f"{n} samples of shape {tuple(shape)}" if shape else f"{n} values"
    kind = str(samples.dtype).removeprefix("torch.")
    return f"{what}, {kind}{_CONTENTS}{digest.hexdigest()}"


class Checkpoint:
    """A file of a folder, replaced as training goes on, and the one that was there before it.

    Parameters
    ----------
    path : Path
        The file; its folder is made when it is needed. The one before is beside it, with
        ".previous" in its name.

    settings : dict of str to object
        What must be the same for a run to be continued; plain values.

    seed : int or None
        Seed of the run; kept in the file.
    """

    def __init__(self, path: Path, settings: dict[str, object], seed: int | None):
        self.path = Path(path)
        self.previous = self.path.with_suffix(f".previous{self.path.suffix}")
        self.settings = settings | {"the version of skcc": __version__}
        self.seed = seed
        self._saved = time.monotonic()
        self._is_sound = False  # whether the file is known to be worth keeping as the one before

    def load(self) -> dict | None:
        """Read the state that was saved last, or, if that cannot be read, the one before it.

        Returns
        -------
        state : dict or None
            None if there is none.

        Raises
        ------
        ValueError
            If there are files but none can be read, or if the run had other settings; says which.

        Warns
        -----
        CheckpointWarning
            If the newest file cannot be read, or was written by another version of torch.
        """
        problems = []
        for path in (self.path, self.previous):
            try:
                state = _read(path)
            except FileNotFoundError:  # the newest one: of a process killed while it renamed them
                continue
            except Exception as error:
                problems.append(f"{path} is no checkpoint that can be read: {error}")
                continue
            self._check_same_run(state, path)
            self._is_sound = path == self.path
            if problems:
                warn(f"{problems[0]}. Going on from {path}, which was saved before it")
            self._compare_torch(state, path)
            return state
        if problems:
            raise ValueError(f"{'; '.join(problems)}. Delete it, and training starts again.")
        return None

    def _check_same_run(self, state, path):
        if state["version"] != _VERSION:
            raise ValueError(f"{path} has version {state['version']}; this skcc reads {_VERSION}")
        then, now = state["settings"], self.settings
        names = [name for name in {**now, **then} if then.get(name) != now.get(name)]
        # Data first: much of the rest may only follow from it.
        names.sort(key=lambda name: _CONTENTS not in f"{then.get(name)}")
        if names:
            raise ValueError(
                f"{path} belongs to another run: "
                + "; ".join(_difference(name, then.get(name), now.get(name)) for name in names)
                + ". Give another checkpoint_dir, or what it was begun with."
            )

    def _compare_torch(self, state, path):
        then, now = state["torch"], _torch_version()
        if then != now:
            warn(
                f"{path} was saved with torch {then}, and this is torch {now}: training goes on "
                "from it, but the last digits may differ from those of a run in one piece",
                CheckpointWarning,
            )

    def is_due(self) -> bool:
        """Whether enough time has passed since the last save, or the last attempt at one.

        Returns
        -------
        answer : bool
            Saving after every epoch would cost more than the epoch.
        """
        return time.monotonic() - self._saved >= _SECONDS

    def save(self, state: dict) -> None:
        """Replace the file by a new one, at once; what it was becomes the one before.

        Parameters
        ----------
        state : dict
            Tensors, plain values, and lists and dicts of them.

        Raises
        ------
        OSError
            If it cannot be written, as on a full disk; what was saved earlier is still there.
        """
        self._saved = time.monotonic()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in self.path.parent.glob(f"{self.path.name}.*.tmp"):
            abandoned.unlink(missing_ok=True)  # of a process that was killed while it wrote
        own = {"version": _VERSION, "torch": _torch_version()}
        own |= {"settings": self.settings, "seed": self.seed}
        with atomic_write(self.path) as file:
            _write({**own, **state}, file)
            if self._is_sound and self.path.exists():
                file.flush()
                os.fsync(file.fileno())
                os.replace(self.path, self.previous)
        self._is_sound = True


def remove(folder: Path) -> None:
    """Delete the checkpoints of a run that is finished, and the folder unless it holds more.

    Parameters
    ----------
    folder : Path
        A `checkpoint_dir`.
    """
    for path in Path(folder).glob("phase-*.pt*"):  # what a killed process left behind, too
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or holds what is not ours
        Path(folder).rmdir()


def _write(state, file):
    content = io.BytesIO()
    torch.save(state, content)
    file.write(content.getbuffer())
    file.write(hashlib.blake2b(content.getbuffer(), digest_size=_DIGEST).digest() + _MAGIC)


def _read(path):
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


def _difference(name, then, now):
    kinds = [f"{value}".partition(_CONTENTS)[0] for value in (then, now)]
    if not any(_CONTENTS in f"{value}" for value in (then, now)):
        return f"{name} was {then!r} and is {now!r}"
    if kinds[0] == kinds[1]:
        return f"{name} was changed: {kinds[0]}, as before, but other values or another order"
    return f"{name} was {kinds[0]} and is {kinds[1]}"


def _torch_version():
    return str(torch.__version__).partition("+")[0]


