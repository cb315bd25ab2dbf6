"""Records of runs, one JSON line each, and tables of them beside the papers' figures.

A folder of results holds a file DATASET.jsonl for each data set. `published.csv` holds all figures
of the papers' tables, with their sources.
"""

import csv
import io
import json
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path

from skcc.exceptions import warn
from skcc.training.settings import RUNTIME_PARAMETERS

SCORES = ("nmi", "acc", "ari")  # in the order of the papers
SOURCES = {
    "CC": 'Li et al., "Contrastive Clustering", AAAI 2021; rows above CC as collected there',
    "IIC": "DeepCluster as run by Ji et al., ICCV 2019, table 1",
    "TCC": (
        'Shen et al., "You Never Cluster Alone", NeurIPS 2021, as quoted by later papers; on '
        "CIFAR-10 the ARI is lower than any that goes with this ACC"
    ),
}
# Differences between a row of ours and the papers' method of that name.
STANDS_FOR = {
    "spectral": "spectral clustering of a graph of 10 neighbours; the papers' is self-tuning",
    "agglomerative": "Ward's linkage along a graph of 10 neighbours; the papers' is of mutual "
    "nearest neighbours (Gowda and Krishna, 1978)",
    "nmf": "NMF in the Frobenius norm, then k-means; the papers' preserves locality",
    "self-tuning": "affinities with a scale per sample (Zelnik-Manor and Perona, 2004), then "
    "k-means of the eigenvectors; more than 10,000 images follow the nearest of 10,000",
    "graph-degree": "graph-degree linkage (Zhang et al., 2012) with JULE's local term, in the "
    "spirit of mutual nearest neighbours; more than 10,000 images follow the nearest of 10,000",
    "locality-nmf": "NMF with the Laplacian of a graph of 5 neighbours (Cai et al., 2011), then "
    "k-means; the papers' minimises a divergence (2009)",
    "deepcluster": "five pseudo-labels per cluster, kept for 32 steps or an epoch",
    "jule": "augmented views; merging begins anew each time, small clusters do not count, and the "
    "last ones are not learned; of more than 10,000 images a sample of 10,000 is merged",
    "autoencoder": "the networks of AE, DAE and VAE are ours; the papers' are unknown",
    "deconvolutional": "non-negative maps, inferred by FISTA, pooled between two layers",
    "dcgan": "the discriminator is our backbone, by the guidelines of DCGAN",
    "dec": "a convolutional autoencoder, and a target that is renewed once per epoch",
}
# What the same features give by another read-out than that of the run, in the order of the rows.
OTHER_READOUTS = {
    "kmeans": "k-means of features",
    "head": "own head",
    "auto": "nearest neighbours of features",
}
STUDIES = ("table", "augmentation", "heads", "backbones", "peers")
FORMATS = ("text", "markdown", "csv")
# A record is of what was measured, so how long and how precisely was computed belongs to it.
NOT_RECORDED = RUNTIME_PARAMETERS - {"max_seconds", "precision"}
_HIDDEN_PARAMETERS = NOT_RECORDED | {"n_clusters", "random_state"}
_COLUMNS = ("row", "settings", "seeds", "NMI", "ACC", "ARI", "clusters", "seconds", "forwards")
_COLUMNS += ("device", "published NMI", "published ACC", "published ARI")


# -- records on disk ------------------------------------------------------------------------


