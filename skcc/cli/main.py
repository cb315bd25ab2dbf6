"""The command line; ``fit``, ``predict`` and ``report`` are in `skcc.commands`."""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Sequence

from skcc import __version__, distributed
from skcc.benchmarks import processes
from skcc.cli import clustering
from skcc.experiments import sweeps
from skcc.experiments.recipes import METHODS, make_estimator, recipe
from skcc.experiments.runs import run, versions
from skcc.training.settings import resolve_device

_EXAMPLES = """examples:
  skcc run contrastive digits --seed 0
  skcc run contrastive folder --root photos/ --set n_clusters=12 --verbose
  skcc run contrastive cifar10 --root ~/data --download --recipe paper
  skcc run contrastive digits --set cluster_weight=0 readout=kmeans   (instance head alone)
  skcc run contrastive digits --set augmented_views=1                 (one view is plain)
  skcc run twin digits --set prior=uniform cluster_queue=0
"""

_REPRODUCE_EXAMPLES = """examples:
  skcc reproduce table --dataset cifar10 --root data/ --methods contrastive,twin,kmeans --seeds 3
  skcc reproduce table --dataset digits --methods kmeans,spectral,agglomerative,nmf
  skcc reproduce augmentation --dataset digits --seeds 3     (both views, one, none)
  skcc reproduce heads --dataset digits --seeds 3            (both heads, instance, cluster)
  skcc reproduce backbones --dataset cifar10 --root data/    (ResNet-18, 34, 50)
  skcc reproduce similarity --dataset digits --out results/digits
  skcc reproduce evolution --dataset digits --out results/digits
  skcc reproduce cifar10 --root data/ --minutes 10           (again, until it is done)
  skcc table results/
A sweep that was cut off goes on when the same command is given again.
"""
_DATASETS = (
    "arrays (.npz), cifar10, cifar100, digits, folder, imagenet-dogs, imagenet10, stl10 or "
    "tiny-imagenet"
)
_TRAINED = ("table", "augmentation", "heads", "backbones")


def _benches():
    from skcc.benchmarks import quality, speed, throughput

    return {
        "augment": speed.augment,
        "losses": speed.losses,
        "step": speed.step,
        "predict": speed.predict,
        "memory": speed.memory,
        "scaling": speed.scaling,
        "processes": processes.processes,
        "import": speed.import_time,
        "variants": speed.variants,
        "decode": throughput.decode,
        "quality": quality.quality,
    }


def _parser():
    parser = argparse.ArgumentParser(prog="skcc", description="Deep image clustering.")
    parser.add_argument("--version", action="version", version=f"skcc {__version__}")
    names = parser.add_subparsers(dest="command", required=True)
    clustering.add_to(names)
    run = names.add_parser(
        "run",
        help="fit a method on a data set and print one JSON line",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("method", help="contrastive, twin, kmeans, spectral, agglomerative or nmf")
    run.add_argument("dataset", help=_DATASETS)
    run.add_argument("--seed", type=int, default=0, help="random_state (default: 0)")
    _add_data_and_settings(run)
    run.set_defaults(work=_run)
    _add_reproduce(names)
    table = names.add_parser(
        "table", help="show records of runs as tables, beside the papers' figures"
    )
    table.add_argument("results", help="a folder of results, or one of its files")
    table.add_argument("--format", choices=["text", "markdown", "csv"], default="text")
    table.set_defaults(work=_table)
    bench = names.add_parser("bench", help="measure speed, memory or time to accuracy")
    benches = bench.add_subparsers(dest="bench", required=True)
    for name, function in _benches().items():
        _add_bench(benches, name, function)
    return parser


def _add_data_and_settings(parser):
    parser.add_argument("--root", help="folder of the data set, or a .npz file")
    parser.add_argument("--download", action="store_true", help="download what is missing")
    parser.add_argument("--images", type=int, help="take so many at random (default: all)")
    parser.add_argument("--recipe", choices=["paper"], help="start from the paper's own settings")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=clustering.setting,
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the estimator",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: auto)")
    parser.add_argument("--verbose", action="store_true", help="show progress")


