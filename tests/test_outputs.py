"""Tables and sorted images, held against the csv module and the operating system."""

import csv
import json
import os

import numpy as np
import pytest

from skcc.report import outputs

# "\udcff" is how Python writes a byte that is no UTF-8.
HOSTILE = [
    "<script>alert(1)</script>.png", 'a"b,c\n.png', "=1+1.png", "-rf.png", "ü.png", "\udcff.png",
    "...png", " .png", "a\\b.png", "%2e%2e%2f.png", "$(touch x).png",
]  # fmt: skip


def test_a_table_comes_back_whatever_the_names(tmp_path):
    labels = np.arange(len(HOSTILE)) - 1
    p = np.linspace(0.5, 1, len(HOSTILE))
    p[0] = np.nan
    path = tmp_path / "labels.csv"
    outputs.write(path, outputs.labels_as_csv(HOSTILE, labels, p))
    names, again, sure = outputs.read_labels(path)
    assert [os.path.normpath(name) for name in names] == HOSTILE
    assert not any(name.startswith(("=", "+", "-", "@")) for name in names), "no formulas"
    np.testing.assert_array_equal(again, labels)
    np.testing.assert_allclose(sure, p, atol=1e-6)
    assert os.fsencode(HOSTILE[5]) in path.read_bytes()
    assert path.read_bytes().startswith(b"path,cluster,probability\n<script>")
    assert b",-1,\n" in path.read_bytes()
    lines = outputs.labels_as_json(HOSTILE, labels, p).decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["path"] for row in rows] == HOSTILE
    assert rows[0] == {"path": HOSTILE[0], "cluster": -1, "probability": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no columns path, cluster"), ("a,b\n", "no columns"), ("x", "no columns"),
     ("path,cluster,probability\na,b,0.5\n", "damaged"),
     ("path,cluster,probability\na,1\n", "damaged"),
     ("path,cluster,probability\na,1,x\n", "damaged")],
)  # fmt: skip
def test_damaged_tables_are_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        outputs.read_labels(tmp_path / "labels.csv")


def test_an_empty_table(tmp_path):
    outputs.write(tmp_path / "l.csv", outputs.labels_as_csv([], [], []))
    names, labels, p = outputs.read_labels(tmp_path / "l.csv")
    assert (names, len(labels), len(p)) == ([], 0, 0)


def test_the_history_is_a_row_per_epoch():
    table = outputs.history_as_csv([{"a": 3.5}, {"a": 2.0, "b": 1.0}]).decode()
    rows = list(csv.DictReader(table.splitlines()))
    assert rows == [{"epoch": "1", "a": "3.5", "b": ""}, {"epoch": "2", "a": "2.0", "b": "1.0"}]


@pytest.fixture
def pile(tmp_path):
    """Files with awkward names in two folders; a name occurs in both."""
    files = []
    for folder in ("one", "two"):
        for i, name in enumerate(HOSTILE):
            path = tmp_path / "pile" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.write_bytes(f"{folder} {i}".encode())
            except OSError:
                continue  # a file system that knows no such names
            os.utime(path, (1e9, 1e9))
            files.append(path)
    return files


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_images_are_brought_and_stay_as_they_are(tmp_path, pile, how, monkeypatch):
    before = {path: (path.read_bytes(), path.stat().st_mtime) for path in pile}
    root = tmp_path / "pile"
    names = [str(path.relative_to(root)) for path in pile]
    labels = np.arange(len(pile)) % 12 - 1
    monkeypatch.chdir(tmp_path)  # links must not depend on it
    files = [path.relative_to(tmp_path) for path in pile]
    count = outputs.sort_files(files, names, labels, tmp_path / "sorted", how)
    assert count == np.count_nonzero(labels >= 0)
    monkeypatch.chdir(root)
    for path, name, label in zip(pile, names, labels, strict=True):
        target = tmp_path / "sorted" / f"{label:02}" / name
        assert os.path.lexists(target) == (label >= 0)
        if label >= 0:
            assert target.is_symlink() == (how == "symlink")
            assert target.read_bytes() == before[path][0]
            assert target.stat().st_mtime == 1e9
    assert {path: (path.read_bytes(), path.stat().st_mtime) for path in pile} == before
    everything = [p for p in (tmp_path / "sorted").rglob("*") if not p.is_dir()]
    assert len(everything) == count


def test_nothing_is_overwritten(tmp_path, pile):
    names, labels = [str(i) for i in range(len(pile))], np.zeros(len(pile), int)
    for make in (lambda p: p.mkdir(), lambda p: p.write_text("x"), lambda p: p.symlink_to("/no")):
        folder = tmp_path / "sorted"
        make(folder)
        with pytest.raises(FileExistsError):
            outputs.sort_files(pile, names, labels, folder, "copy")
        folder.rmdir() if folder.is_dir() else folder.unlink()
    with pytest.raises(FileExistsError):  # two of one name: neither replaces the other
        outputs.sort_files(pile[:2], ["a", "a"], labels[:2], tmp_path / "sorted", "copy")
    assert (tmp_path / "sorted" / "0" / "a").read_bytes() == pile[0].read_bytes()


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/out.png"])
def test_no_name_leads_out_of_the_folder(tmp_path, pile, name):
    with pytest.raises(ValueError, match="leads out of"):
        outputs.sort_files(pile[:1], [name], np.zeros(1, int), tmp_path / "sorted", "copy")
    assert not (tmp_path / "sorted").exists()
