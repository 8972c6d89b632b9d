"""The bundle as others get it: a zip for MONAI's download, and a model repository for the Hugging Face Hub.

    python -m scripts.share zip --output logs/share
    python -m scripts.share hub --output logs/share
    python -m scripts.share push --repo OWNER/NAME [--public]

All three hold what git tracks of `CONTENT`, with SHA256SUMS beside it (scripts/share/manifest.py). The zip is
NAME_vVERSION.zip with one folder NAME, as `monai.bundle.download` unpacks it, and the same to the last byte wherever it
is made. The repository's README.md is the model card, with a header made from the metadata and results; what was
README.md is USAGE.md there. `push` uploads such a folder from a temporary copy, since MONAI rewrites the README.md of
the folder that it pushes.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ..utils.files import atomic_path
from .manifest import BUNDLE_ROOT, MANIFEST, digest, files_below, write_manifest
from .model_card import hub_library, model_card

# the tests and .ci stay at home; eval/ comes along: README's commands, the metadata schema and the results are in it
CONTENT = ("configs", "scripts", "models", "docs", "eval", "LICENSE", "README.md", "CITATION.cff", "pyproject.toml")
METADATA = "configs/metadata.json"
CARD, USAGE = "README.md", "USAGE.md"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; 0, or 1 after a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        _tell_changes(options.bundle)
        options.run(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"share: {error}", file=sys.stderr)
        return 1
    return 0


def _zip(options: argparse.Namespace) -> None:
    path = write_zip(options.bundle, options.output, options.overwrite)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB, sha256 {digest(path)}")


def _hub(options: argparse.Namespace) -> None:
    path = write_hub_folder(options.bundle, options.output, options.overwrite)
    print(f"wrote {path}: {sum(1 for _ in files_below(path))} files; sha256 of {MANIFEST}: {digest(path / MANIFEST)}")


def _push(options: argparse.Namespace) -> None:
    print(f"pushed {push(options.bundle, options.repo, options.public)}")


def write_zip(root: Path, output: Path, overwrite: bool = False) -> Path:
    """Writes NAME_vVERSION.zip and beside it NAME_vVERSION.zip.sha256; returns the path of the first.

    Nothing is compressed: weights hardly would be, and the bytes would depend on the version of zlib.

    Args:
        root: of the bundle.
        output: folder, made when it is not there.
        overwrite: replace a zip of this version.

    Raises:
        FileExistsError: there is one already.
        ValueError: see `tracked_files`.
    """
    name, version = bundle_name(root), read_metadata(root)["version"]
    target = output / f"{name}_v{version}.zip"
    _refuse_existing(target, overwrite)
    with tempfile.TemporaryDirectory() as draft:
        folder = copy_bundle(root, Path(draft) / name)
        write_manifest(folder)
        with atomic_path(target) as partial, zipfile.ZipFile(partial, "w") as file:
            for path in sorted(files_below(folder)):
                entry = zipfile.ZipInfo(f"{name}/{path}", EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16  # on Windows too
                file.writestr(entry, (folder / path).read_bytes())
    with atomic_path(target.with_name(f"{target.name}.sha256")) as partial:
        partial.write_text(f"{digest(target)}  {target.name}\n", newline="\n")
    return target


def write_hub_folder(root: Path, output: Path, overwrite: bool = False) -> Path:
    """Writes the folder NAME of a model repository and returns it.

    Args:
        root: of the bundle.
        output: folder that gets it, made when it is not there.
        overwrite: replace an earlier one.

    Raises:
        FileExistsError: there is something already, or with `overwrite` what is no shared bundle.
        ImportError: huggingface_hub is not installed.
        ValueError: see `tracked_files` and `model_card`.
    """
    target = output / bundle_name(root)
    if overwrite and target.exists() and not (target / MANIFEST).is_file():
        raise FileExistsError(
            f"{target} is no shared bundle, which would have {MANIFEST}, and is kept; choose another --output."
        )
    _refuse_existing(target, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{target.name}-") as draft:
        folder = copy_bundle(root, Path(draft) / target.name)
        _make_repository(folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return target


def push(root: Path, repo: str, public: bool = False) -> str:
    """Uploads the bundle to a model repository, made when it is not there, and tags it with the version; returns the
    address.

    What an earlier version left in the repository and this one has not is deleted there, so that SHA256SUMS holds.

    Args:
        root: of the bundle.
        repo: OWNER/NAME.
        public: let everyone see a repository that is made now.

    Raises:
        ValueError: no OWNER/NAME, or the repository has this version; see `write_hub_folder` too.
        OSError: the hub refuses, or cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"--repo must be OWNER/NAME, got {repo!r}.")
    with tempfile.TemporaryDirectory() as draft:
        folder = write_hub_folder(root, Path(draft))
        try:
            return _upload(folder, repo, public)
        except hub_library("huggingface_hub.errors").HTTPError as error:  # no OSError when the hub cannot be reached
            raise OSError(f"{repo} cannot be pushed: {error}") from error


