"""SHA256SUMS, the list of a shared bundle's files: written when it is shared, checked before anything of it runs.

    python -I scripts/share/manifest.py [FOLDER] [--sha256 HEX] [--public_key FILE]

Names every file that is changed, missing or additional, and ends with 1 when there is one. --sha256 compares the list
itself with a sum that you got another way, and --public_key checks its signature SHA256SUMS.sig with the sharer's key:
without one of them the list is only as trustworthy as its source.

Imports nothing of the bundle, and needs Python alone; --public_key needs the library model-signing, and no network.
With -I Python looks for no module beside this file either. The list is what `sha256sum` writes, so `sha256sum --check
SHA256SUMS` checks it without this file.
"""

# no `from __future__`, which would import a module before the search path is mended
import os
import sys

if __name__ == "__main__":  # without -I a file of this folder would stand for a module of the standard library
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != os.path.dirname(os.path.abspath(__file__))]

import argparse
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MANIFEST, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"
# what the Hugging Face Hub adds in the repository and beside a download; nothing reads it as code
HUB_RECORD, HUB_RECORDS = ".gitattributes", ".cache/huggingface/"
BUNDLE_ROOT = Path(__file__).resolve().parents[2]
SUM = re.compile(r"[0-9a-f]{64}")
LINE = re.compile(rf"({SUM.pattern})  (.+)")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.public_key is not None:
            check_signature(options.folder, options.public_key)
        differences = problems(options.folder, options.sha256)
        count = len(read_manifest(options.folder))
    except (ValueError, OSError, ImportError) as error:
        print(f"manifest: {error}", file=sys.stderr)
        return 1
    if differences:
        print(
            f"manifest: {options.folder} is not what was shared; run nothing of it and get it again:", file=sys.stderr
        )
        print("\n".join(f"  {line}" for line in differences), file=sys.stderr)
        return 1
    signed = f", signed by the key of {options.public_key}" if options.public_key is not None else ""
    print(
        f"ok: the {count} files of {options.folder} are those of {MANIFEST}, "
        f"sha256 {digest(options.folder / MANIFEST)}{signed}"
    )
    return 0


def write_manifest(folder: Path) -> str:
    """List every file of a folder, sorted. Returns the SHA-256 of the list.

    Raises:
        ValueError: a file whose name a list cannot hold, or that is a link or a device.
    """
    lines = []
    for name in sorted(files_below(folder)):
        _check_name(name)
        if not _is_plain(folder / name):
            raise ValueError(f"{folder / name} is a link or a device; share the file itself.")
        if name not in (MANIFEST, SIGNATURE):
            lines.append(f"{digest(folder / name)}  {name}\n")
    (folder / MANIFEST).write_bytes("".join(lines).encode())
    return digest(folder / MANIFEST)


def problems(folder: Path, sha256: str | None = None) -> list[str]:
    """How a folder differs from its list, a line for each file. Empty when it does not differ.

    Args:
        folder: of the bundle.
        sha256: of the list itself; None trusts the list.

    Raises:
        FileNotFoundError: there is no list.
        ValueError: the list is damaged, names files outside of the folder, or is another one; or sha256 is no sum.
    """
    if sha256 is not None and not SUM.fullmatch(sha256.lower()):
        raise ValueError(f"--sha256 must have 64 hexadecimal digits, got {sha256!r}.")
    listed = read_manifest(folder)
    if sha256 is not None and digest(folder / MANIFEST) != sha256.lower():
        raise ValueError(
            f"{folder / MANIFEST} has the sha256 {digest(folder / MANIFEST)}, not {sha256}: it is another list."
        )
    unlisted = (MANIFEST, SIGNATURE, HUB_RECORD)
    present = {name for name in files_below(folder) if name not in unlisted and not name.startswith(HUB_RECORDS)}
    states = dict.fromkeys(listed.keys() - present, "missing") | dict.fromkeys(present - listed.keys(), "additional")
    for name in listed.keys() & present:
        if not _is_plain(folder / name):
            states[name] = "no file"
        elif digest(folder / name) != listed[name]:
            states[name] = "changed"
    return [f"{state:<10}  {_shown(name)}" for name, state in sorted(states.items())]


def check_signature(folder: Path, public_key: Path) -> None:
    """Check that the owner of a key has signed the list. Contacts no one.

    Args:
        folder: of the bundle.
        public_key: PEM file of an elliptic curve key, which you got another way than the bundle.

    Raises:
        FileNotFoundError: there is no list, no signature or no key.
        ImportError: model-signing is not installed.
        ValueError: the key is none, or the signature is another's or of another list.
    """
    for path, advice in (
        (folder / MANIFEST, "a bundle gets it when it is shared, by python -m scripts.share"),
        (folder / SIGNATURE, "the bundle is not signed; ask the sharer for a signed one, or leave out --public_key"),
        (public_key, "pass the sharer's public key"),
    ):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {advice}.")
    try:
        from model_signing.verifying import Config
    except ImportError as error:
        raise ImportError(
            f"model-signing cannot be imported ({error}); run pip install model-signing pyopenssl"
        ) from None
    try:
        verifier = Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # of several libraries
        raise ValueError(f"{public_key} is no public key of an elliptic curve, in PEM: {error}") from error
    try:
        verifier.verify(folder / MANIFEST, folder / SIGNATURE)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].strip(" .")
        if reason.startswith("Signature mismatch"):  # and both sums as Python objects
            reason = "the list was changed after it was signed"
        raise ValueError(
            f"{folder / SIGNATURE} is no signature of {MANIFEST} by the key of {public_key}; run nothing of the bundle "
            f"and get it again ({reason})."
        ) from error


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, relative to the folder with forward slashes.

    Raises:
        FileNotFoundError: there is no list.
        ValueError: a line is none of sha256sum's, or a name leads out of the folder or comes twice.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a bundle gets it when it is shared, by python -m scripts.share."
        )
    listed = {}
    for number, line in enumerate(path.read_bytes().decode(errors="replace").removesuffix("\n").split("\n"), 1):
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(
                f"line {number} of {path} is {line!r}; expected 64 hexadecimal digits, two spaces and a name."
            )
        name = match[2]
        _check_name(name, f"line {number} of {path}: ")
        if name in listed:
            raise ValueError(f"line {number} of {path}: {name} is listed twice.")
        listed[name] = match[1]
    return listed


def files_below(folder: Path) -> Iterator[str]:
    """Names of all files in a folder, relative to it with forward slashes. A link counts as a file."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in files + links:
            yield Path(parent, name).relative_to(folder).as_posix()


def digest(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    checksum = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _check_name(name: str, place: str = "") -> None:
    """Refuses what could lead out of the folder, on any system, or spoil the list or a terminal."""
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or ".." in path.parts
        or path.as_posix() != name
        or not name.isprintable()
        or set(name) & set("\\:")
    ):
        raise ValueError(f"{place}{_shown(name)} is no plain path inside the bundle; rename it, or get it again.")


def _shown(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -I scripts/share/manifest.py", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=BUNDLE_ROOT, help="this bundle if left out")
    parser.add_argument("--sha256", metavar="HEX", help=f"what the sum of {MANIFEST} itself must be")
    parser.add_argument(
        "--public_key", type=Path, metavar="FILE", help=f"PEM file of the key that must have signed {MANIFEST}"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
