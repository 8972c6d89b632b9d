"""Files that are whole or not there."""

import os

import pytest

from scripts.utils import files
from scripts.utils.files import BUNDLE_ROOT, atomic_path


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
