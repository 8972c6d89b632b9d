"""Runs the sharing: python -m scripts.share --help."""

import sys

from .bundle import main

if __name__ == "__main__":
    sys.exit(main())
