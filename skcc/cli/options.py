"""Options that several commands share."""

import argparse
import ast


def parse_setting(text: str) -> tuple[str, object]:
    """Parse a parameter of an estimator."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value  # such as resnet18


def add_command(
    commands, name: str, handler, summary: str, examples: str
) -> argparse.ArgumentParser:
    """Add a command with examples at the end of its help."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=handler)
    return parser


def add_settings_option(parser: argparse.ArgumentParser, description: str) -> None:
    """Add ``--set NAME=VALUE ...``."""
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        type=parse_setting,
        default=[],
        metavar="NAME=VALUE",
        help=description,
    )


def add_classes_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--classes-from-folders``."""
    parser.add_argument(
        "--classes-from-folders",
        action="store_true",
        help="compare the clusters with the folders that the images are in",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about devices and about reading images."""
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best)")
    parser.add_argument(
        "--on-error",
        choices=["raise", "warn"],
        help="what to do with files that cannot be read: stop, or go on without (default: raise)",
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="keep decoded images, or embeddings, here"
    )
    add_jobs_option(parser)


def add_weights_file_option(parser: argparse.ArgumentParser, description: str) -> None:
    """Add ``--weights-file F``."""
    parser.add_argument("--weights-file", metavar="F", help=description)


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs N``."""
    parser.add_argument(
        "--jobs", type=int, default=-1, metavar="N", help="threads that decode (default: all cores)"
    )


def add_output_options(parser: argparse.ArgumentParser, json_description: str) -> None:
    """Add ``--json`` and ``--quiet``."""
    parser.add_argument("--json", action="store_true", help=json_description)
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")


def reading_parameters(options: argparse.Namespace) -> dict[str, object]:
    """Return the estimator parameters that `add_reading_options` set."""
    parameters = {
        "device": options.device,
        "n_jobs": options.jobs,
        "on_error": options.on_error,
        "cache_dir": options.cache_dir,
    }
    return {name: value for name, value in parameters.items() if value is not None}
