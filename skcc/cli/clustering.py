"""``skcc fit``, ``skcc predict`` and ``skcc report``: from a folder of images to a page, and back.

Results go to standard output, everything said on the way to standard error.
"""

import argparse
import ast
import contextlib
import json
import os
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np

import skcc
from skcc import data, distributed, persistence, report
from skcc.exceptions import TrainingInterruptedWarning
from skcc.experiments.recipes import METHODS, make_estimator
from skcc.experiments.runs import versions
from skcc.report import outputs
from skcc.training.checkpoint import remove_checkpoints

_CHECKPOINT, _SORTED, _RECORD = "checkpoint", "sorted", "run.json"
_MODEL, _LABELS, _HISTORY, _PAGE = "model.safetensors", "labels.csv", "history.csv", "report.html"
_NOT_RESULTS = {"checkpoint_dir", "device", "n_jobs", "verbose", "cache_dir"}
# What a page needs of the record of a run, which may be a stranger's.
_IN_RECORD = {
    "path": str, "run": dict, "invalid": list, "command": str, "estimator": str, "epochs": int,
    "seconds": (int, float), "settings": dict, "versions": dict, "classes_from_folders": bool,
}  # fmt: skip

_FIT_EXAMPLES = """examples:
  skcc fit photos/ -k 10 -o out/                      then open out/report.html
  skcc fit photos/ -k 10 -o out/ --resume             go on after Ctrl-C
  skcc fit photos/ -k 10 -o out/ --sort symlink       also a folder of links per cluster
  skcc fit photos/ -k 10 -o out/ --classes-from-folders    compare with the sub-folders
  skcc fit new/ -k 12 -o out2/ --weights out/model.safetensors   start from learned features
  skcc fit photos/ -k 10 -o out/ --set image_size=32 entropy_weight=2
  torchrun --nproc-per-node 4 -m skcc fit photos/ -k 10 -o out/   four processes, or GPUs

writes into the folder OUT:
  model.safetensors  the fitted model, for skcc predict and for Python
  labels.csv         path, cluster and probability of each image
  history.csv        terms of the loss, epoch by epoch
  report.html        a page to look at, in one file
  run.json           settings, versions and figures of the run
"""
_PREDICT_EXAMPLES = """examples:
  skcc predict out/model.safetensors new/ -o labels.csv
  skcc predict out/model.safetensors photo.jpg
  skcc predict out/model.safetensors new/ --json | jq 'select(.cluster == 3).path'
"""
_REPORT_EXAMPLES = """examples:
  skcc report out/
  skcc report out/ --images /media/photos             the images have moved
  skcc report out/ --classes-from-folders -o compared.html
"""


# -- options --------------------------------------------------------------------------------


