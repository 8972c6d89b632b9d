"""Entries on disk: what their checksums cover, which of several counts, and what processes see of each other."""

import errno
import os
import pickle
from functools import partial

import pytest
import torch
from teacher_stand_ins import refuse_writing, spoil

from eval.benchmark.cache_reads import write_entry_file
from eval.kills.processes import Forked
from scripts.cache import shards
from scripts.cache.entry_store import EntryStore

FIRST, SECOND, THIRD = (f"{number:040x}" for number in (10, 11, 12))
ONE, OTHER = {"a": torch.arange(6.0)}, {"a": torch.arange(6.0) + 1}


@pytest.fixture
def store(tmp_path):
    return EntryStore(tmp_path, "me")


def again(tmp_path):
    """The folder as another process sees it."""
    return EntryStore(tmp_path, "me")


def value(store, key=FIRST):
    (entry,) = store.read([key])
    return None if entry is None else entry["a"].tolist()


def test_tensors_of_all_types_and_shapes_come_back_bit_by_bit(tmp_path, store):
    entry = {
        "half": torch.randn(2, 3).half(),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "number": torch.tensor(7.5, dtype=torch.float64),
        "turned": torch.arange(6).reshape(2, 3).T,
        "brain": torch.randn(3).bfloat16(),
    }
    store.write(FIRST, entry)
    (found,) = again(tmp_path).read([FIRST])
    assert found.keys() == entry.keys()
    assert all(found[name].dtype == entry[name].dtype and torch.equal(found[name], entry[name]) for name in entry)


def test_tensors_that_were_read_outlive_their_file(tmp_path, store):
    store.write(FIRST, ONE)
    (held,) = store.read([FIRST])
    (path,) = tmp_path.glob("*.rows")
    os.truncate(path, 0)
    assert torch.equal(held["a"], ONE["a"])
    assert store.read([FIRST]) == [None]


def test_row_whose_checksum_is_not_that_of_its_content_is_no_entry(tmp_path, store, caplog):
    store.write(FIRST, ONE)
    path = spoil(store, FIRST)
    assert again(tmp_path).read([FIRST]) == [None]
    assert f"cache shard {path} is damaged or cut off (row 0): 1 of its entries count as missing" in caplog.text


def test_entry_of_another_owner_is_none(tmp_path, store, caplog):
    store.write(FIRST, ONE)
    assert EntryStore(tmp_path, "you").read([FIRST]) == [None]
    assert "cannot be used (it is another's, of me): its entries count as missing" in caplog.text


def test_index_of_another_format_is_refused_with_its_number(tmp_path, store, caplog):
    store.write(FIRST, ONE)
    (path,) = tmp_path.glob("*.index")
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 9'))
    assert again(tmp_path).read([FIRST]) == [None]
    assert "its format is 9, this version reads 1" in caplog.text


def test_missing_entry_is_none_without_a_word(tmp_path, store, caplog):
    assert store.read([FIRST]) == [None]
    assert store.read_batch([FIRST]) is None
    assert store.whole_parts([FIRST]) == [frozenset()]
    assert not caplog.text
    assert not list(tmp_path.iterdir())


def test_later_entry_replaces_the_one_that_its_writer_saw(tmp_path):
    """In whatever order the shards are read."""
    for first, second in ((ONE, OTHER), (OTHER, ONE), (ONE, OTHER)):
        again(tmp_path).write(FIRST, first)
        again(tmp_path).write(FIRST, second)
        assert value(again(tmp_path)) == second["a"].tolist()
    assert len(list(tmp_path.glob("*.rows"))) == 6


def test_of_two_that_were_written_at_once_the_one_with_more_parts_counts(tmp_path):
    slow, quick = again(tmp_path), again(tmp_path)
    quick.write(FIRST, {**ONE, "b": torch.zeros(2)})
    slow.write(FIRST, ONE)
    assert again(tmp_path).whole_parts([FIRST]) == [{"a", "b"}]


def test_another_processes_entries_are_seen_after_a_look(tmp_path, store):
    store.write(FIRST, ONE)
    other = again(tmp_path)
    store.write(SECOND, OTHER)
    assert value(other, SECOND) is None
    other.refresh()
    assert value(other, SECOND) == OTHER["a"].tolist()


def test_row_without_its_line_in_the_index_is_not_there(tmp_path, store, caplog):
    """A process that was killed between the two, or in the middle of a line."""
    store.write(FIRST, ONE)
    store.write(SECOND, OTHER)
    (index,) = tmp_path.glob("*.index")
    whole = index.read_bytes()
    for cut in (1, 51, 52):
        index.write_bytes(whole[:-cut])
        assert again(tmp_path).whole_parts([FIRST, SECOND]) == [{"a"}, set()]
    assert not caplog.text
    index.write_bytes(whole[:-1])
    late = again(tmp_path)
    index.write_bytes(whole)  # another process was still writing
    assert late.whole_parts([SECOND]) == [{"a"}]


