"""Messages about parameters."""

import enum
import os
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from skcc.validation import check_choice, check_folder, check_integer, check_real, plain


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


class Readout(enum.StrEnum):
    HEAD = "head"


@pytest.mark.parametrize("value", ["head", np.str_("head"), np.array("head"), Readout.HEAD])
def test_equal_strings_pass(value):
    check_choice("c", value, ["head", "kmeans"])
    check_integer("n", value, 1, also=["head"])


@pytest.mark.parametrize("value", [2, np.int64(2), np.uint8(2), np.array(2)])
def test_equal_numbers_pass(value):
    check_choice("c", value, [0, 1, 2])
    check_integer("n", value, 2)
    check_real("x", value, 2)


@pytest.mark.parametrize("true", [True, np.True_, np.array(True)])
def test_true_is_not_one(true):
    check_choice("c", true, [False, True])
    for choices in ([0, 1], ["a", 1.0]):
        with pytest.raises(ValueError, match="c must be one of"):
            check_choice("c", true, choices)
    for one in (1, np.int64(1), np.float64(1), 1.0):
        with pytest.raises(ValueError, match="c must be one of False, True"):
            check_choice("c", one, [False, True])
    with pytest.raises(ValueError, match="c must be one of 1"):
        check_choice("c", 1.0, [1])


def test_plain_values():
    assert plain(np.array([8, 8])) == plain((np.int64(8), np.int8(8))) == (8, 8)
    assert type(plain((np.int64(8), 8))[0]) is int
    assert plain([np.int64(8), 8]) == [8, 8]
    assert plain(PurePosixPath("a/b")) == "a/b"
    for value in (None, "a", 3, (8, 8), [8], Path("a"), len):
        assert plain(value) is value


class Remote:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_folders_pass(tmp_path):
    for folder in (tmp_path, str(tmp_path), Remote(tmp_path), np.str_(tmp_path), None):
        check_folder("f", folder)
    check_folder("f", tmp_path / "new" / "newer")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_a_folder_is_named(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"")
    link.symlink_to(tmp_path / "gone")
    for value in (True, 3, b"bytes", ["a"]):
        with pytest.raises(ValueError, match=r"f must be a path or None; got .*of type"):
            check_folder("f", value)
    for value in (file, file / "below", str(file), link):
        with pytest.raises(ValueError, match=r"f must be a folder, and .* is not one; got"):
            check_folder("f", value)
    for value in (tmp_path / ("x" * 300), "a\0b"):
        with pytest.raises(ValueError, match=r"f=.* cannot be a folder: .*(long|null)"):
            check_folder("f", value)


def test_a_folder_must_be_writable_unless_it_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    for value in (tmp_path, tmp_path / "new"):
        with pytest.raises(ValueError, match="f must be a folder that can be written to, and"):
            check_folder("f", value, is_complete=lambda path: path != tmp_path)
    check_folder("f", tmp_path, is_complete=lambda path: True)
