"""What differs on Windows and macOS, as far as it can be checked elsewhere."""

import io
import json
import multiprocessing
import os
import runpy
import sys
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from skcc import ContrastiveClustering, ambient, data
from skcc.cli import main
from skcc.data import decoding, folders
from skcc.report import outputs


@pytest.mark.parametrize("module", [ambient, decoding])
def test_modules_load_where_there_is_no_fork(module, monkeypatch):
    monkeypatch.delattr(os, "register_at_fork")
    runpy.run_path(module.__file__)


def test_files_have_the_same_order_with_other_separators(monkeypatch):
    paths = ["b/a.png", "b c/a.png", "b.d/a.png", "b/a/0.png", "a.png"]
    expected = sorted(paths, key=folders._by_parts)
    assert expected == sorted(paths, key=lambda path: path.split("/"))
    monkeypatch.setattr(folders.os, "sep", "\\")
    windows = [path.replace("/", "\\") for path in paths]
    assert sorted(windows, key=folders._by_parts) == [p.replace("/", "\\") for p in expected]


@pytest.mark.parametrize("kind", [PureWindowsPath, PurePosixPath])
def test_no_name_leads_out_of_the_sorted_folder(monkeypatch, kind):
    monkeypatch.setattr(outputs, "Path", kind)
    outside = ["/x.png", "../x.png", "a/../../x.png"]
    if kind is PureWindowsPath:
        outside += ["C:x.png", "C:\\x.png", "\\x.png", "..\\x.png", "\\\\host\\share\\x.png"]
    for name in outside:
        with pytest.raises(ValueError, match="leads out of"):
            outputs._check_names_inside([name], "sorted")
    outputs._check_names_inside(["a/x.png", "a/y..png"], "sorted")


def test_suffixes_of_any_case_are_images(tmp_path):
    for name in ("A.PNG", "b.Png", "c.png"):
        Image.new("L", (4, 4)).save(tmp_path / name, "png")
    assert [path.name for path in data.image_files(tmp_path)] == ["A.PNG", "b.Png", "c.png"]


def test_a_terminal_without_a_letter_gets_its_number(tmp_path, monkeypatch):
    record = {"method": "kmeans", "dataset": "\u96ea", "parameters": {}, "n": 9, "clusters": 2,
              "seconds": 1.0, "image_forwards": 0, "device": "cpu", "threads": 1,
              "nmi": 0.5, "acc": 0.5, "ari": 0.5}  # fmt: skip
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252"))
    assert main(["table", str(tmp_path)]) == 0
    assert written.getvalue().startswith(b"\\u96ea (9 images)")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_model_predicts_in_a_process_that_was_not_forked():
    X = np.random.default_rng(0).integers(0, 255, (40, 8, 8), dtype=np.uint8)
    model = ContrastiveClustering(2, max_epochs=1, readout="head", random_state=0).fit(X)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(model.predict, [X]), model.labels_)