def append(path, record: dict) -> None:
    """Append a record to a file of JSON lines. Earlier lines stay intact if this is interrupted.

    Parameters
    ----------
    path : str or Path
        File of JSON lines; made if there is none, with its folder.

    record : dict
        Plain values.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        line = json.dumps(record).encode() + b"\n"
        if file.tell() and _last_byte(file) != b"\n":
            line = b"\n" + line  # the last line is incomplete
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _last_byte(file):
    file.seek(-1, os.SEEK_END)
    return file.read(1)


def read(path) -> list[dict]:
    """Read the records of a file, or of all files of a folder.

    Parameters
    ----------
    path : str or Path
        A file of JSON lines, or a folder of them.

    Returns
    -------
    records : list of dict
        By file name, then in the order in which they were added. Incomplete lines are skipped with
        a warning.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no file in it.
    """
    path = Path(path)
    names = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not names or not names[0].is_file():
        raise FileNotFoundError(f"no results (files of JSON lines, *.jsonl) in {path}")
    return [record for name in names for record in _read_lines(name)]


def _read_lines(path):
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            warn(f"{path}, line {number} was cut off, and is passed over")


# -- the papers' figures --------------------------------------------------------------------


def published() -> list[dict]:
    """Read the figures of the papers' tables and ablations.

    Returns
    -------
    figures : list of dict
        ``study``, one of `STUDIES` but "peers"; ``dataset``; ``name`` as printed; ``nmi``,
        ``acc`` and ``ari``, floats or None; ``rows``, the names of our rows, none if it is not
        implemented; ``source``, a key of `SOURCES`.
    """
    text = files("skcc.experiments").joinpath("published.csv").read_text()
    figures = list(csv.DictReader(io.StringIO(text)))
    for figure in figures:
        figure |= {name: float(figure[name]) if figure[name] else None for name in SCORES}
        figure["rows"] = figure["rows"].split()
    return figures


# -- tables ---------------------------------------------------------------------------------


def summarise(records: Iterable[dict]) -> list[dict]:
    """Return mean and standard deviation over the seeds of each setting.

    Parameters
    ----------
    records : iterable of dict
        As returned by `read`. If there are several with the same settings and seed, the last one
        counts. Records without a method are skipped.

    Returns
    -------
    groups : list of dict
        One per study, data set, row, read-out and setting. ``nmi``, ``acc`` and ``ari`` are pairs
        of mean and sample standard deviation; the latter is None for one seed, and both are None
        without classes.
    """
    groups: dict[tuple, dict] = {}
    for record in records:
        if "method" not in record:
            continue
        # Records of `skcc run` have no study and no row; they belong to the table.
        study, row = record.get("study", "table"), record.get("row", record["method"])
        key = study, record["dataset"], row, _settings(record), record["n"]
        groups.setdefault(key, {})[record["parameters"].get("random_state")] = record
    summaries = []
    for key, by_seed in groups.items():
        runs = list(by_seed.values())
        group = dict(zip(("study", "dataset", "row", "settings", "n"), key, strict=True)) | {
            "seeds": len(runs),
            "clusters": min(run["clusters"] for run in runs),
            "seconds": statistics.median(whole_seconds(runs)),
            "forwards": runs[-1]["image_forwards"],
            "device": _device(runs[-1]),
        }
        summaries.append(group | {"readout": "", **_mean_and_deviation(runs)})
        for readout, name in OTHER_READOUTS.items():
            if all(run.get(readout) for run in runs):
                scores = _mean_and_deviation([run[readout] for run in runs])
                summaries.append(group | {"readout": name, "clusters": ""} | scores)
    return summaries


def whole_seconds(runs: list[dict]) -> list[float]:
    """Return the seconds of runs, without those that were interrupted if there are others.

    Parameters
    ----------
    runs : list of dict
        Records.

    Returns
    -------
    seconds : list of float
        Of an interrupted run a record has those since it was continued.
    """
    whole = [run for run in runs if not run.get("continued")]
    return [run["seconds"] for run in whole or runs]


def _device(record):
    """Return the device, on a CPU with the number of threads."""
    device, threads = record["device"], record["threads"]
    return device if device != "cpu" else f"cpu, {threads} thread{'s' if threads > 1 else ''}"


def _settings(record):
    """Return the budget and the parameters that were set, without those that the row varies."""
    hidden = _HIDDEN_PARAMETERS.union(record.get("varied", ()))
    settings = {name: value for name, value in record["parameters"].items() if name not in hidden}
    if "minutes" in record:
        settings["minutes"] = f"{record['minutes']:g}"
    return " ".join(f"{name}={value}" for name, value in sorted(settings.items()))


def _mean_and_deviation(runs):
    scores = {}
    for score in SCORES:
        values = [run[score] for run in runs]
        if None in values:
            scores[score] = (None, None)
            continue
        deviation = statistics.stdev(values) if len(values) > 1 else None
        scores[score] = (statistics.fmean(values), deviation)
    return scores


def tables(records: Iterable[dict]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Make a table for each study and data set, with our figures beside the papers'.

    Parameters
    ----------
    records : iterable of dict
        As returned by `read`.

    Yields
    ------
    title : str
        Study, data set, number of images.

    rows : list of dict of str to str
        Cells by column. Rows of the papers that are not implemented, or were not run, say so.
    """
    groups, figures = summarise(records), published()
    n_rows = Counter((STUDIES.index(g["study"]), g["dataset"]) for g in groups)
    # The table with most of our rows comes first.
    for number, dataset in sorted(n_rows, key=lambda key: (key[0], -n_rows[key], key)):
        study = STUDIES[number]
        ours = [g for g in groups if (g["study"], g["dataset"]) == (study, dataset)]
        theirs = [f for f in figures if (f["study"], f["dataset"]) == (study, dataset)]
        names = {row: f["name"] for f in figures if f["study"] == study for row in f["rows"]}
        sizes = ", ".join(f"{n:,}" for n in sorted({g["n"] for g in ours}))
        name = dataset if study == "table" else f"{dataset}, {study}"
        yield f"{name} ({sizes} images)", list(_rows(ours, theirs, names))