def setting(text: str) -> tuple[str, object]:
    """A parameter of an estimator from the command line.

    Parameters
    ----------
    text : str
        As in ``name=value``; the value is a literal of Python, or a word.

    Returns
    -------
    name, value : str, object
        The parameter.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no name or no value.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as resnet18


def add_to(commands) -> None:
    """Add the three commands to a parser.

    Parameters
    ----------
    commands : argparse action
        What ``add_subparsers`` gave.
    """
    _add_fit(commands)
    _add_predict(commands)
    _add_report(commands)


def _add_command(commands, name, work, summary, examples):
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(work=work)
    return parser


def _add_fit(commands):
    fit = _add_command(
        commands,
        "fit",
        _fit,
        "cluster the images of a folder, and make a page of it",
        _FIT_EXAMPLES,
    )
    fit.add_argument("path", metavar="PATH", help="folder of images, searched recursively")
    fit.add_argument("-k", "--clusters", type=int, metavar="K", help="how many (default: 8)")
    fit.add_argument(
        "-o", "--out", required=True, type=Path, metavar="OUT", help="folder for the results"
    )
    fit.add_argument("--method", choices=list(METHODS), help="default: contrastive")
    fit.add_argument("--backbone", metavar="NAME", help="network (default: by device and size)")
    fit.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    fit.add_argument(
        "--resume",
        action="store_true",
        help="go on with the interrupted run in OUT, if there is one",
    )
    fit.add_argument(
        "--weights",
        metavar="MODEL",
        help="start from the features of a fitted model; clusters are learned anew. Method, "
        "network and number of clusters are its own unless given",
    )
    fit.add_argument(
        "--sort",
        choices=["copy", "symlink"],
        help=f"also bring the images into OUT/{_SORTED}/CLUSTER/; never moves or overwrites",
    )
    fit.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=setting,
        default=[],
        metavar="NAME=VALUE",
        help="any parameters of the estimator",
    )
    _add_classes(fit)
    _add_reading(fit)
    _add_saying(fit, "print the record of the run as JSON")


def _add_predict(commands):
    summary = "find the clusters of other images"
    predict = _add_command(commands, "predict", _predict, summary, _PREDICT_EXAMPLES)
    predict.add_argument("model", metavar="MODEL", help=f"a {_MODEL} that skcc fit wrote")
    predict.add_argument("path", metavar="PATH", help="folder of images, or one image")
    predict.add_argument("-o", "--out", metavar="FILE", help="default: standard output")
    _add_reading(predict)
    _add_saying(predict, "write a JSON object per line instead of CSV")


def _add_report(commands):
    summary = "make the page of a finished run again"
    page = _add_command(commands, "report", _report, summary, _REPORT_EXAMPLES)
    page.add_argument("run", type=Path, metavar="OUT", help="folder that skcc fit wrote")
    page.add_argument("-o", "--out", metavar="FILE", help=f"default: OUT/{_PAGE}")
    page.add_argument("--images", metavar="PATH", help="where the images are now")
    _add_classes(page)
    _add_jobs(page)
    _add_saying(page, "print the record of the run as JSON")


def _add_classes(parser):
    parser.add_argument(
        "--classes-from-folders",
        action="store_true",
        help="compare the clusters with the folders that the images are in",
    )


def _add_reading(parser):
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best)")
    parser.add_argument(
        "--on-error",
        choices=["raise", "warn"],
        help="what to do with files that cannot be read: stop, or go on without (default: raise)",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="keep decoded images here")
    _add_jobs(parser)


def _add_jobs(parser):
    parser.add_argument(
        "--jobs", type=int, default=-1, metavar="N", help="threads that decode (default: all cores)"
    )


def _add_saying(parser, what):
    parser.add_argument("--json", action="store_true", help=what)
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")


# -- fit ------------------------------------------------------------------------------------


def _fit(options):
    learned = False
    _meet_others(options)
    with _plain_warnings():
        try:
            estimator = _new_estimator(options)
            finished = distributed.compute_on_rank_zero(lambda: _finished(options))
            if finished is None:
                files, names = _files(options.path, without=options.out)
                _say(options, f"{len(files):,} images in {options.path}")
                started = time.perf_counter()
                with warnings.catch_warnings():
                    warnings.simplefilter("error", TrainingInterruptedWarning)
                    estimator.fit(files)
                learned = True
                finished = _write_results(options, estimator, files, names, started)
        except (KeyboardInterrupt, TrainingInterruptedWarning):
            raise KeyboardInterrupt(_how_to_go_on(options, learned)) from None
    if not distributed.is_rank_zero():
        return
    if options.json:
        yield finished
    elif not options.quiet:
        _show(finished, options.out)


def _meet_others(options):
    """Meet the processes that torchrun started; all but one are silent."""
    distributed.init_process_group()
    options.quiet |= not distributed.is_rank_zero()


def _new_estimator(options):
    """The estimator that the options ask for; the parameters that they set join the options."""
    given = {
        "n_clusters": options.clusters,
        "backbone": options.backbone,
        "max_epochs": options.epochs,
        "random_state": options.seed,
    }
    method, fitted = options.method, None
    if options.weights:
        fitted = load(options.weights, options.device)
        own = {"n_clusters": fitted.n_clusters, "backbone": fitted.settings_["backbone"]}
        given = own | {name: value for name, value in given.items() if value is not None}
        names = {name: method for method, name in METHODS.items()}
        method = method or names[type(fitted).__name__]
    given |= _reading(options) | {
        "checkpoint_dir": str(options.out / _CHECKPOINT),
        "verbose": int(not options.quiet),
    }
    given = {name: value for name, value in given.items() if value is not None}
    options.parameters = given | dict(options.set)
    estimator = make_estimator(method or "contrastive", options.parameters)
    return estimator if fitted is None else estimator.start_from(fitted)


def _reading(options):
    """Parameters about reading and computing, where they are given."""
    given = {
        "device": options.device,
        "n_jobs": options.jobs,
        "on_error": options.on_error,
        "cache_dir": options.cache_dir,
    }
    return {name: value for name, value in given.items() if value is not None}


def _finished(options):
    """What has to be so before anything is computed; the record if the run is finished already."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    if options.sort and os.path.lexists(out / _SORTED):
        raise ValueError(
            f"{out / _SORTED} is there already, and nothing is overwritten: delete it, or leave "
            "out --sort"
        )
    unfinished = any((out / _CHECKPOINT).glob("phase-*.pt"))
    if unfinished and not options.resume:
        raise ValueError(
            f"{out / _CHECKPOINT} holds an interrupted run: add --resume to go on with it, or "
            "delete that folder to start again"
        )
    if unfinished or not options.resume:
        return None
    if not (out / _RECORD).exists():
        _say(options, f"no run to resume in {out}: starting one")
        return None
    record = _read_record(out)
    if record["run"] != _identity(options):
        raise ValueError(f"{out} holds a finished run with other settings; choose another --out")
    _say(options, f"the run in {out} is finished: nothing to resume")
    if options.sort:
        paths, labels, _ = outputs.read_labels(out / _LABELS)
        names = _names(paths, record)
        _sort(options, [Path(options.path) / name for name in names], names, labels)
    return record


