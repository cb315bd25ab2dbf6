"""The command line: ``skcc run METHOD DATASET`` and ``skcc bench NAME``."""

import argparse
import ast
import inspect
import json
import sys
from collections.abc import Sequence

from skcc import __version__

_EXAMPLES = """examples:
  skcc run contrastive digits --seed 0
  skcc run contrastive folder --root photos/ --set n_clusters=12 --verbose
  skcc run contrastive cifar10 --root ~/data --download --recipe paper
  skcc run contrastive digits --set cluster_weight=0 readout=kmeans   (instance head alone)
  skcc run contrastive digits --set augmented_views=1                 (one view is plain)
  skcc run twin digits --set prior=uniform cluster_queue=0
"""


def _benches():
    from skcc import quality, speed, throughput

    return {
        "augment": speed.augment,
        "losses": speed.losses,
        "step": speed.step,
        "predict": speed.predict,
        "memory": speed.memory,
        "scaling": speed.scaling,
        "import": speed.import_time,
        "variants": speed.variants,
        "decode": throughput.decode,
        "quality": quality.quality,
    }


def _setting(text):
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # a word, such as resnet18


def _parser():
    parser = argparse.ArgumentParser(prog="skcc", description="Deep image clustering.")
    parser.add_argument("--version", action="version", version=f"skcc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="fit a method on a data set and print one JSON line",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("method", help="contrastive or twin")
    run.add_argument("dataset", help="digits, folder, arrays (.npz), cifar10, cifar100 or stl10")
    run.add_argument("--seed", type=int, default=0, help="random_state (default: 0)")
    run.add_argument("--root", help="folder of the data set")
    run.add_argument("--download", action="store_true", help="download what is missing")
    run.add_argument("--recipe", choices=["paper"], help="start from the paper's own settings")
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=_setting,
        default=[],
        metavar="NAME=VALUE",
        help="parameters of the estimator",
    )
    run.add_argument("--verbose", action="store_true", help="show progress")
    run.set_defaults(work=_run)
    bench = commands.add_parser("bench", help="measure speed, memory or time to accuracy")
    names = bench.add_subparsers(dest="bench", required=True)
    for name, function in _benches().items():
        _add_bench(names, name, function)
    return parser


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
        0 if all went well, 1 after an error, which is printed; argparse exits with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        for record in options.work(options):
            print(json.dumps(record), flush=True)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"skcc: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options):
    from skcc import benchmark

    parameters = {}
    if options.recipe:
        key = options.method, options.dataset
        if key not in benchmark.RECIPES:
            raise ValueError(f"the paper has no settings for {' on '.join(key)}")
        parameters |= benchmark.RECIPES[key]
    parameters |= {"random_state": options.seed, "verbose": int(options.verbose)}
    parameters |= dict(options.set)
    yield benchmark.run(
        options.method,
        options.dataset,
        parameters=parameters,
        root=options.root,
        download=options.download,
    )


def _bench(options):
    import torch

    from skcc import benchmark, engine, speed

    torch.set_num_threads(options.threads)
    names = inspect.signature(options.function).parameters
    record = options.function(**{name: getattr(options, name) for name in names})
    records = [record] if isinstance(record, dict) else record
    machine, ceilings = {"threads": options.threads, "versions": benchmark.versions()}, {}
    if "device" in names:
        device = engine.resolve_device(options.device)
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
