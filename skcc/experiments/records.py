"""Records of runs, one JSON line each, and tables of them beside the papers' figures.

A folder of results holds a file DATASET.jsonl for each data set. `published.csv` holds every figure
of the papers' tables, with its source.
"""

import csv
import io
import json
import os
import statistics
import warnings
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

SCORES = ("nmi", "acc", "ari")  # in the order of the papers
SOURCES = {
    "CC": 'Li et al., "Contrastive Clustering", AAAI 2021; rows above CC as collected there',
    "TCC": (
        'Shen et al., "You Never Cluster Alone", NeurIPS 2021, as quoted by later papers; on '
        "CIFAR-10 the ARI is lower than any that goes with this ACC"
    ),
}
# What stands for a row of the papers is not always the very algorithm behind it.
STANDS_FOR = {
    "spectral": "spectral clustering of a graph of 10 neighbours; the papers' is self-tuning",
    "agglomerative": "Ward's linkage along a graph of 10 neighbours; the papers' is of mutual "
    "nearest neighbours (Gowda and Krishna, 1978)",
    "nmf": "NMF in the Frobenius norm, then k-means; the papers' preserves locality",
}
STUDIES = ("table", "augmentation", "heads", "backbones")
FORMATS = ("text", "markdown", "csv")
_NO_SETTINGS = {"n_clusters", "random_state", "verbose", "device", "n_jobs", "checkpoint_dir"}
_COLUMNS = ("row", "settings", "seeds", "NMI", "ACC", "ARI", "clusters", "seconds", "forwards")
_COLUMNS += ("device", "published NMI", "published ACC", "published ARI")


# -- records on disk ------------------------------------------------------------------------


def append(path, record: dict) -> None:
    """Add a record to a file of JSON lines; what was there stays whole if this is cut off.

    Parameters
    ----------
    path : str or Path
        The file; made when it is not there, with its folder.

    record : dict
        Plain values.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        line = json.dumps(record).encode() + b"\n"
        if file.tell() and _last_byte(file) != b"\n":
            line = b"\n" + line  # a line before was cut off
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def read(path) -> list[dict]:
    """Records of a file, or of all files of a folder.

    Parameters
    ----------
    path : str or Path
        A file of JSON lines, or a folder that has some.

    Returns
    -------
    records : list of dict
        By file name, then in the order in which they were added. Lines that were cut off are
        passed over with a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no file in it.
    """
    path = Path(path)
    names = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not names or not names[0].is_file():
        raise FileNotFoundError(f"no results (files of JSON lines, *.jsonl) in {path}")
    return [record for name in names for record in _records(name)]


def _records(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            warnings.warn(f"{path}, line {number} was cut off, and is passed over", stacklevel=4)


# -- the papers' figures --------------------------------------------------------------------


def published() -> list[dict]:
    """Every figure of the papers' tables and ablations.

    Returns
    -------
    figures : list of dict
        ``study``, a key of `STUDIES`; ``dataset``; ``name`` as printed; ``nmi``, ``acc`` and
        ``ari``, floats or None; ``row``, what of ours goes beside it, or "" where that is not
        implemented; ``source``, a key of `SOURCES`.
    """
    text = files("skcc").joinpath("published.csv").read_text()
    figures = list(csv.DictReader(io.StringIO(text)))
    for figure in figures:
        figure |= {name: float(figure[name]) if figure[name] else None for name in SCORES}
    return figures


# -- tables ---------------------------------------------------------------------------------


def summarise(records: Iterable[dict]) -> list[dict]:
    """Mean and standard deviation over the seeds of each setting.

    Parameters
    ----------
    records : iterable of dict
        As `read` gives them; of several with one setting and seed the last one counts. Those that
        are of no run are passed over.

    Returns
    -------
    groups : list of dict
        One per study, data set, row, read-out and setting. ``nmi``, ``acc`` and ``ari`` are pairs
        of mean and sample standard deviation, the latter None for one seed, and both None
        without classes.
    """
    groups: dict[tuple, dict] = {}
    for record in records:
        if "method" not in record:
            continue
        # `skcc run` belongs to no study: its lines are rows of the table.
        study, row = record.get("study", "table"), record.get("row", record["method"])
        key = study, record["dataset"], row, _settings(record), record["n"]
        groups.setdefault(key, {})[record["parameters"].get("random_state")] = record
    out = []
    for (study, dataset, row, settings, n), by_seed in groups.items():
        runs = list(by_seed.values())
        group = {
            "study": study, "dataset": dataset, "row": row, "settings": settings, "n": n,
            "seeds": len(runs),
            "clusters": min(run["clusters"] for run in runs),
            "seconds": statistics.median(run["seconds"] for run in runs),
            "forwards": runs[-1]["image_forwards"],
            "device": _device(runs[-1]),
        }  # fmt: skip
        out.append(group | {"readout": "", **_moments(runs)})
        if all(run.get("kmeans") for run in runs):
            means = _moments([run["kmeans"] for run in runs])
            out.append(group | {"readout": "k-means of features", "clusters": "", **means})
    return out


def _device(record):
    """Where it ran; on a CPU, with how many threads."""
    device, threads = record["device"], record["threads"]
    return device if device != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def _settings(record):
    """What was set by hand, in words."""
    words = {n: v for n, v in record["parameters"].items() if n not in _NO_SETTINGS}
    for name in record.get("varied", ()):
        words.pop(name, None)
    return " ".join(f"{name}={value}" for name, value in sorted(words.items()))


def _moments(runs):
    moments = {}
    for score in SCORES:
        values = [run[score] for run in runs]
        if None in values:
            moments[score] = (None, None)
            continue
        spread = statistics.stdev(values) if len(values) > 1 else None
        moments[score] = (statistics.fmean(values), spread)
    return moments


def tables(records: Iterable[dict]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Our figures beside the papers', a table for each study and data set.

    Parameters
    ----------
    records : iterable of dict
        As `read` gives them.

    Yields
    ------
    title : str
        Study, data set, number of images.

    rows : list of dict of str to str
        Cells by column. Rows of the papers that are not implemented, or were not run, say so.
    """
    groups, figures = summarise(records), published()
    keys = sorted({(STUDIES.index(g["study"]), g["dataset"]) for g in groups})
    for number, dataset in keys:
        study = STUDIES[number]
        ours = [g for g in groups if (g["study"], g["dataset"]) == (study, dataset)]
        theirs = [f for f in figures if (f["study"], f["dataset"]) == (study, dataset)]
        names = {f["row"]: f["name"] for f in figures if f["study"] == study}
        sizes = ", ".join(f"{n:,}" for n in sorted({g["n"] for g in ours}))
        yield f"{study}, {dataset} ({sizes} images)", list(_rows(ours, theirs, names))