def _identity(options):
    """What makes two runs the same, as JSON gives it back."""
    kept = {name: value for name, value in options.parameters.items() if name not in _NOT_RESULTS}
    run = {
        "root": os.path.abspath(options.path),
        "method": options.method,
        "weights": options.weights and os.path.abspath(options.weights),
        "parameters": kept,
    }
    return json.loads(json.dumps(run, default=repr))


def _how_to_go_on(options, learned):
    if not any((options.out / _CHECKPOINT).glob("phase-*.pt")):
        return "interrupted before an epoch was finished; nothing is kept"
    what = "what was learned is kept" if learned else "the last finished epoch is kept"
    arguments = [a for a in options.arguments if a != "--resume"]
    return f"interrupted; {what}. Go on with\n  {_command([*arguments, '--resume'])}"


def _command(arguments):
    as_module = Path(sys.argv[0]).parts[-2:] == ("skcc", "__main__.py")
    program = [sys.executable, "-m", "skcc"] if as_module else ["skcc"]
    return shlex.join([*program, *arguments])


def _write_results(options, estimator, files, names, started):
    """Write everything, on one process; sorted images come last, since they may be large."""
    labels, probabilities = _probabilities(estimator, files)
    if not distributed.is_rank_zero():
        return None
    with distributed.single_process():
        return _written(options, estimator, (files, names, labels, probabilities), started)


