"""What a parameter of an estimator may be, and the message when it is something else."""

import math
from collections.abc import Iterable
from numbers import Integral, Real


def _refuse(name, value, wanted):
    raise ValueError(f"{name} must be {wanted}; got {value!r} of type {type(value).__name__}")


def check_integer(name: str, value, low: int, *, also: Iterable = ()) -> None:
    """Refuse what is not an integer from `low` on.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    low : int
        Smallest legal value.

    also : iterable, default=()
        Other legal values, such as "auto" or None.

    Raises
    ------
    ValueError
        Says what came and what is wanted.
    """
    if any(value is o or (isinstance(o, str) and value == o) for o in also):
        return
    if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
        _refuse(name, value, " or ".join([f"an int >= {low}", *map(repr, also)]))


def check_real(
    name: str,
    value,
    low: float,
    high: float = math.inf,
    *,
    closed: bool = True,
    also: Iterable = (),
) -> None:
    """Refuse what is not a finite number in a range.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    low : float
        Bound from below.

    high : float, default=float("inf")
        Bound from above; legal itself.

    closed : bool, default=True
        Whether `low` itself is legal.

    also : iterable, default=()
        Other legal values, such as "auto".

    Raises
    ------
    ValueError
        Says what came and what is wanted.
    """
    if any(value is o or (isinstance(o, str) and value == o) for o in also):
        return
    number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high or (value == low and not closed):
        wanted = f"a number {'>=' if closed else '>'} {low:g}"
        if high < math.inf:
            wanted += f" and <= {high:g}"
        _refuse(name, value, " or ".join([wanted, *map(repr, also)]))


def check_choice(name: str, value, choices: Iterable) -> None:
    """Refuse what is not among the choices.

    Parameters
    ----------
    name : str
        Name of the parameter.

    value : object
        Its value.

    choices : iterable
        Legal values.

    Raises
    ------
    ValueError
        Says what came and what is wanted.
    """
    choices = list(choices)
    if not any(type(value) is type(c) and value == c for c in choices):
        _refuse(name, value, "one of " + ", ".join(map(repr, choices)))
