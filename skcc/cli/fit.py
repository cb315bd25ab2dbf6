"""``skcc fit``: cluster the images of a folder, and write the model, tables and a page.

The summary or record goes to standard output, messages to standard error.
"""

import contextlib
import json
import os
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.pipeline import make_pipeline

from skcc import distributed, pipelines
from skcc.cli.inputs import find_images, load
from skcc.cli.options import reading_parameters
from skcc.cli.output import count, plain_warnings, print_message
from skcc.cli.parsers import OF_EMBEDDER
from skcc.cli.predict import predict_labels
from skcc.cli.report import write_page
from skcc.cli.run_folder import (
    CHECKPOINT,
    EMBEDDINGS,
    HISTORY,
    LABELS,
    MODEL,
    PAGE,
    RECORD,
    SORTED,
    image_names,
    model_file,
    read_record,
)
from skcc.embedding import ImageEmbedder
from skcc.exceptions import TrainingInterruptedWarning
from skcc.experiments.recipes import make_estimator
from skcc.experiments.runs import versions
from skcc.methods import METHODS
from skcc.report import Clustering, are_few_photos, outputs
from skcc.training.checkpoint import remove_checkpoints
from skcc.training.settings import RUNTIME_PARAMETERS


def run(options):
    """Train unless the run is finished, and print the summary or yield the record."""
    is_trained, is_new = False, not os.path.lexists(options.out)
    distributed.init_process_group()
    options.quiet |= not distributed.is_rank_zero()
    with plain_warnings():
        try:
            estimator = _make_estimator(options)
            record = distributed.compute_on_rank_zero(lambda: _find_finished_run(options))
            if record is None:
                files, names = find_images(options.path, exclude=options.out)
                print_message(options, f"{count(len(files), 'image')} in {options.path}")
                started = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("error", TrainingInterruptedWarning)
                    estimator.fit(files)
                is_trained = True
                record = _write_results(options, estimator, files, names, started)
        except (KeyboardInterrupt, TrainingInterruptedWarning):
            raise KeyboardInterrupt(_resume_message(options, is_trained)) from None
        finally:
            if is_new and distributed.is_rank_zero():
                _remove_if_empty(options.out)
    if not distributed.is_rank_zero():
        return
    if options.json:
        yield record
    elif not options.quiet:
        _print_summary(record, options.out)


# -- before training ------------------------------------------------------------------------


def _make_estimator(options):
    """Make the estimator, and keep the parameters that were set as ``options.parameters``."""
    _check_embedder_options(options)
    given = {
        "n_clusters": options.clusters,
        "backbone": options.backbone,
        "max_epochs": options.epochs,
        "random_state": options.seed,
    }
    method, source = options.method, None
    if options.weights:
        source = load(model_file(options.weights), options.device)
        own = {"n_clusters": source.n_clusters, "backbone": source.settings_["backbone"]}
        given = own | {name: value for name, value in given.items() if value is not None}
        method_of = {class_name: method for method, class_name in METHODS.items()}
        method = method or method_of[type(source).__name__]
    given |= reading_parameters(options) | {
        "checkpoint_dir": str(options.out / CHECKPOINT),
        "verbose": int(not options.quiet),
    }
    given = {name: value for name, value in given.items() if value is not None}
    options.parameters = given | dict(options.set)
    own = {k: v for k, v in options.parameters.items() if not k.startswith(OF_EMBEDDER)}
    if options.embedder:
        own.pop("cache_dir", None)  # it is for embeddings
    estimator = make_estimator(method or "contrastive", own)
    if options.embedder:
        return make_pipeline(_make_embedder(options), estimator)
    return estimator if source is None else estimator.start_from(source)


def _check_embedder_options(options):
    if options.embedder and options.weights:
        raise ValueError("--embedder goes with images, --weights with features learned from them: "
                         "choose one")  # fmt: skip
    if options.embedder:
        return
    if options.weights_file:
        raise ValueError("--weights-file holds the weights of a network: name it by --embedder")
    for name, _ in options.set:
        if name.startswith(OF_EMBEDDER):
            raise ValueError(f"--set {name} is about a network: name it by --embedder")


