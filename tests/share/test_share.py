"""Sharing: the same zip every time, what is in it, how MONAI finds it, the model card, a push to a simulated hub,
every refusal.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import monai.bundle.scripts as monai_scripts
import pytest
from bundles import NAME, VERSION, ZIP, git, make_repository
from conftest import ROOT
from walk import commands

from scripts.data.phantoms import write_phantom_dataset
from scripts.share.__main__ import _parser, main
from scripts.share.bundle import read_metadata, tracked_files
from scripts.share.manifest import MANIFEST, digest, files_below, problems, read_manifest
from scripts.share.sbom import SBOM
from scripts.utils import libraries

pytest.importorskip("cyclonedx", reason="the SBOM needs the extra sign")
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

PAGE = ROOT / "docs" / "sharing.md"


@pytest.fixture
def bundle(tmp_path) -> Path:
    return make_repository(tmp_path / "bundle")


def share(bundle: Path, command: str, *arguments: str) -> int:
    return main([command, "--bundle", str(bundle), *arguments])


# the zip


def test_zip_is_the_same_wherever_and_whenever_it_is_made(bundle, tmp_path, capsys):
    other = make_repository(tmp_path / "elsewhere" / "another name")
    for path in other.rglob("*"):
        os.utime(path, (0, 0))
    (other / "README.md").chmod(0o755)
    for number, root in enumerate((bundle, other)):
        assert share(root, "zip", "--output", str(tmp_path / f"{number}")) == 0
    first, second = (tmp_path / f"{number}" / ZIP for number in range(2))
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "0" / f"{ZIP}.sha256").read_text() == f"{digest(first)}  {ZIP}\n"
    assert digest(first) in capsys.readouterr().out


def test_zip_holds_what_git_tracks_and_the_list_of_it(bundle, tmp_path):
    for name in ("scripts/secret.txt", "logs/run/last.pt", "models/draft.pt"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("not tracked")
    assert share(bundle, "zip", "--output", str(tmp_path / "out")) == 0
    with zipfile.ZipFile(tmp_path / "out" / ZIP) as file:
        names = file.namelist()
        listed = [line[66:] for line in file.read(f"{NAME}/{MANIFEST}").decode().splitlines()]
    assert names == sorted(names)
    assert {name.split("/")[0] for name in names} == {NAME}
    inside = [name.removeprefix(f"{NAME}/") for name in names]
    assert sorted(inside) == sorted([*listed, MANIFEST])
    assert listed == sorted([*tracked_files(bundle), SBOM])
    assert {"configs/inference.json", "models/model.pt", "eval/schema.json", "docs/README.md", "LICENSE"} <= set(listed)
    assert not [
        name for name in inside if name.startswith(("tests/", "logs/", ".")) or "secret" in name or "draft" in name
    ]


def test_monai_downloads_the_zip_of_a_release_by_name_and_version(bundle, tmp_path, monkeypatch):
    assert share(bundle, "zip", "--output", str(tmp_path / "release")) == 0
    asked = []

    def download(url, filepath, **kwargs):
        asked.append(url)
        Path(filepath).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "release" / url.rsplit("/", 1)[1], filepath)

    monkeypatch.setattr(monai_scripts, "download_url", download)
    monai_scripts.download(NAME, VERSION, str(tmp_path / "there"), source="github", repo="owner/repository/tag")
    assert len(asked) == 1
    assert problems(tmp_path / "there" / NAME) == []


def test_files_that_differ_from_the_commit_are_named(bundle, tmp_path, capsys):
    git(bundle, "add", ".")
    git(bundle, "-c", "user.name=a", "-c", "user.email=a", "commit", "-q", "-m", "a")
    assert share(bundle, "zip", "--output", str(tmp_path / "a")) == 0
    assert capsys.readouterr().err == ""
    (bundle / "README.md").write_text("changed")
    assert share(bundle, "zip", "--output", str(tmp_path / "b")) == 0
    (bundle / "scripts" / "new.py").touch()
    assert share(bundle, "zip", "--output", str(tmp_path / "c")) == 0
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == "note: 1 files are shared as they are, not as last committed: README.md"
    assert notes[2:] == ["note: 1 files are not shared, since git does not track them: scripts/new.py"]
    assert notes[1] == notes[0]


# the hub


def test_model_card_has_a_header_of_license_task_and_results(bundle, tmp_path):
    assert share(bundle, "hub", "--output", str(tmp_path / "hub")) == 0
    card = huggingface_hub.ModelCard.load(tmp_path / "hub" / NAME / "README.md")
    data = card.data
    assert (data.license, data.library_name) == ("apache-2.0", "monai")
    assert (data.pipeline_tag, data.model_name) == ("image-segmentation", NAME)
    assert {"monai", "medical", "ultrasound"} <= set(data.tags)
    figures = {f"mean_{result.metric_type}": result.metric_value for result in data.eval_results}
    assert figures == read_metadata(ROOT)["eval_metrics"]
    assert data.metrics == [result.metric_type for result in data.eval_results]
    report = json.loads((ROOT / "eval" / "results" / "busbra.json").read_text())["arms"]["student"]["metrics"]
    dice = next(result for result in data.eval_results if result.metric_type == "dice")
    assert dice.dataset_type == "busbra"
    assert f"{report['dice']['low']:.4g} to {report['dice']['high']:.4g}" in dice.metric_name
    text = (ROOT / "docs" / "README.md").read_text()
    assert card.text.strip().splitlines()[0] == text.splitlines()[0]
    assert not text.startswith("---")


def test_hub_folder_is_a_bundle_whose_card_names_files_from_the_top(bundle, tmp_path):
    (bundle / "docs" / "README.md").write_text(
        "# Card\n\n[costs](performance.md#a) and `data_license.txt`, not `other.md`\n"
    )
    assert share(bundle, "hub", "--output", str(tmp_path)) == 0
    folder = tmp_path / NAME
    assert problems(folder) == []
    assert not (folder / "docs" / "README.md").exists()
    assert (
        "[costs](docs/performance.md#a) and `docs/data_license.txt`, not `other.md`"
        in (folder / "README.md").read_text()
    )
    usage = (folder / "USAGE.md").read_text()
    assert usage.splitlines()[0] == (ROOT / "README.md").read_text().splitlines()[0]
    assert "docs/README.md" not in usage
    assert {"models/model.safetensors", "configs/metadata.json", "LICENSE"} <= set(read_manifest(folder))


class SimulatedHub:
    """Stands for the network: what HfApi and snapshot_download ask for; `files` by repository, `tags` by name."""

    def __init__(self, monkeypatch, tmp_path) -> None:
        self.files, self.tags, self.private, self.folder = None, [], None, tmp_path / "simulated hub"
        api = huggingface_hub.HfApi
        monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(api, "_validate_yaml", lambda self, content, **kwargs: huggingface_hub.ModelCard(content))
        for name in ("list_repo_refs", "create_repo", "create_commit", "create_tag", "list_repo_files"):
            monkeypatch.setattr(api, name, lambda _, *args, name=name, **kwargs: getattr(self, name)(*args, **kwargs))

    def list_repo_refs(self, repo_id, **kwargs):
        if self.files is None:
            answer = SimpleNamespace(headers={}, request=None, status_code=404)
            raise huggingface_hub.errors.RepositoryNotFoundError("404", response=answer)
        return SimpleNamespace(tags=[SimpleNamespace(name=name) for name in self.tags])

    def create_repo(self, repo_id, private, exist_ok):
        self.private, self.files = private, {".gitattributes": b""} if self.files is None else self.files

    def list_repo_files(self, **kwargs):
        return list(self.files)

    def create_commit(self, operations, **kwargs):
        for operation in operations:
            if isinstance(operation, huggingface_hub.CommitOperationDelete):
                del self.files[operation.path_in_repo]
            else:
                with operation.as_file() as file:
                    self.files[operation.path_in_repo] = file.read()
        return "the commit"

    def create_tag(self, repo_id, tag, exist_ok):
        self.tags.append(tag)

    def snapshot_download(self, repo_id, revision, local_dir):
        assert revision in self.tags
        for name, content in {**self.files, ".cache/huggingface/.gitignore": b"*"}.items():
            (Path(local_dir) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(local_dir) / name).write_bytes(content)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> SimulatedHub:
    return SimulatedHub(monkeypatch, tmp_path)


def test_pushed_bundle_is_what_monai_downloads(bundle, hub, tmp_path, capsys):
    before = {name: (bundle / name).read_bytes() for name in tracked_files(bundle)}
    (bundle / "logs").mkdir()
    (bundle / "logs" / "patients.txt").touch()
    (command,) = [words for words in commands(PAGE) if words[-2:] == ["--repo", "OWNER/NAME"]]
    assert share(bundle, *command[3:]) == 0
    assert "pushed the commit" in capsys.readouterr().out
    assert (hub.private, hub.tags) == (True, [VERSION])
    monai_scripts.download(NAME, VERSION, str(tmp_path / "there"), source="huggingface_hub", repo="OWNER/NAME")
    there = tmp_path / "there" / NAME
    assert problems(there) == []
    assert not (there / "logs").exists()
    assert huggingface_hub.ModelCard.load(there / "README.md").data.eval_results
    # MONAI rewrites README.md in place
    assert before == {name: (bundle / name).read_bytes() for name in tracked_files(bundle)}


def test_files_of_an_earlier_version_leave_the_repository(bundle, hub, tmp_path):
    hub.create_repo("a/b", True, True)
    hub.files["scripts/gone.py"] = b""
    assert share(bundle, "push", "--repo", "a/b", "--public") == 0
    assert "scripts/gone.py" not in hub.files
    assert ".gitattributes" in hub.files
    assert hub.private is False


def test_version_that_the_repository_has_is_refused(bundle, hub, capsys):
    hub.create_repo("a/b", True, True)
    hub.tags.append(VERSION)
    assert share(bundle, "push", "--repo", "a/b") == 1
    assert f"a/b has the version {VERSION} already; raise the version" in capsys.readouterr().err
    assert list(hub.files) == [".gitattributes"]


def test_unreachable_hub_gives_a_message_of_one_line(bundle, hub, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise huggingface_hub.errors.HTTPError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", fail)
    assert share(bundle, "push", "--repo", "a/b") == 1
    assert capsys.readouterr().err.splitlines()[-1] == "share: a/b cannot be pushed: no route"


# refusals


def change_metadata(bundle: Path, **values) -> None:
    path = bundle / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        (["hub"], lambda b: change_metadata(b, eval_metrics={"mean_dice": 0.99}), "holds the eval_metrics of configs"),
        (["hub"], lambda b: change_metadata(b, eval_metrics={}), "write both with python -m eval.publish, and git add"),
        (["hub"], lambda b: (b / "LICENSE").write_text("mine"), "LICENSE is not the Apache License 2.0"),
        (["zip"], lambda b: (b / "LICENSE").unlink(), "is tracked by git and not there; restore it"),
        (["zip"], lambda b: shutil.rmtree(b / ".git"), "git cannot list the files of"),
        (["zip"], lambda b: git(b, "rm", "-q", "-r", "--cached", "configs"), "git does not track"),
    ],
)
def test_bundle_that_is_not_ready_is_refused(bundle, tmp_path, capsys, arguments, change, message):
    change(bundle)
    assert share(bundle, *arguments, "--output", str(tmp_path / "out")) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_repository_needs_an_owner(bundle, capsys):
    assert share(bundle, "push", "--repo", "name") == 1
    assert "--repo must be OWNER/NAME, got 'name'" in capsys.readouterr().err


def test_missing_libraries_are_named(bundle, tmp_path, monkeypatch, capsys):
    def fail(name):
        raise ImportError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(libraries, "import_module", fail)
        assert share(bundle, "hub", "--output", str(tmp_path / "out")) == 1
    assert "huggingface_hub cannot be imported (gone); run pip install huggingface_hub" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert share(bundle, "zip", "--output", str(tmp_path / "out")) == 1
    assert "git is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["zip", "hub"])
def test_what_is_there_is_replaced_only_when_asked(bundle, tmp_path, capsys, command):
    arguments = [command, "--output", str(tmp_path / "out")]
    assert share(bundle, *arguments) == 0
    assert share(bundle, *arguments) == 1
    assert "exists; choose another --output, or pass --overwrite" in capsys.readouterr().err
    assert share(bundle, *arguments, "--overwrite") == 0


def test_folder_that_is_no_shared_bundle_is_never_replaced(bundle, tmp_path, capsys):
    (tmp_path / "out" / NAME).mkdir(parents=True)
    (tmp_path / "out" / NAME / "mine.txt").touch()
    assert share(bundle, "hub", "--output", str(tmp_path / "out"), "--overwrite") == 1
    assert list(files_below(tmp_path / "out")) == [f"{NAME}/mine.txt"]
    assert f"is no shared bundle, which would have {MANIFEST}, and is kept" in capsys.readouterr().err


# the page


def test_commands_of_the_page_exist():
    shown = [words[3:] for words in commands(PAGE) if words[2] == "scripts.share"]
    assert [words[0] for words in shown] == ["zip", "zip", "hub", "push"]
    for words in shown:
        _parser().parse_args(words)


@pytest.mark.slow
def test_receiver_checks_loads_and_runs_the_bundle_as_the_page_says(tmp_path):
    there = tmp_path / "a receiver"  # a path with a space
    write_phantom_dataset(tmp_path / "phantoms", 1, 1, 1, size=96)
    shutil.copytree(tmp_path / "phantoms" / "images", there / "images")
    assert share(make_repository(tmp_path / "bundle", models=True), "zip", "--output", str(there)) == 0
    code = f"""
import os
import sys
import torch
from walk import main
student = main({str(PAGE)!r}, "What the receiver does")["student"]
shared = torch.load("bundles/{NAME}/models/model.pt", weights_only=True)
assert all(torch.equal(value, shared[key].to(value.dtype)) for key, value in student.state_dict().items())
assert os.path.samefile(sys.modules["scripts"].__path__[0], "bundles/{NAME}/scripts")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=there, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert len(list((there / "masks").glob("*_mask.png"))) == 3
