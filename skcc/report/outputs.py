"""What a clustering leaves on disk: tables, a record, and images sorted into folders.

Tables hold the bytes of file names as they are, also where those are no text.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from skcc.atomic import atomic_write

COLUMNS = ("path", "cluster", "probability")
_FORMULA = tuple("=+-@\t\r\n")  # what a spreadsheet computes begins with one of these


def labels_as_csv(paths: Sequence, labels, probabilities) -> bytes:
    """A table of images and their clusters.

    Parameters
    ----------
    paths : sequence of str or Path
        The images.

    labels : array-like of shape (n,)
        Cluster of each; -1 is none.

    probabilities : array-like of shape (n,)
        Of those clusters. NaN is left empty.

    Returns
    -------
    table : bytes
        CSV in UTF-8, with a line of names. A path that a spreadsheet would take for a formula, such
        as ``=1+1.png``, is written as ``./=1+1.png``, which is the same file.
    """
    return _csv(
        COLUMNS,
        (
            (_no_formula(str(path)), int(label), "" if np.isnan(p) else f"{p:.6f}")
            for path, label, p in zip(paths, labels, probabilities, strict=True)
        ),
    )


def _no_formula(path):
    return f"./{path}" if path[:1] in _FORMULA else path


def labels_as_json(paths: Sequence, labels, probabilities) -> bytes:
    """The same table as a JSON object per line.

    Parameters
    ----------
    paths : sequence of str or Path
        The images.

    labels : array-like of shape (n,)
        Cluster of each; -1 is none.

    probabilities : array-like of shape (n,)
        Of those clusters. NaN is null.

    Returns
    -------
    lines : bytes
        In ASCII.
    """
    lines = []
    for path, label, p in zip(paths, labels, probabilities, strict=True):
        values = str(path), int(label), None if np.isnan(p) else round(float(p), 6)
        lines.append(json.dumps(dict(zip(COLUMNS, values, strict=True))) + "\n")
    return "".join(lines).encode()


def read_labels(path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read a table that `labels_as_csv` made.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    paths : list of str
        The images.

    labels : ndarray of shape (n,)
        Cluster of each; -1 is none.

    probabilities : ndarray of shape (n,)
        Of those clusters; NaN where there is none.

    Raises
    ------
    ValueError
        If it is no such table.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path} has no columns {', '.join(COLUMNS)}")
    try:
        paths, labels, sure = zip(*rows[1:], strict=True) if rows[1:] else ((), (), ())
        labels = np.array([int(label) for label in labels], dtype=np.int64)
        probabilities = np.array([float(p) if p else np.nan for p in sure])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return list(paths), labels, probabilities


def history_as_csv(history: Sequence[Mapping[str, float]]) -> bytes:
    """A table of the terms of the loss, a row per epoch.

    Parameters
    ----------
    history : sequence of mapping of str to float
        Terms of each epoch; those of another phase may have other names.

    Returns
    -------
    table : bytes
        CSV, with a line of names; epochs are counted from 1.
    """
    names = list(dict.fromkeys(name for terms in history for name in terms))
    rows = ((e, *(terms.get(name, "") for name in names)) for e, terms in enumerate(history, 1))
    return _csv(("epoch", *names), rows)


def _csv(names, rows):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogateescape")


def write(path, content: bytes) -> None:
    """Write a file, at once: one that is there already is replaced, or left whole.

    Parameters
    ----------
    path : str or Path
        The file.

    content : bytes
        All of it.
    """
    with atomic_write(Path(path)) as file:
        file.write(content)


def sort_files(files: Sequence[Path], names: Sequence[str], labels, folder, how: str) -> int:
    """Bring images into a new folder, in it one folder per cluster. The images stay as they are.

    Parameters
    ----------
    files : sequence of Path
        The images.

    names : sequence of str
        Where each is put in the folder of its cluster: its path below the folder that all images
        come from, so that no two are the same.

    labels : array-like of shape (n,)
        Cluster of each. Those of -1 are left out.

    folder : str or Path
        Is made; must not be there.

    how : {"copy", "symlink"}
        Whether copies are made, or symbolic links to the absolute paths.

    Returns
    -------
    count : int
        How many images were brought.

    Raises
    ------
    FileExistsError
        If something of this name is there already. Nothing is ever overwritten.

    ValueError
        If a name leads out of the folder, is that of a folder of other images, or a file is none.
    """
    folder, width, count = Path(folder), len(str(max(labels))), 0
    _check_names_inside(names, folder)
    for file, label in zip(files, labels, strict=True):
        if label >= 0 and not os.path.isfile(file):
            raise ValueError(f"{str(file)!r} is no file, or is gone")
    folder.mkdir(parents=True)
    for file, name, label in zip(files, names, labels, strict=True):
        if label < 0:
            continue
        target = folder / f"{label:0{width}}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _bring(file, target, how)
        count += 1
    return count


def _check_names_inside(names, folder):
    """No name may lead out, itself or through a link that was made for another name."""
    above = {parent for name in names for parent in Path(name).parents}
    for name in names:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"{name!r} leads out of {folder}")
        if Path(name) in above:
            raise ValueError(f"{name!r} is also the folder of another image")


def _bring(file, target, how):
    if how == "symlink":
        target.symlink_to(os.path.abspath(file))
        return
    with open(file, "rb") as source, open(target, "xb") as copy:  # x: only if nothing is there
        shutil.copyfileobj(source, copy)
    shutil.copystat(file, target)
