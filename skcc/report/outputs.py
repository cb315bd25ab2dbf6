"""Files that a clustering writes: tables of labels and of losses, images sorted into folders.

File names that are not valid UTF-8 keep their bytes in the CSV tables.
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
_FORMULA_PREFIXES = tuple("=+-@\t\r\n")  # a spreadsheet takes a cell for a formula by these


def read_names(path, n_clusters: int) -> dict[int, str]:
    """Read the names of clusters that the page has exported.

    Parameters
    ----------
    path : str or Path
        JSON file of an object from numbers of clusters to names. Clusters may share a name.

    n_clusters : int
        Number of clusters of the model.

    Returns
    -------
    names : dict of int to str
        Name of each cluster that has one.

    Raises
    ------
    ValueError
        If the file is something else, or names a cluster that the model has not.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        names = {int(cluster): name for cluster, name in content.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(
            f'{path} is no file of names; wanted JSON such as {{"0": "cats", "3": "dogs"}}'
        ) from error
    for cluster, name in names.items():
        if not 0 <= cluster < n_clusters:
            raise ValueError(f"{path} names cluster {cluster}; the model has 0 to {n_clusters - 1}")
        if not isinstance(name, str) or not name.strip() or name.startswith(_FORMULA_PREFIXES):
            raise ValueError(
                f"{path} names cluster {cluster} {name!r}; wanted text that does not begin with "
                "one of = + - @"
            )
    return names


def _called(label, names):
    """Return the name of a cluster, or its number."""
    return (names or {}).get(int(label), int(label))


def labels_as_csv(
    paths: Sequence, labels, probabilities, names: Mapping[int, str] | None = None
) -> bytes:
    """Format images and their clusters as CSV.

    Parameters
    ----------
    paths : sequence of str or Path
        Paths of the images.

    labels : array-like of shape (n,)
        Cluster of each image; -1 if it has none.

    probabilities : array-like of shape (n,)
        Probability of that cluster. NaN is written as an empty cell.

    names : mapping of int to str, default=None
        Names that are written in place of the numbers of clusters.

    Returns
    -------
    table : bytes
        CSV in UTF-8 with a header. A path that a spreadsheet would take for a formula, such as
        ``=1+1.png``, is written as ``./=1+1.png``, which names the same file.
    """
    return _csv(
        COLUMNS,
        (
            (_escape_formula(str(path)), _called(label, names), "" if np.isnan(p) else f"{p:.6f}")
            for path, label, p in zip(paths, labels, probabilities, strict=True)
        ),
    )


def _escape_formula(path):
    """Return a path of the same file that a spreadsheet does not take for a formula."""
    return f"./{path}" if path.startswith(_FORMULA_PREFIXES) else path


def labels_as_json(
    paths: Sequence, labels, probabilities, names: Mapping[int, str] | None = None
) -> bytes:
    """Format images and their clusters as JSON Lines.

    Parameters
    ----------
    paths : sequence of str or Path
        Paths of the images.

    labels : array-like of shape (n,)
        Cluster of each image; -1 if it has none.

    probabilities : array-like of shape (n,)
        Probability of that cluster. NaN is written as null.

    names : mapping of int to str, default=None
        Names that are written in place of the numbers of clusters.

    Returns
    -------
    lines : bytes
        One JSON object per image and line, in ASCII.
    """
    lines = []
    for path, label, p in zip(paths, labels, probabilities, strict=True):
        values = str(path), _called(label, names), None if np.isnan(p) else round(float(p), 6)
        lines.append(json.dumps(dict(zip(COLUMNS, values, strict=True))) + "\n")
    return "".join(lines).encode()


def read_labels(path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Read a table that `labels_as_csv` made.

    Parameters
    ----------
    path : str or Path
        The CSV file.

    Returns
    -------
    paths : list of str
        Paths of the images.

    labels : ndarray of shape (n,)
        Cluster of each image; -1 if it has none.

    probabilities : ndarray of shape (n,)
        Probability of that cluster; NaN if there is none.

    Raises
    ------
    ValueError
        If the file is not such a table.
    """
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise ValueError(f"{path} has no columns {', '.join(COLUMNS)}")
    try:
        columns = zip(*rows[1:], strict=True) if rows[1:] else ((), (), ())
        paths, labels, probabilities = columns
        labels = np.array([int(label) for label in labels], dtype=np.int64)
        probabilities = np.array([float(p) if p else np.nan for p in probabilities])
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return list(paths), labels, probabilities


def history_as_csv(history: Sequence[Mapping[str, float]]) -> bytes:
    """Format loss terms as CSV, one row per epoch.

    Parameters
    ----------
    history : sequence of mapping of str to float
        Loss terms of each epoch. Their names may differ between phases of training.

    Returns
    -------
    table : bytes
        CSV in UTF-8 with a header; epochs are counted from 1. A term that an epoch does not have
        is an empty cell.
    """
    names = list(dict.fromkeys(name for terms in history for name in terms))
    rows = (
        (epoch, *(terms.get(name, "") for name in names)) for epoch, terms in enumerate(history, 1)
    )
    return _csv(("epoch", *names), rows)


def _csv(header, rows):
    """Return rows as CSV; names that are not valid UTF-8 keep their bytes."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue().encode("utf-8", "surrogateescape")


def write(path, content: bytes) -> None:
    """Write a file that appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        The file to write. An existing one is replaced only when the new one is complete.

    content : bytes
        Its whole content.
    """
    with atomic_write(Path(path)) as file:
        file.write(content)


def sort_files(files: Sequence[Path], names: Sequence[str], labels, folder, how: str) -> int:
    """Copy or link images into a new folder with one subfolder per cluster.

    The images themselves are not changed, and nothing is overwritten.

    Parameters
    ----------
    files : sequence of Path
        Image files.

    names : sequence of str
        Path of each image below the subfolder of its cluster: its path relative to the folder that
        all images come from, so that no two are equal.

    labels : array-like of shape (n,)
        Cluster of each image. Images with -1 are left out.

    folder : str or Path
        Folder to create; it must not exist.

    how : {"copy", "symlink"}
        Whether to make copies, or symbolic links to absolute paths.

    Returns
    -------
    count : int
        Number of images that were copied or linked.

    Raises
    ------
    FileExistsError
        If `folder` exists, or two images of a cluster have the same name.

    ValueError
        If a name leads out of `folder` or is the folder of another image, or if a file is missing.
    """
    folder, count = Path(folder), 0
    n_digits = len(str(max(labels)))
    _check_names_inside(names, folder)
    for file, label in zip(files, labels, strict=True):
        if label >= 0 and not os.path.isfile(file):
            raise ValueError(f"{str(file)!r} is no file, or is gone")
    folder.mkdir(parents=True)
    for file, name, label in zip(files, names, labels, strict=True):
        if label < 0:
            continue
        target = folder / f"{label:0{n_digits}}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_or_link(file, target, how)
        count += 1
    return count


def _check_names_inside(names, folder):
    """Raise if a name leads out of the folder, directly or through the link of another name."""
    parents = {parent for name in names for parent in Path(name).parents}
    for name in names:
        if Path(name).anchor or ".." in Path(name).parts:  # on Windows a drive is one, too
            raise ValueError(f"{name!r} leads out of {folder}")
        if Path(name) in parents:
            raise ValueError(f"{name!r} is also the folder of another image")


def _copy_or_link(file, target, how):
    """Create a copy of a file, or a symbolic link to it; raise if the target exists."""
    if how == "symlink":
        target.symlink_to(os.path.abspath(file))
        return
    with open(file, "rb") as source, open(target, "xb") as copy:
        shutil.copyfileobj(source, copy)
    shutil.copystat(file, target)
