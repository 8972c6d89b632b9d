"""The bundle as a zip for MONAI's download, and as a model repository for the Hugging Face Hub.

Both hold the files below `CONTENT` that git tracks, an SBOM (share/sbom.py), and SHA256SUMS (share/manifest.py), which
can be signed (share/signing.py). The zip is NAME_vVERSION.zip with one folder NAME, as `monai.bundle.download` unpacks
it. Unsigned it is the same to the last byte wherever it is made.

The repository's README.md is the model card, with a header made from the metadata and results. The bundle's README.md
is USAGE.md there. Beside it lie config.json and model.safetensors, which `from_pretrained` reads (share/pretrained.py).
`push` uploads the repository from a temporary copy, since MONAI rewrites the README.md of the folder that it pushes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ..utils.files import atomic_path, clear_leftovers, own_folder
from .manifest import MANIFEST, digest, files_below, write_manifest
from .model_card import REPO, hub_library, model_card
from .pretrained_files import WEIGHTS, write_config
from .sbom import write_sbom
from .signing import sign_manifest

# without the tests and .ci; eval/ holds commands of the README, the metadata schema and the results
CONTENT = ("configs", "scripts", "models", "docs", "eval", "LICENSE", "README.md", "CITATION.cff", "pyproject.toml")
METADATA = "configs/metadata.json"
CARD, USAGE = "README.md", "USAGE.md"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date that a zip can hold


def write_zip(root: Path, output: Path, overwrite: bool = False, private_key: Path | None = None) -> Path:
    """Write NAME_vVERSION.zip, and NAME_vVERSION.zip.sha256 beside it. Returns the path of the zip.

    Nothing is compressed: weights hardly would be, and the bytes would depend on the version of zlib.

    Args:
        root: of the bundle.
        output: folder, made when it is not there.
        overwrite: replace a zip of this version.
        private_key: signs the list, see `sign_manifest`; None leaves it unsigned.

    Raises:
        FileExistsError: there is one already.
        ImportError: a library of the extra `sign` is not installed.
        ValueError: see `tracked_files` and `sign_manifest`.
    """
    name, version = bundle_name(root), read_metadata(root)["version"]
    target = output / f"{name}_v{version}.zip"
    _refuse_existing(target, overwrite)
    with tempfile.TemporaryDirectory() as draft:
        folder = copy_bundle(root, Path(draft) / name)
        _seal(folder, name, private_key)
        with atomic_path(target) as partial, zipfile.ZipFile(partial, "w") as file:
            for path in sorted(files_below(folder)):
                entry = zipfile.ZipInfo(f"{name}/{path}", EPOCH)
                entry.create_system, entry.external_attr = 3, 0o644 << 16  # on Windows too
                file.writestr(entry, (folder / path).read_bytes())
    with atomic_path(target.with_name(f"{target.name}.sha256")) as partial:
        partial.write_text(f"{digest(target)}  {target.name}\n", newline="\n")
    return target


def write_hub_folder(
    root: Path, output: Path, overwrite: bool = False, private_key: Path | None = None, repo: str = REPO
) -> Path:
    """Write the folder NAME of a model repository and return it.

    Args:
        root: of the bundle.
        output: folder that gets it, made when it is not there.
        overwrite: replace an earlier one.
        private_key: see `write_zip`.
        repo: OWNER/NAME, for the examples of the card.

    Raises:
        FileExistsError: the folder is there, or with `overwrite` a folder that is no shared bundle.
        ImportError: huggingface_hub or a library of the extra `sign` is not installed.
        ValueError: see `tracked_files`, `sign_manifest` and `model_card`.
    """
    target = output / bundle_name(root)
    if overwrite and target.exists() and not (target / MANIFEST).is_file():
        raise FileExistsError(
            f"{target} is no shared bundle, which would have {MANIFEST}, and is kept; choose another --output."
        )
    _refuse_existing(target, overwrite)
    output.mkdir(parents=True, exist_ok=True)
    clear_leftovers(output)
    with own_folder(target) as draft:
        folder = copy_bundle(root, draft / target.name)
        _make_repository(folder, repo)
        _seal(folder, target.name, private_key)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    return target


def push(root: Path, repo: str, public: bool = False, private_key: Path | None = None) -> str:
    """Upload the bundle to a model repository and tag it with the version. Returns the address.

    A repository that is not there is made. Files of an earlier version that this one has not are deleted there, so that
    SHA256SUMS holds.

    Args:
        root: of the bundle.
        repo: OWNER/NAME.
        public: make a new repository visible to everyone.
        private_key: see `write_zip`.

    Raises:
        ValueError: no OWNER/NAME, or the repository has this version; see `write_hub_folder` too.
        OSError: the hub refuses, or cannot be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"--repo must be OWNER/NAME, got {repo!r}.")
    with tempfile.TemporaryDirectory() as draft:
        folder = write_hub_folder(root, Path(draft), private_key=private_key, repo=repo)
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
    """Refuse a version that is tagged: MONAI does not move the tag, and it would still mean the earlier files."""
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
    """Copy the shared files of a bundle to a folder, and return it."""
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
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    except FileNotFoundError:
        raise ValueError("git is not installed, but it lists the files to share; install it.") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"git cannot list the files of {root}: {error.stderr.strip()}") from None


def changed_files(root: Path) -> list[str]:
    """Names of the shared files that differ from the last commit."""
    return [line[3:] for line in _git_status(root) if not line.startswith("??")]


def untracked_files(root: Path) -> list[str]:
    """Names of the files below `CONTENT` that git does not track."""
    return [line[3:] for line in _git_status(root) if line.startswith("??")]


def _git_status(root: Path) -> list[str]:
    return _git(root, "status", "--porcelain", "--untracked-files=all", "--", *CONTENT).splitlines()


def read_metadata(root: Path) -> dict[str, Any]:
    """Content of configs/metadata.json."""
    return json.loads((root / METADATA).read_text(encoding="utf-8"))


def bundle_name(root: Path) -> str:
    """The metadata's name as MONAI names bundles, such as spleen_ct_segmentation."""
    return re.sub(r"[^a-z0-9]+", "_", read_metadata(root)["name"].lower()).strip("_")


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists; choose another --output, or pass --overwrite to replace what was shared there."
        )


def _make_repository(folder: Path, repo: str) -> None:
    """Turn a copy of the bundle into a model repository.

    docs/README.md is deleted, since MONAI's push would replace the card with it.
    """
    _add_pretrained(folder)
    card, usage = model_card(folder, folder.name, repo), (folder / CARD).read_text(encoding="utf-8")
    (folder / USAGE).write_text(usage.replace("docs/README.md", CARD), encoding="utf-8", newline="\n")
    (folder / "docs" / "README.md").unlink()
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")


def _add_pretrained(folder: Path) -> None:
    """Add config.json and model.safetensors, as inference.json describes the student."""
    from ..inference.lesions import foreground_names  # imported here, so that the program's --help answers at once

    config = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
    size, names = config["num_classes"], config["class_names"]
    settings = {"num_classes": size, "img_size": config["img_size"], "class_names": foreground_names(size, names)}
    write_config(folder, {"model_name": "TinyUSFM_Seg", **settings})
    shutil.copyfile(folder / "models" / WEIGHTS, folder / WEIGHTS)


def _seal(folder: Path, name: str, private_key: Path | None) -> None:
    """Add what is made for a finished copy: the SBOM, the list of all files, and its signature."""
    write_sbom(folder, name, read_metadata(folder))
    write_manifest(folder)
    if private_key is not None:
        sign_manifest(folder, private_key)
