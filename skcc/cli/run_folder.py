"""The folder that ``skcc fit`` writes: its files and the record of the run."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

CHECKPOINT, SORTED, EMBEDDINGS = "checkpoint", "sorted", "embeddings"
MODEL, LABELS, HISTORY = "model.safetensors", "labels.csv", "history.csv"
PAGE, RECORD = "report.html", "run.json"

# Fields that the page needs, and their types: a record may come from somebody else.
_FIELD_TYPES = {
    "path": str, "run": dict, "invalid": list, "command": str, "estimator": str, "epochs": int,
    "seconds": (int, float), "settings": dict, "versions": dict, "classes_from_folders": bool,
}  # fmt: skip


def model_file(path) -> str:
    """Return the file of a model, which may be named by the folder of its run."""
    if not os.path.isdir(path):
        return os.fspath(path)
    file = os.path.join(path, MODEL)
    if not os.path.isfile(file):
        raise ValueError(f"{path} is a folder without {MODEL}; wanted a model, or a folder of one")
    return file


def read_record(folder: Path) -> dict:
    """Read the record of a finished run."""
    path = folder / RECORD
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run of skcc fit: there is no {path}")
    try:
        record = json.loads(path.read_text())
        for name, expected in _FIELD_TYPES.items():
            _check_type(name, record[name], expected)
        _check_type("root", record["run"]["root"], str)
        _check_type("parameters", record["run"]["parameters"], dict)
        for name, reason in record["invalid"]:
            _check_type("invalid", name + reason, str)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return record


def _check_type(name, value, expected):
    if not isinstance(value, expected):
        raise TypeError(f"{name} is of type {type(value).__name__}")


def image_names(paths: Sequence[str], record: dict) -> list[str]:
    """Return the paths of images relative to the folder of images of a run."""
    names = [os.path.relpath(path, record["path"]) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if Path(name).anchor or ".." in Path(name).parts:
            raise ValueError(f"{path!r} is not below {record['path']!r}, the folder of the run")
    return names
