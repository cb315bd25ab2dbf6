"""Messages about parameters."""

import numpy as np
import pytest

from skcc.validation import check_choice, check_integer, check_real


def test_legal_values_pass():
    for value in (3, np.int64(3), "auto", None):
        check_integer("n", value, 3, also=["auto", None])
    for value in (0, 0.0, np.float32(2.5), 7):
        check_real("x", value, 0)
    check_choice("c", "b", ["a", "b"])
    check_choice("c", 1, [0, 1])


@pytest.mark.parametrize("value", [2, 3.0, "3", True, np.array([4]), None])
def test_integers(value):
    with pytest.raises(ValueError, match=r"n must be an int >= 3 or 'auto'; got .*of type"):
        check_integer("n", value, 3, also=["auto"])


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "1", None, False])
def test_numbers(value):
    with pytest.raises(ValueError, match=r"x must be a number > 0; got"):
        check_real("x", value, 0, closed=False)


@pytest.mark.parametrize("value", ["A", 0, True, None, ["a"]])
def test_choices(value):
    with pytest.raises(ValueError, match=r"c must be one of 'a', 1; got"):
        check_choice("c", value, ["a", 1])
