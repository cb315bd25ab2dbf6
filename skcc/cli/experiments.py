"""``skcc run``, ``skcc reproduce`` and ``skcc table``: runs on data sets with known classes."""

import argparse
import shlex
import sys

from skcc import datasets, distributed
from skcc.cli.options import add_settings_option
from skcc.cli.output import printable
from skcc.experiments import peers, records, study, sweeps
from skcc.experiments.classical import CLASSICAL
from skcc.experiments.recipes import make_estimator, recipe
from skcc.experiments.runs import run
from skcc.methods import METHODS

RUN_EXAMPLES = """examples:
  skcc run contrastive digits --seed 0
  skcc run contrastive folder --root photos/ --set n_clusters=12 --verbose
  skcc run contrastive cifar10 --root ~/data --download --recipe paper
  skcc run contrastive digits --set cluster_weight=0 readout=kmeans   (instance head alone)
  skcc run contrastive digits --set augmented_views=1                 (one view is plain)
  skcc run twin digits --set prior=uniform cluster_queue=0
"""
REPRODUCE_EXAMPLES = """examples:
  skcc reproduce table --dataset cifar10 --root data/ --methods contrastive,twin,kmeans --seeds 3
  skcc reproduce table --dataset digits --methods kmeans,spectral,agglomerative,nmf
  skcc reproduce table --dataset digits --methods autoencoder,dec,dcgan --seeds 5
  skcc reproduce table --dataset cifar10 --root data/ --methods iic,pica --minutes 10   (of each)
  skcc reproduce augmentation --dataset digits --seeds 3     (both views, one, none)
  skcc reproduce heads --dataset digits --seeds 3            (both heads, instance, cluster)
  skcc reproduce backbones --dataset cifar10 --root data/    (ResNet-18, 34, 50)
  skcc reproduce similarity --dataset digits --out results/digits
  skcc reproduce evolution --dataset digits --out results/digits
  skcc reproduce cifar10 --root data/ --minutes 10           (again, until it is done)
  skcc reproduce peers --dataset digits --seeds 3            (UMAP, HDBSCAN, ClustPy, EVoC)
  skcc table results/
A sweep that was cut off goes on when the same command is given again.
"""
_DATASETS = (
    "arrays (.npz), cifar10, cifar100, digits, folder, imagenet-dogs, imagenet10, stl10 or "
    "tiny-imagenet"
)
_SWEEPS = ("table", "augmentation", "heads", "backbones")
_STUDIES = {
    "table": "methods on a data set",
    "augmentation": "ablation: both views augmented, one, none",
    "heads": "ablation: both heads, the instance head and k-means, the cluster head",
    "backbones": "ablation: ResNet-18, 34 and 50",
    "similarity": "figure: similarity of pairs of instances and of clusters over the epochs",
    "evolution": "figure: t-SNE of the instances at some moments of training",
    "cifar10": "train on CIFAR-10 for some minutes, in as many calls as it takes",
    "peers": "other packages on a data set, those that are installed; see `make peers`",
}


# -- options --------------------------------------------------------------------------------


def add_parser(commands, name: str, summary: str) -> None:
    """Add one of the three commands to the command line."""
    add = {"run": _add_run, "reproduce": _add_reproduce, "table": _add_table}[name]
    add(commands, summary)


