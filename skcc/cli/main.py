"""The ``skcc`` command: its parser, the printing of records, and errors."""

import argparse
import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence

from skcc import __version__
from skcc.cli.output import printable

# Commands, the modules that have their parsers, and what ``skcc --help`` says. A module is imported
# for its own commands alone, since most import torch.
_COMMANDS = {
    "fit": ("parsers", "cluster the images of a folder, and make a page of it"),
    "predict": ("parsers", "find the clusters of other images"),
    "report": ("parsers", "make the page of a finished run again"),
    "suggest": ("parsers", "say how many clusters there may be, by several criteria"),
    "run": ("experiments", "fit a method on a data set and print one JSON line"),
    "reproduce": ("experiments", "make the papers' tables, ablations and figures"),
    "table": ("experiments", "show records of runs as tables, beside the papers' figures"),
    "bench": ("bench", "measure speed, memory or time to accuracy"),
}


def _build_parser(command: str | None = None):
    """Make the parser, with the options of one command or of all."""
    parser = argparse.ArgumentParser(prog="skcc", description="Deep image clustering.")
    parser.add_argument("--version", action="version", version=f"skcc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (module, summary) in _COMMANDS.items():
        if command in (None, name):
            importlib.import_module(f"skcc.cli.{module}").add_parser(commands, name, summary)
        else:
            commands.add_parser(name, help=summary)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Arguments after the name of the program; None stands for those of the process.

    Returns
    -------
    status : int
        0 on success, 1 after an error, which is printed, 130 after Ctrl-C. For wrong usage
        argparse exits with 2.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = _build_parser(command).parse_args(arguments)
    options.arguments = arguments
    from skcc import distributed  # imports torch

    with contextlib.suppress(AttributeError, ValueError):  # of streams that are no files
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that lack a letter
    try:
        for record in options.handler(options):
            if distributed.is_rank_zero():
                print(record if isinstance(record, str) else json.dumps(record), flush=True)
    except KeyboardInterrupt as interrupt:
        print(f"skcc: {str(interrupt) or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError) as error:
        message = "; ".join([str(error), *getattr(error, "__notes__", [])])
        print(printable(f"skcc: {message}"), file=sys.stderr)
        return 1
    return 0
