"""The command line as `python -m floracle`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
