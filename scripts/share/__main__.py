"""Share the bundle: as a zip for MONAI's download, or as a model repository on the Hugging Face Hub.

    python -m scripts.share zip --output logs/share
    python -m scripts.share hub --output logs/share
    python -m scripts.share push --repo OWNER/NAME [--public]

`hub` writes the folder that `push` uploads, to look at before. `bundle` describes what is in them. With --sign
private.pem the list of checksums is signed. The receiver checks it with `manifest.py --public_key public.pem`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..run.errors import run_program
from .bundle import changed_files, push, untracked_files, write_hub_folder, write_zip
from .manifest import BUNDLE_ROOT, MANIFEST, digest, files_below

MAX_FILES_LISTED = 5  # in a note


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    return run_program("share", lambda: _share(options))


def _share(options: argparse.Namespace) -> int:
    try:
        _print_note("shared as they are, not as last committed", changed_files(options.bundle))
        _print_note("not shared, since git does not track them", untracked_files(options.bundle))
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"share: {error}", file=sys.stderr)
        return 1
    return 0


def _zip(options: argparse.Namespace) -> None:
    path = write_zip(options.bundle, options.output, options.overwrite, options.sign)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB, sha256 {digest(path)}")


def _hub(options: argparse.Namespace) -> None:
    path = write_hub_folder(options.bundle, options.output, options.overwrite, options.sign)
    print(f"wrote {path}: {sum(1 for _ in files_below(path))} files; sha256 of {MANIFEST}: {digest(path / MANIFEST)}")


def _push(options: argparse.Namespace) -> None:
    print(f"pushed {push(options.bundle, options.repo, options.public, options.sign)}")


def _print_note(text: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:MAX_FILES_LISTED]) + (", ..." if len(names) > MAX_FILES_LISTED else "")
        print(f"note: {len(names)} files are {text}: {shown}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.share", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="{zip,hub,push}")
    for run, name, text in (
        (_zip, "zip", "NAME_vVERSION.zip"),
        (_hub, "hub", "the folder of a model repository, to look at"),
        (_push, "push", "upload it"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--bundle", type=Path, default=BUNDLE_ROOT, help="this bundle if left out")
        command.add_argument("--sign", type=Path, metavar="KEY", help="PEM file of the private key that signs it")
        if run is _push:
            command.add_argument("--repo", required=True, metavar="OWNER/NAME")
            command.add_argument("--public", action="store_true", help="of a new repository; it is private otherwise")
        else:
            command.add_argument("--output", type=Path, required=True, help="folder that gets it")
            command.add_argument("--overwrite", action="store_true", help="replace what was shared there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