def _rows(ours, theirs, names):
    placed = []
    for figure in theirs:
        mine = [g for g in ours if figure["row"] and g["row"] == figure["row"]]
        placed += mine
        printed = {f"published {s.upper()}": _number(figure[s]) for s in SCORES}
        if not mine:
            state = "not run" if figure["row"] else "not implemented"
            yield _cells(row=figure["name"], settings=state, **printed)
        for at, group in enumerate(mine):
            yield _cells(**_ours(group, figure["name"]), **({} if at else printed))
    for group in ours:
        if group not in placed:
            yield _cells(**_ours(group, names.get(group["row"], group["row"])))


def _cells(**given):
    return {column: given.get(column, "") for column in _COLUMNS}


def _ours(group, name):
    readout = f", {group['readout']}" if group["readout"] else ""
    ours = f" ({group['row']})" if group["row"] and group["row"] != name else ""
    return {
        "row": name + ours + readout,
        "settings": group["settings"],
        "seeds": str(group["seeds"]),
        **{score.upper(): _number(*group[score]) for score in SCORES},
        "clusters": str(group["clusters"]),
        "seconds": f"{group['seconds']:.{0 if group['seconds'] >= 10 else 1}f}",
        "forwards": f"{group['forwards']:,}" if group["forwards"] else "",
        "device": group["device"],
    }


def _number(mean, spread=None):
    if mean is None:
        return ""
    text = f"{mean:.3f}".removeprefix("0")
    return text if spread is None else f"{text} ± {spread:.3f}".replace("± 0.", "± .")


def render(records: Iterable[dict], style: str) -> str:
    """Tables as text, Markdown or CSV.

    Parameters
    ----------
    records : iterable of dict
        As `read` gives them.

    style : {"text", "markdown", "csv"}
        How.

    Returns
    -------
    text : str
        All tables; as CSV one table, with the titles in a first column.

    Raises
    ------
    ValueError
        If there is no such style.
    """
    if style not in FORMATS:
        raise ValueError(f"style must be one of {', '.join(FORMATS)}; got {style!r}")
    found = list(tables(records))
    if style == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, ["table", *_COLUMNS], lineterminator="\n")
        writer.writeheader()
        for title, rows in found:
            writer.writerows({"table": title, **row} for row in rows)
        return out.getvalue()
    table = _markdown if style == "markdown" else _text
    parts = [f"{'## ' if style == 'markdown' else ''}{title}\n\n{table(rows)}"
             for title, rows in found]  # fmt: skip
    heading = ["# Results\n\n" + _LEGEND] if style == "markdown" else []
    return "\n\n".join([*heading, *parts, _notes(found)]) + "\n"


_LEGEND = (
    "Made by `skcc table docs/results --format markdown` from the records in `docs/results`, that "
    "`skcc reproduce` writes; nothing here is typed. Mean ± standard deviation over the seeds 0, "
    "1, ...; seconds are the median; clusters are the fewest that a seed used; forwards are images "
    "that passed through a network in training. No score is the best of several epochs, and no "
    "choice saw a class."
)


def _notes(found):
    """What must be said of the rows that are shown."""
    shown = {row["row"] for _, rows in found for row in rows}
    printed = any(row["published ACC"] for _, rows in found for row in rows)
    notes = [f"{name}: {text}." for name, text in STANDS_FOR.items()
             if any(f"({name})" in row for row in shown)]  # fmt: skip
    notes += [f"Published: {text}." for text in SOURCES.values()] if printed else []
    return "\n".join(f"- {note}" for note in notes)


def _used(rows):
    return [column for column in _COLUMNS if any(row[column] for row in rows)]


def _markdown(rows):
    columns = _used(rows)
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(rows):
    columns = _used(rows)
    widths = [max(len(c), *(len(row[c]) for row in rows)) for c in columns]
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    return "\n".join(
        "  ".join(line[c].ljust(width) for c, width in zip(columns, widths, strict=True)).rstrip()
        for line in lines
    )
