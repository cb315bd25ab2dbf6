"""Parsers of the commands for a pile of images: fit, predict, report and suggest.

Nothing slow is imported for them, so help and errors of usage come at once.
"""

import importlib
from functools import partial
from pathlib import Path

from skcc.cli.options import (
    add_classes_option,
    add_command,
    add_jobs_option,
    add_output_options,
    add_reading_options,
    add_settings_option,
    add_weights_file_option,
)
from skcc.cli.run_folder import EMBEDDINGS, MODEL, PAGE, SORTED
from skcc.methods import METHODS

FIT_EXAMPLES = """examples:
  skcc fit photos/ -k 10 -o out/                      then open out/report.html
  skcc fit photos/ -k 10 -o out/ --embedder torchvision/resnet50   features of a trained network
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
  embeddings/        with --embedder: what the network made of the images
"""
PREDICT_EXAMPLES = """examples:
  skcc predict out/ new/ -o labels.csv                the model of a run, on a folder
  skcc predict out/model.safetensors *.jpg
  skcc predict out/ new/ --rename names.json          names that you gave on the page
  skcc predict out/model.safetensors new/ --json | jq 'select(.cluster == 3).path'
"""
REPORT_EXAMPLES = """examples:
  skcc report out/
  skcc report out/ --images /media/photos             the images have moved
  skcc report out/ --classes-from-folders -o compared.html
"""
SUGGEST_EXAMPLES = """examples:
  skcc suggest photos/ --embedder torchvision/resnet50     by features of a trained network
  skcc suggest photos/ --model out/                        by features that skcc fit has learned
  skcc suggest photos/ --range 5 30 -o numbers.png         also a figure
"""
OF_EMBEDDER = "embedder__"  # begins the names of parameters of the embedder


def add_parser(commands, name: str, summary: str) -> None:
    """Add one of the commands to the command line."""
    add = {"fit": _add_fit, "predict": _add_predict, "report": _add_report,
           "suggest": _add_suggest}[name]  # fmt: skip
    add(commands, summary)


def _add_command(commands, name, summary, examples):
    """Add a command whose module of the same name is imported when it runs."""
    return add_command(commands, name, partial(_run, name), summary, examples)


def _run(name, options):
    return importlib.import_module(f"skcc.cli.{name}").run(options)


def _add_fit(commands, summary):
    parser = _add_command(commands, "fit", summary, FIT_EXAMPLES)
    parser.add_argument("path", metavar="PATH", help="folder of images, searched recursively")
    parser.add_argument(
        "-k", "--clusters", "--n-clusters", type=int, metavar="K", help="how many (default: 8)"
    )
    parser.add_argument(
        "-o", "--out", required=True, type=Path, metavar="OUT", help="folder for the results"
    )
    parser.add_argument("--method", choices=list(METHODS), help="default: contrastive")
    parser.add_argument("--backbone", metavar="NAME", help="network (default: by device and size)")
    parser.add_argument(
        "--embedder",
        metavar="NAME",
        help="cluster what a pre-trained network makes of the images: torchvision/resnet50, "
        "timm/vit_small_patch14_dinov2.lvd142m, pip/efficientnet-lite0, ...",
    )
    add_weights_file_option(parser, "weights of that network, where they cannot be downloaded")
    _add_run_options(parser)
    add_settings_option(
        parser, f"any parameters of the estimator; those of the embedder as {OF_EMBEDDER}NAME"
    )
    add_classes_option(parser)
    add_reading_options(parser)
    add_output_options(parser, "print the record of the run as JSON")


def _add_run_options(parser):
    """Add the options about one run: its length and seed, where it starts, what becomes of it."""
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the images")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the interrupted run in OUT, if there is one; of a finished run, only "
        "--sort what it found",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the finished run in OUT, if there is one"
    )
    parser.add_argument(
        "--weights",
        metavar="MODEL",
        help="start from the features of a fitted model; clusters are learned anew. Method, "
        "network and number of clusters are its own unless given",
    )
    parser.add_argument(
        "--sort",
        choices=["copy", "symlink"],
        help=f"also bring the images into OUT/{SORTED}/CLUSTER/; never moves or overwrites",
    )


def _add_predict(commands, summary):
    parser = _add_command(commands, "predict", summary, PREDICT_EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", help=f"a {MODEL} that skcc fit wrote, or the folder that holds it"
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="folders of images, images, or patterns in quotes"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="default: standard output")
    parser.add_argument(
        "--rename", metavar="JSON", help="names of clusters that the page exported, to be written"
    )
    add_weights_file_option(parser, "where the weights of the pre-trained network are now")
    add_reading_options(parser)
    add_output_options(parser, "write a JSON object per line instead of CSV")


def _add_report(commands, summary):
    parser = _add_command(commands, "report", summary, REPORT_EXAMPLES)
    parser.add_argument("run", type=Path, metavar="OUT", help="folder that skcc fit wrote")
    parser.add_argument("-o", "--out", metavar="FILE", help=f"default: OUT/{PAGE}")
    parser.add_argument("--images", metavar="PATH", help="where the images are now")
    parser.add_argument(
        "--cache-dir", metavar="DIR", help=f"embeddings of the run (default: OUT/{EMBEDDINGS})"
    )
    add_weights_file_option(parser, "where the weights of the pre-trained network are now")
    add_classes_option(parser)
    add_jobs_option(parser)
    add_output_options(parser, "print the record of the run as JSON")


def _add_suggest(commands, summary):
    parser = _add_command(commands, "suggest", summary, SUGGEST_EXAMPLES)
    parser.add_argument("path", metavar="PATH", help="folder of images, searched recursively")
    parser.add_argument(
        "--range",
        nargs=2,
        type=int,
        default=[2, 20],
        metavar=("LOW", "HIGH"),
        help="numbers of clusters that are compared (default: 2 20)",
    )
    features = parser.add_mutually_exclusive_group()
    features.add_argument(
        "--embedder", metavar="NAME", help="pre-trained network; without one, pixels are compared"
    )
    features.add_argument(
        "--model", metavar="MODEL", help="fitted model whose features are taken, or its folder"
    )
    add_weights_file_option(parser, "weights of the network, where they cannot be downloaded")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="figure, such as a .png")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    add_reading_options(parser)
    add_output_options(parser, "print the table as JSON")
