"""The ``skcc`` command: its parser, the printing of records, and errors."""

import argparse
import json
import os
import sys
from collections.abc import Sequence

from skcc import __version__, distributed
from skcc.cli import bench, experiments, fit, predict, report, suggest
from skcc.cli.output import printable


def _build_parser():
    parser = argparse.ArgumentParser(prog="skcc", description="Deep image clustering.")
    parser.add_argument("--version", action="version", version=f"skcc {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    fit.add_parser(commands)
    predict.add_parser(commands)
    report.add_parser(commands)
    suggest.add_parser(commands)
    experiments.add_parsers(commands)
    bench.add_parser(commands)
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
    options = _build_parser().parse_args(arguments)
    options.arguments = arguments
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