@pytest.mark.parametrize("part", ["row", "line"])
def test_full_disk_leaves_the_shard_as_it_was(tmp_path, store, monkeypatch, part):
    store.write(FIRST, ONE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, calls = shards._write, []

    def half(file, content):
        calls.append(content)
        if len(calls) == (1 if part == "row" else 2):
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(shards, "_write", half)
    with pytest.raises(OSError, match="cannot be written .*No space left.*entries written before are kept"):
        store.write(SECOND, OTHER)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    store.write(THIRD, OTHER)
    assert [value(again(tmp_path), key) for key in (FIRST, SECOND, THIRD)] == [
        ONE["a"].tolist(),
        None,
        OTHER["a"].tolist(),
    ]


def test_shard_that_is_large_is_followed_by_another(tmp_path, store, monkeypatch):
    monkeypatch.setattr(shards, "LARGEST", 2 * 24)
    for key in (FIRST, SECOND, THIRD):
        store.write(key, ONE)
    assert sorted(path.stat().st_size for path in tmp_path.glob("*.rows")) == [24, 48]
    assert again(tmp_path).read_batch([THIRD, FIRST, SECOND])["a"].shape == (3, 6)


def test_folder_that_is_deleted_meanwhile_is_filled_anew(tmp_path, store):
    store.write(FIRST, ONE)
    for path in tmp_path.iterdir():
        path.unlink()
    assert store.whole_parts([FIRST]) == [frozenset()]
    store.write(FIRST, OTHER)
    assert value(store) == value(again(tmp_path)) == OTHER["a"].tolist()


def test_batch_has_the_parts_of_all_whatever_they_lie_in(tmp_path, store):
    store.write(FIRST, {"a": torch.ones(3).half()})
    store.write(SECOND, {"a": torch.zeros(3).half(), "b": torch.zeros(1)})
    write_entry_file(tmp_path, "me", THIRD, {"a": torch.full((3,), 2.0).half()})
    found = again(tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        batch = found.read_batch([THIRD, FIRST, SECOND])
    assert batch.keys() == {"a"}
    assert batch["a"].tolist() == [[2.0] * 3, [1.0] * 3, [0.0] * 3]
    assert [None if part is None else part.tolist() for part in found.read_part([FIRST, SECOND], "b")] == [None, [0.0]]


def test_files_of_an_earlier_version_are_read_and_copied(tmp_path, store, caplog):
    write_entry_file(tmp_path, "me", FIRST, ONE)
    write_entry_file(tmp_path, "you", SECOND, ONE)
    found = again(tmp_path)
    assert found.files_alone() == [FIRST, SECOND]
    assert found.whole_parts([FIRST, SECOND]) == [{"a"}, set()]
    assert "is another's (of you" in caplog.text
    assert found.adopt(found.files_alone()) == 1
    assert found.files_alone() == [SECOND]
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    assert value(again(tmp_path)) == ONE["a"].tolist()


def test_damaged_file_of_an_earlier_version_is_missing(tmp_path, caplog):
    for damage in (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"012345678"):
        write_entry_file(tmp_path, "me", FIRST, ONE)
        (path,) = tmp_path.rglob("*.safetensors")
        path.write_bytes(damage(path.read_bytes()))
        assert again(tmp_path).read([FIRST]) == [None]
        assert f"cache entry {path} is damaged" in caplog.text
        caplog.clear()


def test_store_reads_in_a_worker_that_gets_a_copy_of_it(store):
    store.write(FIRST, ONE)
    assert value(pickle.loads(pickle.dumps(store))) == ONE["a"].tolist()


def test_folder_that_cannot_be_written_says_what_to_do(store, monkeypatch):
    refuse_writing(monkeypatch, errno.EROFS)
    with pytest.raises(OSError, match=r"cannot be written \(Read-only file system\).* --distillation::mode online"):
        store.write(FIRST, ONE)


@pytest.mark.parametrize("trial", range(3))
def test_processes_that_write_at_once_and_are_killed_leave_whole_rows(tmp_path, trial):
    """Two write the same keys; one is killed wherever it is. Nothing that is seen is half written."""

    def write(folder, own):
        store = EntryStore(folder, "me")
        for number in range(own, 20_000):
            store.write(f"{number:040x}", {"a": torch.full((500,), float(number))})
        return 0

    writers = [Forked(partial(write, tmp_path, own), tmp_path / f"log{own}") for own in (0, 3)]
    seen = again(tmp_path)
    while len(seen.all_keys()) < 40 * (trial + 1):
        seen.refresh()
    for writer in writers:
        writer.kill(0.0)
    keys = again(tmp_path).all_keys()
    assert set(seen.all_keys()) <= set(keys)
    for key, entry in zip(keys, again(tmp_path).read(keys)):
        assert entry["a"].tolist() == [float(int(key, 16))] * 500
    for key in keys[:5]:
        again(tmp_path).write(key, OTHER)
        assert value(again(tmp_path), key) == OTHER["a"].tolist()