def _written(options, estimator, table, started):
    files, names, labels, probabilities = table
    out = options.out
    _say(options, f"writing {out}")
    paths = [str(file) for file in files]
    estimator.save(out / _MODEL)
    outputs.write(out / _LABELS, outputs.labels_as_csv(paths, labels, probabilities))
    outputs.write(out / _HISTORY, outputs.history_as_csv(estimator.history_))
    clustering = report.Clustering(
        files,
        names,
        labels,
        probabilities,
        classes=_classes(options, files),
        invalid=[(names[i], reason) for i, reason in estimator.invalid_],
    )
    record = _record(options, estimator, clustering)
    record["seconds"] = round(time.perf_counter() - started, 2)
    record = json.loads(json.dumps(record))  # a page made later is made of what is read back
    _write_page(out / _PAGE, estimator, clustering, record, options.jobs)
    outputs.write(out / _RECORD, json.dumps(record, indent=1).encode())
    if options.sort:
        _sort(options, files, names, labels)
    remove_checkpoints(out / _CHECKPOINT)
    return record


def _sort(options, files, names, labels):
    count = outputs.sort_files(files, names, labels, options.out / _SORTED, options.sort)
    _say(options, f"{count:,} images in {options.out / _SORTED} ({options.sort})")


def _probabilities(estimator, files):
    """Cluster and probability of each image; -1 and NaN where it could not be read."""
    p = estimator.predict_proba(files)
    unread = np.isnan(p).any(axis=1)
    best = np.where(unread[:, None], 0, p).argmax(axis=1)
    labels = np.where(unread, -1, best)
    return labels, p[np.arange(len(p)), best].astype(float)


def _classes(options, files):
    return [file.parent.name for file in files] if options.classes_from_folders else None


def _record(options, estimator, clustering):
    """Everything about a run that is worth a line; plain values."""
    labels, valid = clustering.labels, clustering.valid
    sizes = np.bincount(labels[valid], minlength=estimator.n_clusters)
    means = [
        round(float(clustering.probabilities[labels == cluster].mean()), 4) if size else None
        for cluster, size in enumerate(sizes)
    ]
    return {
        "command": _command(options.arguments),
        "path": str(Path(options.path)),
        "run": _identity(options),
        "estimator": type(estimator).__name__,
        "settings": estimator.settings_,
        "n": len(labels),
        "clusters": int(np.count_nonzero(sizes)),
        "sizes": sizes.tolist(),
        "mean_probability": means,
        **clustering.scores(),
        "epochs": estimator.n_iter_,
        "classes_from_folders": options.classes_from_folders,
        "invalid": [list(both) for both in clustering.invalid],
        "versions": versions(),
    }


def _write_page(path, estimator, clustering, record, n_jobs):
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


def _show(record, out):
    """The summary for people."""
    empty = len(record["sizes"]) - record["clusters"]
    words = f"{len(record['sizes'])} clusters{f' ({empty} empty)' if empty else ''}"
    print(f"{record['n']:,} images in {words}, {record['seconds']:.0f} s")
    print("\ncluster    images   mean probability")
    for cluster, (size, mean) in enumerate(
        zip(record["sizes"], record["mean_probability"], strict=True)
    ):
        print(f"{cluster:7}  {size:8,}   {'-' if mean is None else f'{mean:.3f}':>16}")
    if record["invalid"]:
        print(f"{len(record['invalid']):,} files could not be read")
    scores = {name: record[name] for name in ("acc", "nmi", "ari") if record[name] is not None}
    if scores:
        print("\n" + "  ".join(f"{name.upper()} {value:.3f}" for name, value in scores.items()))
    print(f"\nlook at {out / _PAGE}", flush=True)


# -- predict, report ------------------------------------------------------------------------


def _predict(options):
    _meet_others(options)
    with _plain_warnings():
        estimator = load(options.model, options.device)
        estimator.set_params(**_reading(options))
        files, _ = _files(options.path)
        _say(options, f"{len(files):,} images in {options.path}")
        form = outputs.labels_as_json if options.json else outputs.labels_as_csv
        table = form([str(file) for file in files], *_probabilities(estimator, files))
    if not distributed.is_rank_zero():
        return
    if options.out:
        outputs.write(options.out, table)
        _say(options, f"wrote {options.out}")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(table)
        sys.stdout.buffer.flush()
    yield from ()


