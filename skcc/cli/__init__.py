"""The command line."""

from skcc.cli.main import main

__all__ = ["main"]
