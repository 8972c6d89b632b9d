"""Files that are whole or not there, and texts of any system."""

import errno
import os
import signal
import time
from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from scripts.handlers import save_atomically
from scripts.run.errors import is_user_error
from scripts.utils import files
from scripts.utils.files import BUNDLE_ROOT, WriteError, atomic_path, clear_leftovers, read_text, require_writable


def test_file_takes_its_name_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "report.txt"
    with atomic_path(path) as partial:
        assert partial.name == path.name
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_error_in_the_block_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as partial:
        partial.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("flush", [True, False])
def test_disk_is_waited_for_unless_it_need_not(tmp_path, monkeypatch, flush):
    flushed = []
    monkeypatch.setattr(files.os, "fsync", lambda number: flushed.append(os.fstat(number).st_size))
    with atomic_path(tmp_path / "report.txt", flush) as partial:
        partial.write_text("whole")
    assert flushed == ([5] if flush else [])


def test_root_of_the_bundle_holds_its_configs():
    assert (BUNDLE_ROOT / "configs" / "train.json").is_file()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_text_is_read_whichever_system_wrote_it(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "a.csv").write_bytes(f"{mark}Größe\r\n".encode(encoding))
    assert read_text(tmp_path / "a.csv") == "Größe\r\n"


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("Größe".encode("cp1252"))
    with pytest.raises(ValueError, match=r"a.csv is no UTF-8 text \(.* at byte 2\); save it as UTF-8"):
        read_text(tmp_path / "a.csv")


# what the system says against it


@contextmanager
def small_files():
    """Limits the files that this process writes to 1000 bytes: a disk that is full in the middle of one.

    No fixture: pytest itself writes before the end of one.
    """
    resource = pytest.importorskip("resource")
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def write_text(path):
    with atomic_path(path) as partial:
        partial.write_text("x" * 5000)


def write_safetensors(path):
    with atomic_path(path) as partial:
        save_file({"weights": torch.zeros(5000)}, partial)


def write_checkpoint(path):
    save_atomically({"weights": torch.zeros(5000)}, path)


@pytest.mark.parametrize("write", [write_text, write_safetensors, write_checkpoint])
def test_disk_that_is_full_in_the_middle_of_a_file_is_named_with_it(tmp_path, write):
    path = tmp_path / "last.pt"
    path.write_text("old")
    with pytest.raises(WriteError) as error, small_files():
        write(path)
    assert str(error.value) == f"{path} cannot be written (File too large): look at this disk and folder."
    assert is_user_error(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free space on this disk"), (errno.EROFS, "make the folder writable, or choose another one")],
)
def test_remedy_fits_what_the_system_says(tmp_path, monkeypatch, number, remedy):
    def refuse(*arguments, **options):
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with (
        pytest.raises(WriteError, match=f"report.txt cannot be written .*: {remedy}"),
        atomic_path(tmp_path / "report.txt"),
    ):
        pass


def test_folder_that_cannot_be_made_is_named_before_anything_is_computed(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="model.pt cannot be written .Not a directory"):
        require_writable(tmp_path / "file" / "models" / "model.pt")
    require_writable(tmp_path / "new" / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_error_about_another_file_goes_on_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.png") as error, atomic_path(tmp_path / "out" / "report.txt"):
        (tmp_path / "in" / "missing.png").read_bytes()
    assert not isinstance(error.value, WriteError)


def test_long_name_is_written(tmp_path):
    path = tmp_path / ("ä" * 124)  # 248 bytes
    with atomic_path(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"


# what a kill leaves


def killed_while_writing(path) -> None:
    """A process of its own that is killed in the middle of a file."""
    ready, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        with atomic_path(path) as partial:
            partial.write_text("half")
            os.write(write, b".")
            time.sleep(60)
    os.read(ready, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_partial_file_of_a_killed_process_is_cleared_and_of_a_living_one_not(tmp_path):
    killed_while_writing(tmp_path / "models" / "last.pt")
    (tmp_path / ".last.pt.part-abcd1234").mkdir()  # killed before it had its lock
    (tmp_path / ".git").mkdir()
    assert len(list((tmp_path / "models").iterdir())) == 1
    with atomic_path(tmp_path / "models" / "last.pt") as partial:
        partial.write_text("whole")
        assert clear_leftovers(tmp_path) == 1
        assert clear_leftovers(tmp_path, deep=True) == 1
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        ".git",
        "models",
        "models/last.pt",
    ]
    assert clear_leftovers(tmp_path / "nothing") == 0


def test_error_about_a_file_beside_it_goes_on_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.png") as error, atomic_path(tmp_path / "report.txt"):
        (tmp_path / "missing.png").read_bytes()
    assert not isinstance(error.value, WriteError)


def test_bundle_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(BUNDLE_ROOT)
    assert files.bundle_root() == "."
    monkeypatch.chdir(tmp_path)
    assert files.bundle_root() == str(BUNDLE_ROOT)
    (tmp_path / "scripts").mkdir()  # of something else
    assert files.bundle_root() == str(BUNDLE_ROOT)