def _make_embedder(options):
    """Make the embedder, which keeps its embeddings in the output folder unless told otherwise."""
    parameters = {"cache_dir": str(options.out / EMBEDDINGS)} | reading_parameters(options)
    parameters |= {"weights": options.weights_file, "verbose": int(not options.quiet)}
    given = {k.removeprefix(OF_EMBEDDER): v for k, v in options.set
             if k.startswith(OF_EMBEDDER)}  # fmt: skip
    return ImageEmbedder(options.embedder).set_params(**parameters | given)


def _find_finished_run(options):
    """Check the output folder, and return the record of the run if it is finished already."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.sort and os.path.lexists(out / SORTED):
        raise ValueError(
            f"{out / SORTED} is there already, and nothing is overwritten: delete it, or leave "
            "out --sort"
        )
    has_checkpoint, options.is_resumed = _has_checkpoint(out), _has_checkpoint(out)
    if (out / RECORD).exists() and not options.resume:
        _check_overwrite(options)
    if has_checkpoint and not options.resume:
        raise ValueError(
            f"{out / CHECKPOINT} holds an interrupted run: add --resume to go on with it, or "
            "delete that folder to start again"
        )
    if has_checkpoint or not options.resume:
        return None
    if not (out / RECORD).exists():
        print_message(options, f"no run to resume in {out}: starting one")
        return None
    record = read_record(out)
    if record["run"] != _identity(options):
        raise ValueError(f"{out} holds a finished run with other settings; choose another --out")
    print_message(options, f"the run in {out} is finished: nothing to resume")
    if options.sort:
        paths, labels, _ = outputs.read_labels(out / LABELS)
        names = image_names(paths, record)
        _sort_images(options, [Path(options.path) / name for name in names], names, labels)
    return record


def _check_overwrite(options):
    """Raise an error for a finished run, unless it is to be replaced as a whole."""
    out = options.out
    if not options.overwrite:
        raise ValueError(
            f"{out} holds a finished run: add --overwrite to replace it, --resume to keep it, or "
            "choose another --out"
        )
    if os.path.lexists(out / SORTED):
        raise ValueError(f"{out / SORTED} holds the images by their old clusters: delete it first")


def _remove_if_empty(out):
    """Remove the folders of a run that has written nothing into them."""
    for folder in (out / CHECKPOINT, out / EMBEDDINGS, out):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _has_checkpoint(out):
    return any((out / CHECKPOINT).glob("phase-*.pt"))


def _identity(options):
    """Return all that decides the result of a run, as it is after a round trip through JSON."""
    parameters = {
        name: value for name, value in options.parameters.items() if name not in RUNTIME_PARAMETERS
    }
    run = {
        "root": os.path.abspath(options.path),
        "method": options.method,
        "weights": options.weights and os.path.abspath(options.weights),
        "parameters": parameters,
    }
    if options.embedder:
        weights = options.weights_file and os.path.abspath(options.weights_file)
        run |= {"embedder": options.embedder, "weights_file": weights}
    return json.loads(json.dumps(run, default=repr))


def _resume_message(options, is_trained):
    if not _has_checkpoint(options.out):
        kept = "embeddings are kept" if options.embedder else "nothing is kept"
        return f"interrupted before an epoch was finished; {kept}"
    kept = "what was learned is kept" if is_trained else "the last finished epoch is kept"
    arguments = [argument for argument in options.arguments if argument != "--resume"]
    return f"interrupted; {kept}. Go on with\n  {_command([*arguments, '--resume'])}"


def _command(arguments):
    """Return the command line of this program with the given arguments."""
    as_module = Path(sys.argv[0]).parts[-2:] == ("skcc", "__main__.py")
    program = [sys.executable, "-m", "skcc"] if as_module else ["skcc"]
    return shlex.join([*program, *arguments])


# -- results --------------------------------------------------------------------------------


def _write_results(options, estimator, files, names, started):
    """Predict on all ranks, and write the results on rank 0, which returns the record."""
    embedder, clusterer = pipelines.parts(estimator)
    labels, probabilities = predict_labels(estimator, files)
    if not distributed.is_rank_zero():
        return None
    with distributed.single_process():
        clustering = Clustering(
            files,
            names,
            labels,
            probabilities,
            classes=[f.parent.name for f in files] if options.classes_from_folders else None,
            invalid=[(names[i], reason) for i, reason in (embedder or clusterer).invalid_],
        )
        return _write_run_folder(options, estimator, clustering, started)


def _write_run_folder(options, estimator, clustering, started):
    """Write all files; sorted images come last, since they may need much space."""
    out = options.out
    print_message(options, f"writing {out}")
    paths = [str(file) for file in clustering.files]
    table = outputs.labels_as_csv(paths, clustering.labels, clustering.probabilities)
    pipelines.save(estimator, out / MODEL)
    outputs.write(out / LABELS, table)
    outputs.write(out / HISTORY, outputs.history_as_csv(pipelines.parts(estimator)[1].history_))
    record = _make_record(options, estimator, clustering)
    record["seconds"] = round(time.perf_counter() - started, 2)
    record["resumed"] = options.is_resumed  # then these are the seconds of the last part
    record = json.loads(json.dumps(record))  # skcc report makes the same page from the file
    write_page(out / PAGE, estimator, clustering, record, options.jobs)
    outputs.write(out / RECORD, json.dumps(record, indent=1).encode())
    if options.sort:
        _sort_images(options, clustering.files, clustering.names, clustering.labels)
    remove_checkpoints(out / CHECKPOINT)
    return record


def _sort_images(options, files, names, labels):
    n_sorted = outputs.sort_files(files, names, labels, options.out / SORTED, options.sort)
    where = options.out / SORTED
    print_message(options, f"{count(n_sorted, 'image')} in {where} ({options.sort})")


def _make_record(options, estimator, clustering):
    """Return settings, figures and versions of a run as plain values."""
    labels, valid = clustering.labels, clustering.valid
    embedder, clusterer = pipelines.parts(estimator)
    sizes = np.bincount(labels[valid], minlength=clusterer.n_clusters)
    means = [
        round(float(clustering.probabilities[labels == cluster].mean()), 4) if size else None
        for cluster, size in enumerate(sizes)
    ]
    return {
        "command": _command(options.arguments),
        "path": str(Path(options.path)),
        "run": _identity(options),
        "estimator": type(clusterer).__name__,
        "settings": clusterer.settings_ | _settings_of(embedder),
        "n": len(labels),
        "clusters": int(np.count_nonzero(sizes)),
        "sizes": sizes.tolist(),
        "mean_probability": means,
        **clustering.scores(),
        "epochs": clusterer.n_iter_,
        "classes_from_folders": options.classes_from_folders,
        "invalid": [list(pair) for pair in clustering.invalid],
        "versions": versions(),
    }


def _settings_of(embedder):
    """Return the settings of an embedder under names that say so."""
    if embedder is None:
        return {}
    return {f"{OF_EMBEDDER}{name}": value for name, value in embedder.settings_.items()}


def _print_summary(record, out):
    """Print sizes and mean probabilities of the clusters, and the scores if there are any."""
    empty = len(record["sizes"]) - record["clusters"]
    clusters = count(len(record["sizes"]), "cluster") + (f" ({empty} empty)" if empty else "")
    since = " since it was resumed" if record.get("resumed") else ""
    n_images = count(record["n"] - len(record["invalid"]), "image")
    print(f"{n_images} in {clusters}, {record['seconds']:.0f} s{since}")
    print("\ncluster    images   mean probability: how sure the model is, not how often right")
    for cluster, (size, mean) in enumerate(
        zip(record["sizes"], record["mean_probability"], strict=True)
    ):
        print(f"{cluster:7}  {size:8,}   {'-' if mean is None else f'{mean:.3f}':>16}")
    if record["invalid"]:
        print(f"{count(len(record['invalid']), 'file')} could not be read")
    scores = {name: record[name] for name in ("acc", "nmi", "ari") if record[name] is not None}
    if scores:
        print("\n" + "  ".join(f"{name.upper()} {value:.3f}" for name, value in scores.items()))
    if are_few_photos(record["settings"], record["n"]):
        print("\nif these are photos, they are too few to learn from scratch what is on them: "
              "see --embedder")  # fmt: skip
    print(f"\nlook at {out / PAGE}", flush=True)
