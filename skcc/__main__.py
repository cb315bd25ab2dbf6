"""``python -m skcc`` is the command line."""

import sys

from skcc.cli import main

if __name__ == "__main__":
    sys.exit(main())