def _rows(groups, figures, names):
    """Yield the rows of the papers with ours beside them, then the rest of ours."""
    placed = []
    for figure in figures:
        matching = [g for g in groups if g["row"] in figure["rows"]]
        placed += matching
        printed = {f"published {s.upper()}": _format_score(figure[s]) for s in SCORES}
        if not matching:
            state = "not run" if figure["rows"] else "not implemented"
            yield _cells(row=figure["name"], settings=state, **printed)
        for i, group in enumerate(matching):
            yield _cells(**_group_cells(group, figure["name"]), **({} if i else printed))
    for group in groups:
        if group not in placed:
            yield _cells(**_group_cells(group, names.get(group["row"], group["row"])))


def _cells(**cells):
    return {column: cells.get(column, "") for column in _COLUMNS}


def _group_cells(group, name):
    readout = f", {group['readout']}" if group["readout"] else ""
    row = f" ({group['row']})" if group["row"] and group["row"] != name else ""
    return {
        "row": name + row + readout,
        "settings": group["settings"],
        "seeds": str(group["seeds"]),
        **{score.upper(): _format_score(*group[score]) for score in SCORES},
        "clusters": str(group["clusters"]),
        "seconds": f"{group['seconds']:.{0 if group['seconds'] >= 10 else 1}f}",
        "forwards": f"{group['forwards']:,}" if group["forwards"] else "",
        "device": group["device"],
    }


def _format_score(mean, deviation=None):
    if mean is None:
        return ""
    text = f"{mean:.3f}".removeprefix("0")
    return text if deviation is None else f"{text} ± {deviation:.3f}".replace("± 0.", "± .")


def render(records: Iterable[dict], style: str) -> str:
    """Format records as tables in text, Markdown or CSV.

    Parameters
    ----------
    records : iterable of dict
        As returned by `read`.

    style : {"text", "markdown", "csv"}
        Format of the tables.

    Returns
    -------
    text : str
        All tables; as CSV a single one, with the titles in its first column.

    Raises
    ------
    ValueError
        If the style is unknown.
    """
    if style not in FORMATS:
        raise ValueError(f"style must be one of {', '.join(FORMATS)}; got {style!r}")
    titled = list(tables(records))
    if style == "csv":
        return _csv(titled)
    if style == "markdown":
        parts = [f"## {title[0].upper()}{title[1:]}\n\n{_markdown(rows)}"
                 for title, rows in titled]  # fmt: skip
    else:
        parts = [f"{title}\n\n{_text(rows)}" for title, rows in titled]
    heading = ["# Results\n\n" + _LEGEND] if style == "markdown" else []
    return "\n\n".join([*heading, *parts, _notes(titled)]) + "\n"


_LEGEND = (
    "Made by `skcc table docs/results --format markdown` from the records in `docs/results`, that "
    "`skcc reproduce` writes; nothing here is typed. Mean ± standard deviation over the seeds 0, "
    "1, ...; seconds are the median; clusters are the fewest that a seed used; forwards are images "
    "that passed through a network in training. No score is the best of several epochs, and no "
    "choice saw a class."
)


def _notes(titled):
    """Return the notes about the rows that are shown."""
    names = {row["row"] for _, rows in titled for row in rows}
    has_published = any(row["published ACC"] for _, rows in titled for row in rows)
    notes = [f"{name}: {text}." for name, text in STANDS_FOR.items()
             if any(f"({name})" in row for row in names)]  # fmt: skip
    notes += [f"Published: {text}." for text in SOURCES.values()] if has_published else []
    return "\n".join(f"- {note}" for note in notes)


def _csv(titled):
    file = io.StringIO()
    writer = csv.DictWriter(file, ["table", *_COLUMNS], lineterminator="\n")
    writer.writeheader()
    for title, rows in titled:
        writer.writerows({"table": title, **row} for row in rows)
    return file.getvalue()


def _used_columns(rows):
    return [column for column in _COLUMNS if any(row[column] for row in rows)]


def _markdown(rows):
    """Return our rows as a table, and the rows that have none of our figures as a line."""
    rows, left_out = (
        [row for row in rows if bool(row["seeds"]) == is_run] for is_run in (True, False)
    )
    names = ", ".join(row["row"] for row in left_out)
    note = f"\n\nOf the papers' rows, {names} have not been run." if names else ""
    return _markdown_table(rows) + note


def _markdown_table(rows):
    columns = _used_columns(rows)
    lines = [columns, ["---"] * len(columns), *([row[c] for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(rows):
    columns = _used_columns(rows)
    widths = [max(len(c), *(len(row[c]) for row in rows)) for c in columns]
    lines = [dict(zip(columns, columns, strict=True)), *rows]
    return "\n".join(
        "  ".join(line[c].ljust(width) for c, width in zip(columns, widths, strict=True)).rstrip()
        for line in lines
    )