def _add_reproduce(names):
    reproduce = names.add_parser(
        "reproduce",
        help="make the papers' tables, ablations and figures",
        epilog=_REPRODUCE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = sweeps.add_subparsers(dest="what", required=True)
    about = {
        "table": "methods on a data set",
        "augmentation": "ablation: both views augmented, one, none",
        "heads": "ablation: both heads, the instance head and k-means, the cluster head",
        "backbones": "ablation: ResNet-18, 34 and 50",
        "similarity": "figure: similarity of pairs of instances and of clusters over the epochs",
        "evolution": "figure: t-SNE of the instances at some moments of training",
        "cifar10": "train on CIFAR-10 for some minutes, in as many calls as it takes",
    }
    for name, description in about.items():
        parser = what.add_parser(name, help=description, description=description)
        if name != "cifar10":
            parser.add_argument("--dataset", required=True, help=_DATASETS)
        if name == "table":
            parser.add_argument("--methods", type=_names, default=["contrastive"],
                                help="separated by commas (default: contrastive)")  # fmt: skip
        elif name not in _TRAINED:
            parser.add_argument("--method", default="contrastive", help="contrastive or twin")
        if name in _TRAINED:
            parser.add_argument("--seeds", type=_positive, default=1,
                                help="how many: 0, 1, ... (default: 1)")  # fmt: skip
        else:
            parser.add_argument("--seed", type=int, default=0, help="random_state (default: 0)")
        if name in ("similarity", "evolution"):
            parser.add_argument("--epochs", type=_positive, nargs="+", default=[],
                                help="at which features are kept (default: 1, 10 %%, 25 %%, all)",
                                )  # fmt: skip
        if name == "cifar10":
            parser.add_argument("--minutes", type=float, required=True, help="for this call")
        parser.add_argument("--out", default="results", help="folder (default: results)")
        _add_data_and_settings(parser)
        parser.set_defaults(work=_reproduce)


def _names(text):
    return [name for name in text.split(",") if name]


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


def _add_bench(names, name, function):
    """A benchmark's options are the parameters of its function."""
    first, *_ = inspect.getdoc(function).splitlines()
    bench = names.add_parser(name, help=first, description=first)
    bench.set_defaults(work=_bench, function=function)
    bench.add_argument("--threads", type=int, default=1, help="of torch on the CPU (default: 1)")
    bench.add_argument(
        "--ceilings", action="store_true", help="also what the device can do (always on CUDA)"
    )
    for parameter in inspect.signature(function).parameters.values():
        option, default = f"--{parameter.name}", parameter.default
        if default is inspect.Parameter.empty:
            bench.add_argument(option, default="cpu", help="default: cpu")
        elif isinstance(default, tuple):
            kind = type(default[0])
            bench.add_argument(option, nargs="+", type=kind, default=default, help=f"{default}")
        else:
            kind = int if default is None and parameter.name != "root" else type(default)
            kind = str if parameter.name == "root" else kind
            bench.add_argument(option, type=kind, default=default, help=f"default: {default}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, default=None
        What follows the name of the program; None takes the arguments of the process.

    Returns
    -------
    status : int
        0 if all went well, 1 after an error, which is printed, 130 after Ctrl-C; argparse exits
        with 2.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(arguments)
    options.arguments = arguments
    try:
        for record in options.work(options):
            if not distributed.is_rank_zero():
                continue
            print(record if isinstance(record, str) else json.dumps(record), flush=True)
    except KeyboardInterrupt as stop:
        print(f"skcc: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError) as error:
        told = "; ".join([str(error), *getattr(error, "__notes__", [])])
        print(clustering.printable(f"skcc: {told}"), file=sys.stderr)
        return 1
    return 0


def _run(options):

    parameters = recipe(options.recipe, options.method, options.dataset)
    parameters |= {"random_state": options.seed} | _parameters(options)
    if options.method in METHODS:
        make_estimator(options.method, parameters)  # for its errors, before data is read
    yield run(options.method, _data(options, options.dataset), parameters)


def _parameters(options):
    place = {"device": options.device, "verbose": int(options.verbose)}
    return {name: value for name, value in place.items() if value not in ("auto", 0)} | dict(
        options.set
    )


def _data(options, name):
    from skcc import datasets

    return datasets.load(name, options.root, download=options.download, n_images=options.images)


def _reproduce(options):

    if distributed.world_size() > 1:
        raise ValueError("skcc reproduce runs in one process; under torchrun use skcc run")
    if options.what in ("similarity", "evolution"):
        yield _study(options)
        return
    bunch = _data(options, getattr(options, "dataset", "cifar10"))
    how = {"out": options.out, "parameters": _parameters(options), "recipe": options.recipe}
    if options.what == "cifar10":
        yield sweeps.within(
            options.minutes, bunch, method=options.method, seed=options.seed, **how
        )
    elif options.what == "table":
        yield from sweeps.table(bunch, options.methods, seeds=options.seeds, **how)
    else:
        yield from sweeps.ablation(options.what, bunch, seeds=options.seeds, **how)


def _study(options):
    from skcc.experiments import study

    bunch = _data(options, options.dataset)
    parameters = recipe(options.recipe, options.method, bunch.name)
    parameters |= {"random_state": options.seed} | _parameters(options)
    if bunch.target is not None:
        parameters = {"n_clusters": len(bunch.target_names), **parameters}
    seen = study.observe(
        bunch, options.out, method=options.method, parameters=parameters,
        moments=tuple(options.epochs),
    )  # fmt: skip
    draw = {"similarity": study.draw_similarity, "evolution": study.draw_evolution}[options.what]
    figure = f"{options.out}/{options.what}.png"
    draw(options.out).savefig(figure, dpi=150)
    return {"figure": figure, **seen}


def _table(options):
    from skcc.experiments import records

    yield records.render(records.read(options.results), options.format).rstrip("\n")


def _bench(options):
    import torch

    from skcc.benchmarks import speed

    torch.set_num_threads(options.threads)
    names = inspect.signature(options.function).parameters
    record = options.function(**{name: getattr(options, name) for name in names})
    records = [record] if isinstance(record, dict) else record
    machine, ceilings = {"threads": options.threads, "versions": versions()}, {}
    if "device" in names:
        device = resolve_device(options.device)
        machine["device"] = str(device)
        if device.type == "cuda" or options.ceilings:
            ceilings = speed.ceilings(device)
    for record in records:
        yield {**record, **_shares(record, ceilings), **machine}


def _shares(record, ceilings):
    """What a measurement reached of what the device can do."""
    rates = {name: record[name] for name in ceilings if name in record}
    shares = {f"share_of_{name}": rate / ceilings[name] for name, rate in rates.items()}
    return shares | {"ceilings": ceilings} if ceilings else {}
