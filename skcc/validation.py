"""Checks of the parameters of estimators."""

import math
from collections.abc import Iterable
from numbers import Integral, Real


def _raise_invalid(name, value, expected):
    """Raise the ValueError of an invalid parameter."""
    raise ValueError(f"{name} must be {expected}; got {value!r} of type {type(value).__name__}")


def _is_one_of(value, choices):
    """Whether a value is one of some strings or singletons such as None."""
    return any(value is c or (isinstance(c, str) and value == c) for c in choices)


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
    if _is_one_of(value, also):
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        _raise_invalid(name, value, " or ".join([f"an int >= {low}", *map(repr, also)]))


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
    if _is_one_of(value, also):
        return
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high or (value == low and not closed):
        expected = f"a number {'>=' if closed else '>'} {low:g}"
        if high < math.inf:
            expected += f" and <= {high:g}"
        _raise_invalid(name, value, " or ".join([expected, *map(repr, also)]))


def check_choice(name: str, value, choices: Iterable) -> None:
    """Check that a parameter is one of some choices, of the same type.

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
    choices = list(choices)
    if not any(type(value) is type(c) and value == c for c in choices):
        _raise_invalid(name, value, "one of " + ", ".join(map(repr, choices)))
