"""A fitted estimator in one safetensors file, and `save` and `load`.

The arrays are tensors of the file; everything else is JSON in its header. Reading one executes
nothing: what is neither a plain value nor an array is refused when it is written.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import sklearn
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skcc import distributed
from skcc._version import __version__
from skcc.ambient import default_torch_state
from skcc.atomic import atomic_write, check_can_be_written
from skcc.augment import ImageAugmentation, NoAugmentation, VectorAugmentation
from skcc.training.settings import check_device

_FORMAT = 1


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
    with atomic_write(Path(path)) as file:
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
        state = dict(_unpack(packed, "", arrays, given))
    except _NotGivenError as error:
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return header, state


class _NotGivenError(Exception):
    """Something that no file holds was not given."""


def _items(content, inner):
    return [inner(item, str(i)) for i, item in enumerate(content)]


def _fields(content, inner):
    return {name: inner(item, name) for name, item in content.items()}


def _random_state(content, inner):
    state = np.random.RandomState()
    state.set_state(inner(content, "state"))
    return state


# Kinds of values that JSON has not: their type, and how they become JSON and come back. `inner`
# does the same for what a value contains, and is told its name.
_KINDS: dict[str, tuple[type, Callable, Callable]] = {
    "dict": (Mapping, _fields, _fields),
    "tuple": (tuple, _items, lambda content, inner: tuple(_items(content, inner))),
    "list": (list, _items, _items),
    "path": (Path, lambda path, inner: str(path), lambda text, inner: Path(text)),
    "device": (torch.device, lambda device, inner: str(device), lambda text, inner: text),
    "random state": (
        np.random.RandomState,
        lambda state, inner: inner(state.get_state(legacy=False), "state"),
        _random_state,
    ),
    **{
        cls.__name__: (
            cls,
            lambda augmentation, inner: _fields(vars(augmentation), inner),
            lambda fields, inner, cls=cls: cls(**_fields(fields, inner)),
        )
        for cls in (ImageAugmentation, NoAugmentation, VectorAugmentation)
    },
}


def _pack(value, where, arrays):
    """JSON of a value, under a key that names its kind where JSON has none; arrays put aside."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        return _pack_array(value, where, arrays)
    for kind, (cls, pack, _) in _KINDS.items():
        if type(value) is cls or (isinstance(value, cls) and not callable(value)):
            return {kind: pack(value, lambda v, name: _pack(v, f"{where}/{name}", arrays))}
    if callable(value):
        return {"given": getattr(value, "__qualname__", type(value).__qualname__)}
    name, kind = where.strip("/"), type(value).__name__
    raise TypeError(f"{name} is of type {kind}, which a file cannot hold; pickle can")


def _pack_array(value, where, arrays):
    if value.dtype.kind in "OU":
        return {"strings": [str(item) for item in value]}
    arrays[where] = np.ascontiguousarray(value).reshape(value.shape)
    return {"array": where}


