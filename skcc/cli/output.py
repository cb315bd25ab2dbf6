"""Messages and warnings of the commands, on standard error."""

import contextlib
import sys
import warnings
from collections.abc import Iterator


def printable(text: str) -> str:
    """Escape the characters that a terminal could take for a command."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def count(n: int, noun: str) -> str:
    """Return a number with its noun, which ends in s but for 1."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def print_message(options, message: str) -> None:
    """Print a message unless ``--quiet`` is set."""
    if not options.quiet:
        print(printable(message), file=sys.stderr, flush=True)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Print each distinct warning once, as one line without source code."""
    shown = set()

    def show(message, *args, **kwargs):
        if str(message) not in shown:
            shown.add(str(message))
            print(printable(f"skcc: warning: {message}"), file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
