"""Checks the bundle as MONAI's model zoo and its programs do, without a network: python -m scripts.verify.

Prints a line for each check, and ends with 1 when one has failed. The checks are in `share/verify.py`.
"""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; 0, or 1 when a check has failed."""
    argparse.ArgumentParser(prog="python -m scripts.verify", description=__doc__.split("\n")[0]).parse_args(arguments)
    from .share.verify import print_checks  # after --help: it imports torch

    return print_checks()


if __name__ == "__main__":
    sys.exit(main())
