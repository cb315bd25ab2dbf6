"""Options that several commands share."""

import argparse
import ast


def parse_setting(text: str) -> tuple[str, object]:
    """Parse a parameter of an estimator.

    Parameters
    ----------
    text : str
        As in ``max_epochs=20``. A value that is no Python literal is taken as a string.

    Returns
    -------
    name, value : str, object
        The parameter.

    Raises
    ------
    argparse.ArgumentTypeError
        If there is no name or no equals sign.
    """
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
    """Add a command with examples at the end of its help.

    Parameters
    ----------
    commands : argparse action
        Result of ``add_subparsers``.

    name : str
        Name of the command.

    handler : callable
        Takes the parsed options and returns an iterator of records to print.

    summary : str
        One line for the list of commands.

    examples : str
        Printed as it is.

    Returns
    -------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
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
    """Add ``--set NAME=VALUE ...``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.

    description : str
        Help of the option.
    """
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
    """Add ``--classes-from-folders``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.
    """
    parser.add_argument(
        "--classes-from-folders",
        action="store_true",
        help="compare the clusters with the folders that the images are in",
    )


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about devices and about reading images.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.
    """
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps, ... (default: the best)")
    parser.add_argument(
        "--on-error",
        choices=["raise", "warn"],
        help="what to do with files that cannot be read: stop, or go on without (default: raise)",
    )
    parser.add_argument("--cache-dir", metavar="DIR", help="keep decoded images here")
    add_jobs_option(parser)


def add_jobs_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs N``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.
    """
    parser.add_argument(
        "--jobs", type=int, default=-1, metavar="N", help="threads that decode (default: all cores)"
    )


def add_output_options(parser: argparse.ArgumentParser, json_description: str) -> None:
    """Add ``--json`` and ``--quiet``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of a command.

    json_description : str
        Help of ``--json``.
    """
    parser.add_argument("--json", action="store_true", help=json_description)
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")


def reading_parameters(options: argparse.Namespace) -> dict[str, object]:
    """Return the estimator parameters that `add_reading_options` set.

    Parameters
    ----------
    options : argparse.Namespace
        Options of the command.

    Returns
    -------
    parameters : dict of str to object
        Without those that were not given.
    """
    parameters = {
        "device": options.device,
        "n_jobs": options.jobs,
        "on_error": options.on_error,
        "cache_dir": options.cache_dir,
    }
    return {name: value for name, value in parameters.items() if value is not None}
