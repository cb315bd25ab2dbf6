"""Embeddings in files, found by the image and the network.

Each file holds some thousand rows; further images become further files. A file is written
atomically and never changed, so no locks are needed.
"""

import contextlib
import hashlib
import json
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from skcc.atomic import atomic_write

_FORMAT = "1"
_KEY_BYTES = 16
_FILE_BYTES = 2**25  # of rows, after which a file is written
_FILE_SECONDS = 30  # after which rows are written, so that an interruption loses little


class EmbeddingCache:
    """Embeddings of one network in a folder.

    Parameters
    ----------
    folder : str or Path
        Folder of the caches of all networks; created when something is written.

    identity : mapping of str to object
        Plain values that decide what an image is mapped to.

    width : int
        Numbers per embedding.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, object], width: int):
        text = json.dumps(identity, sort_keys=True)
        name = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        self.folder, self._width = Path(folder, f"embeddings-{name}"), width
        self._keys: list[bytes] = []
        self._rows: list[np.ndarray] = []
        self._last_write = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.flush()

    def fill(self, keys: Sequence[bytes | None], rows: np.ndarray) -> np.ndarray:
        """Write known embeddings into the rows of an array.

        Parameters
        ----------
        keys : sequence of bytes or None
            Key of each image; None if it has none.

        rows : ndarray of shape (n, width)
            Array to write to.

        Returns
        -------
        found : ndarray of shape (n,)
            Whether the embedding of an image was known.
        """
        found, wanted = np.zeros(len(keys), dtype=bool), {}
        for i, key in enumerate(keys):
            if key is not None:
                wanted.setdefault(key, []).append(i)
        for path in sorted(self.folder.glob("*.safetensors")) if self.folder.is_dir() else ():
            if not wanted:
                break
            stored_keys, stored_rows = self._read(path)
            for key, row in zip(stored_keys, stored_rows, strict=True):
                index = wanted.pop(key, None)
                if index is not None:
                    rows[index], found[index] = row, True
        return found

    def add(self, keys: Sequence[bytes | None], rows: np.ndarray) -> None:
        """Keep embeddings; they are written to a file together with later ones.

        Parameters
        ----------
        keys : sequence of bytes or None
            Key of each image; those without one are not kept.

        rows : ndarray of shape (n, width)
            Their embeddings.
        """
        with_key = [i for i, key in enumerate(keys) if key is not None]
        if with_key:
            self._keys += [keys[i] for i in with_key]
            self._rows.append(rows[with_key])
        is_late = time.monotonic() - self._last_write > _FILE_SECONDS
        if is_late or len(self._keys) * self._width * 4 >= _FILE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was kept so far."""
        self._last_write = time.monotonic()
        if not self._keys:
            return
        rows = np.ascontiguousarray(np.concatenate(self._rows), dtype=np.float32)
        keys = np.frombuffer(b"".join(self._keys), np.uint8).reshape(-1, _KEY_BYTES)
        metadata = {"skcc_embeddings": _FORMAT, "checksum": str(_checksum(keys, rows))}
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self.folder / f"{uuid.uuid4().hex}.safetensors") as file:
            file.write(save({"keys": keys, "rows": rows}, metadata))
        self._keys, self._rows = [], []

    def _read(self, path):
        """Return keys and rows of a file; nothing if it is damaged or gone."""
        with contextlib.suppress(SafetensorError, OSError, KeyError, ValueError):
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                keys, rows = file.get_tensor("keys"), file.get_tensor("rows")
            intact = metadata.get("skcc_embeddings") == _FORMAT
            intact = intact and metadata.get("checksum") == str(_checksum(keys, rows))
            if intact and rows.shape == (len(keys), self._width) and keys.shape[1] == _KEY_BYTES:
                return [key.tobytes() for key in keys], rows
        return [], []


def _checksum(keys, rows):
    return zlib.crc32(np.ascontiguousarray(rows), zlib.crc32(np.ascontiguousarray(keys)))