def _unpack(packed, name, arrays, given):
    """The value again; `name` is the last part of its name."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "array":
        return arrays[content]
    if kind == "strings":
        return np.array(content, dtype=object)
    if kind == "given":
        return _given(name, content, given)
    _, _, unpack = _KINDS[kind]
    return unpack(content, lambda v, inner_name: _unpack(v, inner_name, arrays, given))


def _given(name, was, given):
    if given.get(name) is None:
        raise _NotGivenError(
            f"{name} was {was}, of which a file holds only the name; give it again, as in "
            f"load(path, {name}=...)"
        )
    return given[name]


def write_estimator(path, estimator, notes: Mapping[str, object]) -> None:
    """Write a fitted estimator as `SaveLoadMixin.save` does, with further entries in the header.

    Parameters
    ----------
    path : str or Path
        The file.

    estimator : SaveLoadMixin
        A fitted estimator.

    notes : dict of str to object
        Further entries of the header; plain values.
    """
    check_is_fitted(estimator)
    if not distributed.is_rank_zero():
        return
    check_can_be_written(Path(path))
    parameters = {name: plain_value(v) for name, v in estimator._fitted_with.items()}
    header = {
        "estimator": type(estimator).__name__,
        "versions": {
            "skcc": __version__,
            **{m.__name__: m.__version__.split("+")[0] for m in (torch, np, sklearn)},
        },
        "parameters": parameters,
    }
    without_callbacks = estimator._plain_copy().set_callbacks()
    write(path, header | dict(notes), without_callbacks.__getstate__())


class SaveLoadMixin:
    """Adds `save` and `load` to an estimator whose pickled state is plain values and arrays."""

    def save(self, path) -> None:
        """Write the fitted estimator to one safetensors file, without pickle.

        Of several processes the first one writes.

        Parameters
        ----------
        path : str or Path
            The file. One that is there already is replaced.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.

        TypeError
            If a parameter cannot be stored.

        OSError
            If the file cannot be written, such as in a folder that does not exist.
        """
        write_estimator(path, self, {})

    @classmethod
    @default_torch_state()
    def load(cls, path, *, device="auto", backbone=None, augment=None) -> Self:
        """Read an estimator that was saved; nothing in the file is executed.

        Where it computes, and where it keeps files (`cache_dir`, `checkpoint_dir`), is not taken
        from the file: those are places of the machine on which it was written.

        Parameters
        ----------
        path : str or Path
            The file.

        device : str, default="auto"
            Where the estimator computes from now on, whatever it was fitted on.

        backbone : nn.Module, default=None
            The module that was given as the parameter `backbone`, if one was; its weights come
            from the file.

        augment : callable, default=None
            The function that was given as the parameter `augment`, if one was.

        Returns
        -------
        estimator : object
            Fitted, of this class.

        Raises
        ------
        FileNotFoundError
            If there is no file.

        ValueError
            If the file is damaged, foreign, of a newer skcc or of another estimator, or if a
            module or function must be given.
        """
        check_device(device)
        header, state = read(path, {"backbone": backbone, "augment": augment})
        if header.get("estimator") != cls.__name__:
            raise ValueError(f"{path} holds a {header.get('estimator')}, not a {cls.__name__}")
        estimator = cls()
        _check_plain_attributes(cls, state, path)
        unknown = set(state.get("_fitted_with", {})) ^ set(estimator.get_params(deep=False))
        if unknown:
            raise ValueError(
                f"{path} was written with {header.get('versions')}; this is skcc "
                f"{__version__}. They differ in the parameters {', '.join(sorted(unknown))}"
            )
        try:
            estimator.__setstate__(state)
            estimator.set_params(device=device, cache_dir=None, checkpoint_dir=None)
            estimator._check_weights_that_fit()
            estimator._objective()
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path}: its weights do not fit its parameters: {error}") from error
        return estimator

    def _check_weights_that_fit(self):
        """Before memory is taken for a network: whether it has the size of the weights."""
        if isinstance(self._fitted_with["backbone"], nn.Module):
            return
        with torch.device("meta"):
            objective = self._new_objective()
        wanted = {name: tuple(value.shape) for name, value in objective.state_dict().items()}
        stored = {name: value.shape for name, value in self.weights_.items()}
        for name in sorted(wanted.keys() | stored.keys()):
            if wanted.get(name) != stored.get(name):
                raise ValueError(
                    f"{name} has shape {stored.get(name)} and should have {wanted.get(name)}"
                )


def _check_plain_attributes(cls, state, path):
    """Reject a state with an attribute that would hide a method."""
    parameters = cls._get_param_names()  # whose defaults are attributes of the class, too
    hidden = [name for name in state if hasattr(cls, name) and name not in parameters]
    if hidden or not isinstance(state.get("_fitted_with", {}), dict):
        raise ValueError(f"{path} is damaged: it would replace {', '.join(hidden) or 'parameters'}")


def plain_value(value: object) -> object:
    """A parameter as a plain value, for comparison and for people.

    Parameters
    ----------
    value : object
        Any parameter.

    Returns
    -------
    plain : bool, int, float, str or None
        Modules and augmentations as their repr, functions by name.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.random.RandomState):
        return "RandomState"  # the seed that was drawn from it is kept
    if isinstance(value, nn.Module) or not callable(value) or hasattr(value, "draw"):
        return repr(value)
    return getattr(value, "__qualname__", type(value).__qualname__)
