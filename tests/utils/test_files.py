"""Files that are whole or not there, and texts of any system."""

import os

import pytest

from scripts.utils import files
from scripts.utils.files import BUNDLE_ROOT, atomic_path, read_text


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