def _add_run(commands, summary):
    parser = commands.add_parser(
        "run",
        help=summary,
        epilog=RUN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("method", help=", ".join([*METHODS, *CLASSICAL]))
    parser.add_argument("dataset", help=_DATASETS)
    parser.add_argument("--seed", type=int, default=0, help="random_state (default: 0)")
    _add_data_options(parser)
    _add_estimator_options(parser)
    parser.set_defaults(handler=_run)


def _add_reproduce(commands, summary):
    reproduce = commands.add_parser(
        "reproduce",
        help=summary,
        epilog=REPRODUCE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    studies = reproduce.add_subparsers(dest="study", required=True)
    for name, description in _STUDIES.items():
        parser = studies.add_parser(name, help=description, description=description)
        if name == "peers":
            _add_peers(parser)
            continue
        if name != "cifar10":
            parser.add_argument("--dataset", required=True, help=_DATASETS)
        if name == "table":
            parser.add_argument("--methods", type=_names, default=["contrastive"],
                                help="separated by commas (default: contrastive)")  # fmt: skip
        elif name not in _SWEEPS:
            parser.add_argument("--method", default="contrastive", help=", ".join(METHODS))
        if name in _SWEEPS:
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
        if name == "table":
            parser.add_argument("--minutes", type=float,
                                help="train each estimator for so long (default: its own epochs)",
                                )  # fmt: skip
        parser.add_argument("--out", default="results", help="folder (default: results)")
        _add_data_options(parser)
        _add_estimator_options(parser)
        parser.set_defaults(handler=_reproduce)


def _add_peers(parser):
    parser.add_argument("--dataset", required=True, help=_DATASETS)
    parser.add_argument("--methods", type=_names, default=list(peers.PEERS),
                        help=f"separated by commas (default: {','.join(peers.PEERS)})")  # fmt: skip
    parser.add_argument(
        "--seeds", type=_positive, default=1, help="how many: 0, 1, ... (default: 1)"
    )
    parser.add_argument("--limit", type=float, default=600.0, help="seconds per run (default: 600)")
    parser.add_argument("--threads", type=_positive, default=1, help="per run (default: 1)")
    parser.add_argument("--out", default="results", help="folder (default: results)")
    _add_data_options(parser)
    parser.set_defaults(handler=_compare)


def _add_table(commands, summary):
    parser = commands.add_parser("table", help=summary)
    parser.add_argument("results", help="a folder of results, or one of its files")
    parser.add_argument("--format", choices=["text", "markdown", "csv"], default="text")
    parser.set_defaults(handler=_table)


def _add_data_options(parser):
    parser.add_argument("--root", help="folder of the data set, or a .npz file")
    parser.add_argument("--download", action="store_true", help="download what is missing")
    parser.add_argument("--images", type=int, help="take so many at random (default: all)")


def _add_estimator_options(parser):
    parser.add_argument("--recipe", choices=["paper"], help="start from the paper's own settings")
    add_settings_option(parser, "parameters of the estimator")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: auto)")
    parser.add_argument("--verbose", action="store_true", help="show progress")


def _names(text):
    return [name for name in text.split(",") if name]


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return value


# -- commands -------------------------------------------------------------------------------


def _run(options):
    parameters = _parameters(options, options.dataset)
    if options.method in METHODS:
        make_estimator(options.method, parameters)  # raises before data is read
    yield run(options.method, _load_data(options, options.dataset), parameters)


def _parameters(options, dataset):
    """Return the recipe, changed by the options."""
    parameters = recipe(options.recipe, options.method, dataset)
    return parameters | {"random_state": options.seed} | _settings(options)


def _settings(options):
    """Return the parameters that were set by options."""
    given = {}
    if options.device != "auto":
        given["device"] = options.device
    if options.verbose:
        given["verbose"] = 1
    return given | dict(options.set)


def _load_data(options, name):
    return datasets.load(name, options.root, download=options.download, n_images=options.images)


def _reproduce(options):
    if distributed.world_size() > 1:
        raise ValueError("skcc reproduce runs in one process; under torchrun use skcc run")
    if options.study in ("similarity", "evolution"):
        yield _draw_figure(options)
        return
    bunch = _load_data(options, getattr(options, "dataset", "cifar10"))
    arguments = {
        "out": options.out, "parameters": _settings(options), "recipe": options.recipe
    }  # fmt: skip
    if options.study == "cifar10":
        yield sweeps.train_for_minutes(
            options.minutes, bunch, method=options.method, seed=options.seed, **arguments
        )
    elif options.study == "table":
        yield from sweeps.table(
            bunch, options.methods, seeds=options.seeds, minutes=options.minutes, **arguments
        )
    else:
        yield from sweeps.ablation(options.study, bunch, seeds=options.seeds, **arguments)
    print(printable(f"now: skcc table {shlex.quote(options.out)}"), file=sys.stderr)


def _compare(options):
    yield from peers.compare(
        _load_data(options, options.dataset),
        options.methods,
        seeds=options.seeds,
        out=options.out,
        limit=options.limit,
        threads=options.threads,
    )


def _draw_figure(options):
    """Train with snapshots unless that is done already, and draw the figure of a study."""
    bunch = _load_data(options, options.dataset)
    parameters = _parameters(options, bunch.name)
    if bunch.target is not None:
        parameters = {"n_clusters": len(bunch.target_names), **parameters}
    record = study.observe(
        bunch,
        options.out,
        method=options.method,
        parameters=parameters,
        snapshot_epochs=tuple(options.epochs),
    )
    draw = {"similarity": study.draw_similarity, "evolution": study.draw_evolution}[options.study]
    figure = f"{options.out}/{options.study}.png"
    draw(options.out).savefig(figure, dpi=150)
    return {"figure": figure, **record}


def _table(options):
    yield records.render(records.read(options.results), options.format).rstrip("\n")