def _report(options):
    folder = options.run
    with _plain_warnings():
        record = _read_record(folder)
        estimator = load(folder / _MODEL).set_params(n_jobs=options.jobs)
        paths, labels, probabilities = outputs.read_labels(folder / _LABELS)
        if len(labels) and not -1 <= labels.min() <= labels.max() < estimator.n_clusters:
            raise ValueError(f"{folder / _LABELS} has clusters that {folder / _MODEL} has not")
        names = _names(paths, record)
        root = Path(options.images or record["run"]["root"])
        files = [root / name for name in names]
        missing = next((file for file in files if not file.exists()), None)
        if missing is not None:
            raise ValueError(f"{missing} is gone; --images says where the images are now")
        options.classes_from_folders |= record["classes_from_folders"]
        clustering = report.Clustering(
            files, names, labels, probabilities, _classes(options, files), record["invalid"]
        )
        record |= clustering.scores()
        page = Path(options.out or folder / _PAGE)
        _write_page(page, estimator, clustering, record, options.jobs)
    if options.json:
        yield record
    elif not options.quiet:
        print(f"look at {page}", flush=True)


def _names(paths, record):
    """Names of images below the folder of a run; the files may be a stranger's."""
    names = [os.path.relpath(path, record["path"]) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise ValueError(f"{path!r} is not below {record['path']!r}, the folder of the run")
    return names


def _read_record(folder):
    path = folder / _RECORD
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run of skcc fit: there is no {path}")
    try:
        record = json.loads(path.read_text())
        for name, kind in _IN_RECORD.items():
            _check_kind(name, record[name], kind)
        _check_kind("root", record["run"]["root"], str)
        _check_kind("parameters", record["run"]["parameters"], dict)
        for name, reason in record["invalid"]:
            _check_kind("invalid", name + reason, str)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    return record


def _check_kind(name, value, kind):
    if not isinstance(value, kind):
        raise TypeError(f"{name} is of type {type(value).__name__}")


def load(path, device: str | None = None):
    """A fitted estimator of any class from its file.

    Parameters
    ----------
    path : str or Path
        The file.

    device : str or None, default=None
        Where it computes; None stands for "auto".

    Returns
    -------
    estimator : BaseDeepClusterer
        Fitted.

    Raises
    ------
    FileNotFoundError
        If there is no file.

    ValueError
        If it holds no estimator that this skcc knows.
    """
    header, _ = persistence.read(path, {})
    name = header.get("estimator")
    if name not in skcc.__all__:
        raise ValueError(f"{path} holds a {name}; this skcc knows {', '.join(skcc.__all__)}")
    return getattr(skcc, name).load(path, device=device or "auto")


# -- files, words ---------------------------------------------------------------------------


def _files(path, *, without=None):
    """Image files below a folder, or one file, and their names below it."""
    root = Path(path)
    if root.is_file():
        return [root], [root.name]
    files = data.image_files(root)
    if without is not None:
        own = without.resolve()
        if root.resolve().is_relative_to(own):
            raise ValueError(f"the images are in {without} itself; choose another --out")
        if own.is_relative_to(root.resolve()):  # earlier results are no images to cluster
            own = root / own.relative_to(root.resolve())
            files = [file for file in files if not file.is_relative_to(own)]
    return files, [str(file.relative_to(root)) for file in files]


def _say(options, words):
    if not options.quiet:
        print(printable(words), file=sys.stderr, flush=True)


def printable(words: str) -> str:
    """Text without what a terminal takes for a command.

    Parameters
    ----------
    words : str
        May hold names of files, which may hold any character.

    Returns
    -------
    words : str
        Characters that are not to be seen are escaped, but for the ends of lines.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in words)


@contextlib.contextmanager
def _plain_warnings():
    """Show a warning as a line, and each only once."""
    said = set()

    def show(message, *where, **shown):
        if str(message) not in said:
            said.add(str(message))
            print(printable(f"skcc: warning: {message}"), file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