def _upload(folder: Path, repo: str, public: bool) -> str:
    from monai.bundle import push_to_hf_hub

    version = read_metadata(folder)["version"]
    _refuse_version(repo, version)
    address = push_to_hf_hub(
        repo, folder.name, str(folder.parent), private=not public, version=version, delete_patterns="*"
    )
    return str(address)


def _refuse_version(repo: str, version: str) -> None:
    """MONAI leaves a tag that is there where it is, so that a version would go on meaning the files of an earlier
    push.
    """
    hub, errors = hub_library(), hub_library("huggingface_hub.errors")
    try:
        tags = [tag.name for tag in hub.HfApi().list_repo_refs(repo).tags]
    except errors.RepositoryNotFoundError:
        return
    if version in tags:
        raise ValueError(
            f"{repo} has the version {version} already; raise the version in {METADATA} and name it in its changelog."
        )


def copy_bundle(root: Path, folder: Path) -> Path:
    """A folder that holds the files of a bundle that are shared, and nothing else."""
    for name in tracked_files(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name, follow_symlinks=False)
    return folder


def tracked_files(root: Path) -> list[str]:
    """Names of the bundle's files that git tracks, without its tests; sorted, relative to the root.

    Raises:
        FileNotFoundError: a file that git tracks is not there.
        ValueError: the bundle is not in git.
    """
    names = sorted(name for name in _git(root, "ls-files", "-z", "--", *CONTENT).split("\0") if name)
    missing = [name for name in names if not (root / name).exists()]
    if missing:
        raise FileNotFoundError(f"{root / missing[0]} is tracked by git and not there; restore it, or git rm it.")
    if METADATA not in names:
        raise ValueError(f"git does not track {root / METADATA}; git add the files that shall be shared.")
    return names


def _git(root: Path, *arguments: str) -> str:
    try:
        found = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, encoding="utf-8", check=True)
    except FileNotFoundError:
        raise ValueError("git is not installed; it tells which files of the bundle are shared.") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"git cannot tell which files of {root} are shared: {error.stderr.strip()}") from None
    return found.stdout


def _tell_changes(root: Path) -> None:
    lines = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *CONTENT).splitlines()
    _tell("shared as they are, not as last committed", [line[3:] for line in lines if not line.startswith("??")])
    _tell("not shared, since git does not track them", [line[3:] for line in lines if line.startswith("??")])


def _tell(what: str, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        print(f"note: {len(names)} files are {what}: {shown}", file=sys.stderr)


def read_metadata(root: Path) -> dict[str, Any]:
    """Content of configs/metadata.json."""
    return json.loads((root / METADATA).read_text(encoding="utf-8"))


def bundle_name(root: Path) -> str:
    """The metadata's name in the form of MONAI's bundles, such as spleen_ct_segmentation."""
    return re.sub(r"[^a-z0-9]+", "_", read_metadata(root)["name"].lower()).strip("_")


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists; choose another --output, or pass --overwrite to replace what was shared there."
        )


def _make_repository(folder: Path) -> None:
    """Turn a copy of the bundle into a model repository.

    docs/README.md goes, or MONAI's push would put it in the place of the card.
    """
    card, usage = model_card(folder, folder.name), (folder / CARD).read_text(encoding="utf-8")
    (folder / USAGE).write_text(usage.replace("docs/README.md", CARD), encoding="utf-8", newline="\n")
    (folder / "docs" / "README.md").unlink()
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    write_manifest(folder)


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
        if run is _push:
            command.add_argument("--repo", required=True, metavar="OWNER/NAME")
            command.add_argument("--public", action="store_true", help="of a new repository; it is private otherwise")
        else:
            command.add_argument("--output", type=Path, required=True, help="folder that gets it")
            command.add_argument("--overwrite", action="store_true", help="replace what was shared there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
