"""Prepared items: what comes back, from memory and from a file, and what a small disk leads to."""

import os
import pickle
from multiprocessing import get_context
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from scripts.data import prepared
from scripts.data.prepared import PreparedItems


def item(number, side=8):
    generator = torch.Generator().manual_seed(number)
    label = torch.randint(0, 3, (1, side, side), generator=generator)
    return {
        "image": torch.rand(1, side, side, generator=generator),
        "label": label.float(),
        "classes": label,
        "signed": label - 1,
        "many": 300 * label,
        "flags": label > 1,
        "gray": label.to(torch.uint8),
        "broken": torch.tensor([float("nan"), float("inf"), 1.5]),
    }


@pytest.fixture(params=["memory", "file"])
def items(request, monkeypatch):
    """Three items, of which the last has not been put yet."""
    if request.param == "file":
        monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    kept = PreparedItems(3)
    for number in range(2):
        kept.put(number, item(number))
    assert (kept._file is not None) == (request.param == "file")
    return kept


def assert_same(found, number):
    expected = item(number)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        torch.testing.assert_close(found[key], tensor, atol=0, rtol=0, equal_nan=True)


def test_items_come_back_bit_by_bit_and_are_the_callers_own(items):
    assert items.missing() == [2]
    assert items.get(2) is None
    for tensor in items.get(1).values():
        tensor.zero_()
    for number in range(2):
        assert_same(items.get(number), number)


def test_labels_take_a_byte_a_pixel(items):
    kept = {key: part.tensor.dtype if items._file is None else part.kept for key, part in items._items[0].items()}
    assert [kept[key] for key in ("label", "classes", "gray")] == [torch.uint8] * 3
    assert [kept[key] for key in ("image", "signed", "many", "broken")] == [
        torch.float32,
        torch.int64,
        torch.int64,
        torch.float32,
    ]


class Read(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {key: value for key, value in self.items.get(index).items() if key in ("image", "label")}


def test_workers_read_what_was_kept_before(items):
    (batch,) = DataLoader(Read(items), batch_size=2, num_workers=1)
    for number in range(2):
        assert torch.equal(batch["image"][number], item(number)["image"])
        assert torch.equal(batch["label"][number], item(number)["label"])


def test_another_process_does_not_write_into_the_file(items):
    go, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(go, 1)
        items.put(2, item(0))
        os._exit(0 if torch.equal(items.get(2)["image"], item(0)["image"]) else 1)
    items.put(2, item(2))
    os.write(tell, b".")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for number in range(3):
        assert_same(items.get(number), number)


def test_file_has_no_name_and_is_closed_with_the_items(monkeypatch, tmp_path):
    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    monkeypatch.setattr(prepared.tempfile, "gettempdir", lambda: str(tmp_path))
    kept = PreparedItems(1)
    kept.put(0, item(0))
    assert not list(tmp_path.iterdir())
    file = kept._file
    del kept
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_disk_without_space_is_told_and_memory_used(monkeypatch, caplog):
    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with caplog.at_level("INFO"):
        kept = PreparedItems(1)
        kept.put(0, item(0))
    assert "stay in memory" in caplog.text
    assert "Set TMPDIR" in caplog.text
    assert_same(kept.get(0), 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no space")
def test_space_of_the_file_is_taken_before_the_items_come(monkeypatch):
    """So that of several ranks each sees what the others will need."""
    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    kept = PreparedItems(100)
    kept.put(0, item(0))
    taken = 512 * os.fstat(kept._file).st_blocks
    assert taken >= 100 * kept._end > 0


def test_space_that_another_process_takes_meanwhile_is_told_and_memory_used(monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    monkeypatch.setattr(prepared.os, "posix_fallocate", full, raising=False)
    with caplog.at_level("INFO"):
        kept = PreparedItems(1)
        kept.put(0, item(0))
    assert kept._file is None
    assert "stay in memory" in caplog.text
    assert_same(kept.get(0), 0)


def test_systems_that_reserve_no_space_write_as_they_go(monkeypatch):
    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    monkeypatch.delattr(prepared.os, "posix_fallocate", raising=False)
    kept = PreparedItems(1)
    kept.put(0, item(0))
    assert kept._file is not None
    assert_same(kept.get(0), 0)


def test_disk_that_fills_up_is_an_error_with_the_remedy(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepared, "MOST_BYTES", 100)
    monkeypatch.setattr(prepared.os, "pwrite", full)
    with pytest.raises(OSError, match=r"cannot be kept in .*No space left.*; free space there, or set TMPDIR"):
        PreparedItems(1).put(0, item(0))


def test_started_worker_gets_the_items_too(items):
    """As on systems that do not fork."""
    if items._file is None:
        assert_same(pickle.loads(pickle.dumps(items)).get(0), 0)
        return
    context = get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=send_first, args=(items, queue))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert queue.get() == item(0)["image"].tolist()


def send_first(items, queue):
    queue.put(items.get(0)["image"].tolist())
