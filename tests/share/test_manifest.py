"""The list of a shared bundle's files: what it finds, what it refuses, and that checking it runs nothing else of the
bundle.
"""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from walk import blocks

from scripts.share.manifest import MANIFEST, digest, main, problems, read_manifest, write_manifest

PROGRAM = ROOT / "scripts" / "share" / "manifest.py"


@pytest.fixture
def folder(tmp_path):
    """A bundle with three files and its list."""
    bundle = tmp_path / "bundle"
    for name, text in (("configs/train.json", "{}"), ("scripts/a.py", "print('a')\n"), ("Zeile 1.txt", "ä")):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(text, encoding="utf-8")
    write_manifest(bundle)
    return bundle


def test_list_is_sorted_and_as_sha256sum_writes_it(folder):
    text = (folder / MANIFEST).read_text(encoding="utf-8")
    assert list(read_manifest(folder)) == ["Zeile 1.txt", "configs/train.json", "scripts/a.py"]
    assert text.splitlines()[1] == f"{digest(folder / 'configs' / 'train.json')}  configs/train.json"
    assert text.endswith("\n")


def test_unchanged_folder_is_ok_and_the_checksum_of_its_list_is_printed(folder, capsys):
    assert main([str(folder)]) == 0
    assert (
        f"the 3 files of {folder} are those of {MANIFEST}, sha256 {digest(folder / MANIFEST)}"
        in capsys.readouterr().out
    )


def test_changed_missing_and_additional_files_are_named(folder, capsys):
    (folder / "configs" / "train.json").write_text('{"a": 1}')
    (folder / "Zeile 1.txt").unlink()
    (folder / "scripts" / "__pycache__").mkdir()
    (folder / "scripts" / "__pycache__" / "a.pyc").touch()
    assert main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert "run nothing of it" in error
    for line in ("missing     Zeile 1.txt", "changed     configs/train.json", "additional  scripts/__pycache__/a.pyc"):
        assert f"  {line}\n" in error
    assert "scripts/a.py" not in error


def test_links_are_named_whatever_they_hold(folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (folder / "scripts" / "a.py").rename(tmp_path / "outside" / "a.py")
    (folder / "scripts" / "a.py").symlink_to(tmp_path / "outside" / "a.py")
    (folder / "more").symlink_to(tmp_path / "outside")
    assert problems(folder) == ["additional  more", "no file     scripts/a.py"]


def test_list_that_came_another_way_decides(folder, capsys):
    right = digest(folder / MANIFEST)
    assert main([str(folder), "--sha256", right.upper()]) == 0
    (folder / "scripts" / "a.py").write_text("print('b')\n")
    write_manifest(folder)
    assert main([str(folder)]) == 0
    assert main([str(folder), "--sha256", right]) == 1
    assert f"not {right}: it is another list" in capsys.readouterr().err


@pytest.mark.parametrize("sum", ["", "0" * 63, "no sum", "0" * 63 + "g", " " + "0" * 64])
def test_sum_that_is_none_is_refused(folder, capsys, sum):
    assert main([str(folder), "--sha256", sum]) == 1
    assert f"--sha256 must have 64 hexadecimal digits, got {sum!r}." in capsys.readouterr().err


def test_what_the_hub_adds_is_no_addition(folder):
    (folder / ".gitattributes").touch()
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "CACHEDIR.TAG").touch()
    (folder / ".cache" / "other").touch()
    (folder / ".gitattributes.py").touch()
    assert problems(folder) == ["additional  .cache/other", "additional  .gitattributes.py"]


@pytest.mark.parametrize(
    "name",
    [
        "../evil.py",
        "/etc/passwd",
        "a/../../evil.py",
        "./a.py",
        "a//b",
        "a/",
        "a\\..\\b",
        "C:evil.py",
        "a\x1b[2K",
        "a\u2028b",
        "",
    ],
)
def test_names_that_lead_out_or_mislead_are_refused(folder, capsys, name):
    with open(folder / MANIFEST, "a", encoding="utf-8", newline="") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert main([str(folder)]) == 1
    error = capsys.readouterr().err
    assert f"line 4 of {folder / MANIFEST}" in error
    assert "is no plain path" in error or "expected 64 hexadecimal" in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 of"),
        ("no list\n", "is 'no list'; expected 64 hexadecimal digits, two spaces and a name"),
        (f"{'0' * 64}  a\n{'1' * 64}  a\n", "a is listed twice"),
    ],
)
def test_damaged_list_is_refused(folder, capsys, text, message):
    (folder / MANIFEST).write_text(text)
    assert main([str(folder)]) == 1
    assert message in capsys.readouterr().err


def test_missing_list_is_an_error(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert f"{tmp_path / MANIFEST} does not exist; a bundle gets it when it is shared" in capsys.readouterr().err


def test_link_is_not_shared(folder):
    (folder / "link").symlink_to(folder / "scripts")
    with pytest.raises(ValueError, match="link is a link or a device"):
        write_manifest(folder)


def test_name_that_a_list_cannot_hold_is_not_shared(folder):
    (folder / "two\nlines").touch()
    with pytest.raises(ValueError, match=r"'two\\nlines' is no plain path"):
        write_manifest(folder)


@pytest.mark.parametrize("options", [["-I"], []])
def test_checking_runs_no_other_file_of_the_bundle(folder, options):
    share = folder / "scripts" / "share"
    share.mkdir()
    shutil.copy(PROGRAM, share)
    write_manifest(folder)
    trap = "raise SystemExit('the trap was run')"
    for name in ("argparse", "hashlib", "re", "pathlib", "__future__", "__init__", "sitecustomize", "statistics"):
        (share / f"{name}.py").write_text(trap)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, *options, str(share / "manifest.py")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert result.returncode == 1
    assert "additional  scripts/share/hashlib.py" in result.stderr
    assert "trap" not in result.stderr
    assert not (share / "__pycache__").exists()


def test_needs_nothing_but_python():
    code = (
        f"import runpy, sys; sys.argv = ['manifest', '--help']; runpy.run_path({str(PROGRAM)!r}, run_name='__main__')"
    )
    # -S: no site-packages
    result = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert MANIFEST in result.stdout


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_commands_of_the_docs_find_what_the_program_finds(folder, tmp_path):
    (block,) = [text for _, text in blocks(ROOT / "docs" / "sharing.md") if "sha256sum" in text]
    there = tmp_path / "bundles" / "sam_to_tinyusfm_distillation"
    there.parent.mkdir()
    folder.rename(there)

    def run() -> subprocess.CompletedProcess:
        return subprocess.run(["bash", "-c", block], cwd=tmp_path, capture_output=True, text=True)

    quiet = run()
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    (there / "additional.py").touch()
    assert "> additional.py" in run().stdout
    (there / "additional.py").unlink()
    (there / "scripts" / "a.py").write_text("changed")
    assert "scripts/a.py: FAILED" in run().stdout
