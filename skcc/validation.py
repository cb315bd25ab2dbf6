"""Checks of the parameters of estimators."""

import difflib
import math
import os
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import NoReturn

import numpy as np


def plain(value):
    """Return a parameter as a value of Python's own types, where NumPy or a path object holds it.

    Parameters
    ----------
    value : object
        Value of a parameter.

    Returns
    -------
    plain : object
        For scalars and arrays of NumPy the number, string or tuple; for `os.PathLike` other than
        `Path` the string; the value itself otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.str_("gray")), plain(np.array([8, 8])), plain("gray")
    ('gray', (8, 8), 'gray')
    """
    if isinstance(value, (np.generic, np.ndarray)):
        value = value.tolist()
        return tuple(value) if isinstance(value, list) else value
    if type(value) in (list, tuple) and any(isinstance(v, (np.generic, np.ndarray)) for v in value):
        return type(value)(map(plain, value))
    if isinstance(value, os.PathLike) and not isinstance(value, Path):
        return os.fsdecode(value)
    return value


def raise_invalid(name: str, value, expected: str) -> NoReturn:
    """Raise the ValueError of an invalid parameter.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    expected : str
        What it must be.

    Raises
    ------
    ValueError
        Always.
    """
    raise ValueError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}")


def check_known(what: str, name: str, known: Iterable[str]) -> None:
    """Check that a name is known, and suggest the one that was probably meant.

    Parameters
    ----------
    what : str
        What the name is of, such as "method".

    name : str
        The name.

    known : iterable of str
        All names.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> check_known("parameter", "max_epoch", ["max_epochs", "n_clusters"])
    Traceback (most recent call last):
    ValueError: no parameter 'max_epoch'; did you mean max_epochs? There are max_epochs, n_clusters
    """
    known = sorted(known)
    if name in known:
        return
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    meant = f"did you mean {alike[0]}? There" if alike else "there"
    raise ValueError(f"no {what} {name!r}; {meant} are {', '.join(known)}")


def _is_one_of(value, choices):
    """Whether a value is one of some strings or singletons such as None."""
    return any(value is c or (isinstance(c, str) and _equal(value, c)) for c in choices)


def _equal(value, choice):
    """Whether a value equals a choice and is of its type; True is not 1, and 1.0 is not 1."""
    if isinstance(value, bool) != isinstance(choice, bool):
        return False
    return isinstance(value, type(choice)) and value == choice


def check_integer(name: str, value, low: int, *, also: Iterable = ()) -> None:
    """Check that a parameter is an integer not below `low`.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    low : int
        Smallest valid value.

    also : iterable, default=()
        Other valid values, such as "auto" or None.

    Raises
    ------
    ValueError
        If the value is invalid.
    """
    number = plain(value)
    if _is_one_of(number, also):
        return
    if not isinstance(number, Integral) or isinstance(number, bool) or number < low:
        raise_invalid(name, value, " or ".join([f"an int >= {low}", *map(repr, also)]))


def check_real(
    name: str,
    value,
    low: float,
    high: float = math.inf,
    *,
    closed: bool = True,
    also: Iterable = (),
) -> None:
    """Check that a parameter is a finite number in a range.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    low : float
        Lower bound.

    high : float, default=float("inf")
        Upper bound, included.

    closed : bool, default=True
        Whether `low` is included.

    also : iterable, default=()
        Other valid values, such as "auto".

    Raises
    ------
    ValueError
        If the value is invalid.
    """
    number = plain(value)
    if _is_one_of(number, also):
        return
    is_number = isinstance(number, Real) and not isinstance(number, bool) and math.isfinite(number)
    if not is_number or not low <= number <= high or (number == low and not closed):
        expected = f"a number {'>=' if closed else '>'} {low:g}"
        if high < math.inf:
            expected += f" and <= {high:g}"
        raise_invalid(name, value, " or ".join([expected, *map(repr, also)]))


def check_choice(name: str, value, choices: Iterable) -> None:
    """Check that a parameter is one of some choices, of the same type; NumPy's count as Python's.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    choices : iterable
        Valid values.

    Raises
    ------
    ValueError
        If the value is invalid.
    """
    choices, given = list(choices), plain(value)
    if not any(_equal(given, c) for c in choices):
        raise_invalid(name, value, "one of " + ", ".join(map(repr, choices)))


def check_folder(name: str, folder, *, is_complete: Callable[[Path], bool] | None = None) -> None:
    """Check that a parameter is None, or a folder in which files can be made.

    Parameters
    ----------
    name : str
        Name of the parameter.

    folder : object
        Its value. A folder that does not exist must be one that can be made.

    is_complete : callable, default=None
        Returns whether an existing folder already holds what is needed, so that it need not be
        writable.

    Raises
    ------
    ValueError
        If the value is invalid.
    """
    folder = plain(folder)
    if folder is None:
        return
    if not isinstance(folder, (str, Path)):
        raise_invalid(name, folder, "a path or None")
    path = existing = Path(folder).absolute()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # it is made later, or a file is in its place
    except (OSError, ValueError) as error:  # a name that is too long, or has a null character
        raise ValueError(f"{name}={str(folder)!r} cannot be a folder: {error}") from error
    while not os.path.lexists(existing):  # ends at the root
        existing = existing.parent
    if not existing.is_dir():
        raise_invalid(name, folder, f"a folder, and {existing} is not one")
    is_writable = os.access(existing, os.W_OK | os.X_OK)
    if not is_writable and not (existing == path and is_complete and is_complete(path)):
        raise_invalid(name, folder, f"a folder that can be written to, and {existing} cannot")
