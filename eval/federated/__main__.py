"""Runs the federation: python -m eval.federated --help."""

import sys

from .averaging import main

if __name__ == "__main__":
    sys.exit(main())
