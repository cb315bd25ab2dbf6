"""A fitted estimator in one safetensors file.

The arrays are tensors of the file; everything else is JSON in its header. Reading one executes
nothing: what is neither a plain value nor an array is refused when it is written.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from skcc.augment import ImageAugmentation, NoAugmentation, VectorAugmentation
from skcc.checkpoint import replaced

_FORMAT = 1
_AUGMENTATIONS = {
    cls.__name__: cls for cls in (ImageAugmentation, NoAugmentation, VectorAugmentation)
}


def write(path, header: Mapping[str, object], state: Mapping[str, object]) -> None:
    """Write a file, at once: one that is there already is replaced, or left whole.

    Parameters
    ----------
    path : str or Path
        The file.

    header : dict of str to object
        What tools may want to read without loading; plain values.

    state : dict of str to object
        Plain values, arrays, `Path`, `RandomState`, augmentations, and tuples, lists and dicts of
        these. Functions and modules are stored by name only.

    Raises
    ------
    TypeError
        If the state holds anything else; says what and where.
    """
    arrays: dict[str, np.ndarray] = {}
    packed = _pack(dict(state), "", arrays)
    metadata = {"skcc_format": str(_FORMAT), **{k: json.dumps(v) for k, v in header.items()}}
    with replaced(Path(path)) as file:
        file.write(to_bytes(arrays, metadata | {"state": json.dumps(packed)}))


def read(path, given: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Read a file.

    Parameters
    ----------
    path : str or Path
        The file.

    given : dict of str to object
        Functions and modules, by the last part of their names in the state.

    Returns
    -------
    header : dict of str to object
        As it was written.

    state : dict of str to object
        As it was written; arrays are new.

    Raises
    ------
    FileNotFoundError
        If there is no file.

    ValueError
        If the file is damaged, foreign or of a newer format, or lacks something that must be
        given; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    version = metadata.pop("skcc_format", None)
    if version is None:
        raise ValueError(f"{path} is a safetensors file, but holds no estimator of skcc")
    if version != str(_FORMAT):
        raise ValueError(
            f"{path} has format {version} of a newer skcc; this one reads format {_FORMAT}"
        )
    try:
        header = {name: json.loads(text) for name, text in metadata.items()}
        packed = header.pop("state")
        state = _unpack(packed, "", arrays, given)
    except _NotGivenError as error:
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return header, state


class _NotGivenError(Exception):
    """Something that no file holds was not given."""


def _pack(value, where, arrays):
    """JSON of a value, one key naming its kind where JSON has none; arrays are put aside."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    packed = _pack_array(value, where, arrays) or _pack_container(value, where, arrays)
    if packed is not None:
        return packed
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, np.random.RandomState):
        return {"random state": _pack(value.get_state(legacy=False), where, arrays)}
    if type(value) in _AUGMENTATIONS.values():
        fields = _pack(vars(value), where, arrays)
        return {"augmentation": [type(value).__name__, fields]}
    if callable(value):
        return {"given": getattr(value, "__qualname__", type(value).__qualname__)}
    raise TypeError(
        f"{where} is of type {type(value).__name__}, which a file cannot hold; pickle can"
    )


def _pack_container(value, where, arrays):
    if isinstance(value, Mapping):
        return {"dict": {k: _pack(v, f"{where}/{k}".lstrip("/"), arrays) for k, v in value.items()}}
    if isinstance(value, (tuple, list)):
        items = [_pack(v, f"{where}/{i}", arrays) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    return None


def _pack_array(value, where, arrays):
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.kind in "OUT":
        return {"strings": [str(item) for item in value]}
    arrays[where] = np.ascontiguousarray(value).reshape(value.shape)
    return {"array": where}


def _unpack(packed, where, arrays, given):
    if isinstance(packed, list):
        raise ValueError(f"{where} has no kind")
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()

    def inner(value, name):
        return _unpack(value, name, arrays, given)

    if kind == "dict":
        return {k: inner(v, k) for k, v in content.items()}
    if kind in ("tuple", "list"):
        items = [inner(v, where) for v in content]
        return tuple(items) if kind == "tuple" else items
    if kind == "array":
        return arrays[content]
    if kind == "strings":
        return np.array(content, dtype=object)
    if kind == "path":
        return Path(content)
    if kind == "random state":
        state = np.random.RandomState()  # noqa: NPY002
        state.set_state(inner(content, where))
        return state
    if kind == "augmentation":
        name, fields = content
        return _AUGMENTATIONS[name](**inner(fields, where))
    if kind == "given":
        if given.get(where) is None:
            raise _NotGivenError(
                f"{where} was {content}, of which a file holds only the name; give it again, "
                f"load(path, {where}=...)"
            )
        return given[where]
    raise ValueError(f"{where} is of an unknown kind, {kind!r}")
