"""``skcc report``: write the page of a finished run again."""

from pathlib import Path

from skcc import pipelines, report
from skcc.cli.inputs import load, set_parameters
from skcc.cli.output import plain_warnings
from skcc.cli.run_folder import (
    EMBEDDINGS,
    LABELS,
    MODEL,
    PAGE,
    image_names,
    read_record,
)
from skcc.report import Clustering, outputs


def run(options):
    """Read a run folder, write its page, and yield the record if it is wanted as JSON."""
    with plain_warnings():
        record = read_record(options.run)
        estimator = load(options.run / MODEL, weights_file=options.weights_file)
        embedder, clusterer = pipelines.parts(estimator)
        set_parameters(estimator, {"n_jobs": options.jobs})
        if embedder is not None:
            embedder.set_params(cache_dir=options.cache_dir or options.run / EMBEDDINGS)
        clustering = _read_clustering(options, record, clusterer.n_clusters)
        record |= clustering.scores()
        page = Path(options.out or options.run / PAGE)
        write_page(page, estimator, clustering, record, options.jobs)
    if options.json:
        yield record
    elif not options.quiet:
        print(f"look at {page}", flush=True)


def _read_clustering(options, record, n_clusters):
    """Read the labels of a run, and check that its images are still there."""
    table = options.run / LABELS
    paths, labels, probabilities = outputs.read_labels(table)
    if len(labels) and not -1 <= labels.min() <= labels.max() < n_clusters:
        raise ValueError(f"{table} has clusters that {options.run / MODEL} has not")
    names = image_names(paths, record)
    root = Path(options.images or record["run"]["root"])
    files = [root / name for name in names]
    missing = next((file for file in files if not file.exists()), None)
    if missing is not None:
        raise ValueError(f"{missing} is gone; --images says where the images are now")
    has_classes = options.classes_from_folders or record["classes_from_folders"]
    classes = [file.parent.name for file in files] if has_classes else None
    return Clustering(files, names, labels, probabilities, classes, record["invalid"])


def write_page(path: Path, estimator, clustering, record: dict, n_jobs: int) -> None:
    """Write the page of a run."""
    run = {
        "estimator": record["estimator"],
        "epochs": record["epochs"],
        "seconds": record["seconds"],
        "random_state": record["run"]["parameters"].get("random_state"),
    }
    report.write_page(
        path,
        estimator,
        clustering,
        title=Path(record["run"]["root"]).name or record["run"]["root"],
        facts={"Run": run, "Settings": record["settings"], "Versions": record["versions"]},
        command=record["command"],
        n_jobs=n_jobs,
    )
