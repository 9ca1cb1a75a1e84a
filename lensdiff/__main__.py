"""`python -m lensdiff`: the command."""

import sys

from lensdiff.cli import main

if __name__ == "__main__":
    sys.exit(main())
