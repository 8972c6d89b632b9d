"""Filling the cache: what is computed and by whom, and what a full or read-only disk leads to."""

import errno
import json
import logging
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from teacher_stand_ins import (
    as_files,
    batch,
    kept,
    make_cached,
    make_frozen,
    make_views,
    refuse_writing,
    row_files,
    spoil,
)

from scripts.cache import filling
from scripts.cache.entry_store import EntryStore
from scripts.data.dataset import BASE
from scripts.networks.frozen_teacher import FrozenTeacher

cached, frozen, views = map(pytest.fixture, (make_cached, make_frozen, make_views))


def test_views_beyond_the_last_epoch_are_left_out(cached, views):
    assert len(cached(dataset=views(8), num_epochs=3).filling.views) == 9
    assert len(cached(dataset=views(8, augmentation=None), num_epochs=3).filling.views) == 3


def test_cache_of_logits_is_filled_up_with_embeddings_when_a_loss_asks_for_them(cached, views):
    cached("warp").fill()
    teacher = cached("warp", keep_features=True)
    assert len(teacher.filling.missing) == 3
    teacher.fill()
    assert not cached("warp").filling.missing
    assert not cached("warp", keep_features=True).filling.missing


def test_warp_looks_at_every_image_and_computes_those_of_other_pixels_again(cached, views, frozen, caplog):
    """A reader or library that changed, under the same settings."""
    cached("warp").fill()
    dataset = views(None)
    read = dataset.transform
    dataset.transform = lambda entry: {
        "image": read(entry)["image"].flip(-1) if "0001" in entry["image"] else read(entry)["image"]
    }
    changed = [index for index in range(3) if "0001" in dataset.data[index]["image"]]
    teacher = cached("warp", dataset=dataset)
    assert not teacher.filling.missing
    assert len(changed) == 1
    teacher.fill()
    assert caplog.text.count("1 entries in ") == 1
    assert "are of other pixels" in caplog.text
    assert not teacher.filling.missing
    images, _ = batch(dataset, (changed[0], BASE))
    view = {"index": torch.tensor(changed), "number": torch.tensor([5])}
    torch.testing.assert_close(teacher(images, view).logits, frozen()(images).logits, atol=1e-3, rtol=1e-3)
    other = [index for index in range(3) if index not in changed]
    keys = [teacher.filling.key((index, BASE)) for index in other]
    assert teacher.entries.are_of(keys, torch.stack([dataset[index, BASE]["image"] for index in other])) == [True] * 2
    again = cached("warp", dataset=dataset)
    again.fill()
    assert caplog.text.count("are of other pixels") == 1


def test_interrupted_fill_goes_on_where_it_was(cached, tmp_path, monkeypatch):
    teacher = cached(batch_size=2)
    write, written = EntryStore.write, []

    def stop_at_third(self, key, tensors):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(key)
        write(self, key, tensors)

    monkeypatch.setattr(EntryStore, "write", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        teacher.fill()
    monkeypatch.undo()
    assert len(cached().filling.missing) == 3
    cached().fill()
    assert not cached().filling.missing


def test_filling_that_goes_on_gives_the_teacher_the_batches_of_a_whole_one(cached, monkeypatch):
    """What it says of an image may depend on those beside it, in the last bit."""
    segment, asked = FrozenTeacher.segment, []
    monkeypatch.setattr(
        FrozenTeacher, "segment", lambda self, image: asked.append(image.clone()) or segment(self, image)
    )
    teacher = cached(batch_size=4)
    teacher.fill()
    whole = list(asked)
    assert [len(images) for images in whole] == [4, 2]
    spoil(teacher.entries.store, teacher.filling.key(teacher.filling.views[1]))
    asked.clear()
    cached(batch_size=4).fill()
    assert len(asked) == 1
    assert torch.equal(asked[0], whole[0])


def test_batches_of_a_filling_look_at_their_own_rows_alone(cached, monkeypatch):
    fill_batch, whole_parts, looks = filling.Filling._fill_batch, EntryStore.whole_parts, []

    def watched(self, batch):
        looks.append(0)
        done = fill_batch(self, batch)
        assert looks.pop() == 0
        return done

    def counted(self, keys):
        if looks:
            looks[-1] += 1
        return whole_parts(self, keys)

    monkeypatch.setattr(filling.Filling, "_fill_batch", watched)
    monkeypatch.setattr(EntryStore, "whole_parts", counted)
    cached(batch_size=2).fill()
    assert not cached().filling.missing


def test_leftovers_of_a_killed_filling_are_cleared(cached, tmp_path):
    teacher = cached()
    teacher.fill()
    leftover = row_files(tmp_path)[0].parent / ".shard.checked.part-abcd1234"
    leftover.mkdir()
    cached().fill()
    assert not leftover.exists()


def test_two_runs_that_fill_at_once_share_the_work(cached, monkeypatch):
    first, second = cached(batch_size=2), cached(batch_size=2)
    first.fill()
    monkeypatch.setattr(second.teacher, "segment", lambda image: pytest.fail("computed again"))
    second.fill()
    assert not second.filling.missing


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work(cached, monkeypatch, world, tmp_path):
    teachers = [cached(batch_size=2) for _ in range(world)]
    monkeypatch.setattr(filling.idist, "get_world_size", lambda: world)
    counts = []
    for rank, teacher in enumerate(teachers):
        monkeypatch.setattr(filling.idist, "get_rank", lambda rank=rank: rank)
        before = len(kept(tmp_path))
        try:
            teacher.fill()
        except OSError as error:  # the other ranks have not run yet
            assert "vanished" in str(error)
            assert rank < world - 1
        counts.append(len(kept(tmp_path)) - before)
    assert counts == [6 // world] * world


def test_ranks_share_the_work_whenever_they_look(cached, monkeypatch, tmp_path):
    monkeypatch.setattr(filling.idist, "get_world_size", lambda: 2)
    for rank in range(2):  # the second is built when the first has written
        monkeypatch.setattr(filling.idist, "get_rank", lambda rank=rank: rank)
        teacher = cached(batch_size=2)
        assert len(teacher.filling.missing) == 6 - 3 * rank
        if rank == 0:
            with pytest.raises(OSError, match="3 entries .* vanished"):  # without a barrier, the other's are not there
                teacher.fill()
        else:
            teacher.fill()
        assert len(kept(tmp_path)) == 3 + 3 * rank
    assert not teacher.filling.missing


def test_rank_with_nothing_to_do_waits_for_the_others(cached, monkeypatch):
    cached().fill()
    teacher, calls = cached(), []
    monkeypatch.setattr(filling.idist, "barrier", lambda: calls.append("barrier"))
    teacher.fill()
    assert calls == ["barrier"] * 3  # two of them around the copy of an earlier version's entries


def test_full_disk_is_refused_before_anything_is_computed(cached, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(filling.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(OSError, match=r"needs .* kB and 1 kB are free.*--teacher::cache_dir PATH") as error:
        cached()
    assert error.value.errno == errno.ENOSPC
    assert not kept(tmp_path)


def test_disk_that_fills_up_keeps_what_was_written(cached, monkeypatch, tmp_path):
    teacher = cached()
    refuse_writing(monkeypatch, errno.ENOSPC, after=4)
    with pytest.raises(OSError, match="cannot be written .*No space left.*entries written before are kept"):
        teacher.fill()
    monkeypatch.undo()
    assert len(kept(tmp_path)) == 4
    assert len(cached().filling.missing) == 2


def test_read_only_folder_serves_a_complete_cache_and_refuses_to_grow(cached, views, monkeypatch):
    cached().fill()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filling.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr("scripts.cache.shards.atomic_path", refuse)
    refuse_writing(monkeypatch, errno.EACCES)
    teacher = cached()
    teacher.fill()
    teacher(*batch(views(), (0, 0)))
    with pytest.raises(OSError, match="cannot be written .*Permission denied.*--distillation::mode online"):
        cached(dataset=views(seed=3))


def test_fill_for_panels_and_evaluation_ends_where_nothing_can_be_kept(cached, monkeypatch, caplog):
    cached().fill()
    refuse_writing(monkeypatch, errno.EROFS)
    images = iter(torch.rand(3, 1, 64, 64))
    cached().fill(images, 3)
    assert len(list(images)) == 2
    assert "Read-only file system" in caplog.text


def test_size_and_payback_are_logged(cached, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        cached(batch_size=1, num_epochs=20).fill()
    assert "3 images, 2 views each" in caplog.text
    assert "6 of 6 to compute, once" in caplog.text
    assert "it pays from epoch 3 of 20 on" in caplog.text
    planned = 6 * cached().entries.entry_bytes
    assert planned == pytest.approx(sum(path.stat().st_size for path in row_files(tmp_path)), rel=0.15)
    about = json.loads(next((tmp_path / "cache").rglob("about.json")).read_text())
    assert about["teacher"]["model_name"] == "vit_test"
    assert len(about["teacher"]["adapters"]) == 1


def test_entries_of_an_earlier_version_are_copied_once_and_the_teacher_stays_out(cached, views, tmp_path, caplog):
    teacher = cached(keep_features=True)
    teacher.fill()
    images, view = batch(views(), (0, 0), (2, 1), (1, 1))
    before = teacher(images, view)
    as_files(teacher.entries.store)
    teacher = cached(keep_features=True)
    assert not teacher.filling.missing
    with caplog.at_level(logging.INFO):
        teacher.fill()
    assert "6 entries that an earlier version kept as a file each are in shards now" in caplog.text
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(kept(tmp_path)) == 6
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.unlink()
    caplog.clear()
    teacher = cached(keep_features=True)
    teacher.fill()
    assert "are in shards now" not in caplog.text
    found = teacher(images, view)
    assert torch.equal(found.logits, before.logits)
    assert torch.equal(found.features, before.features)
    assert not teacher.teacher.is_loaded


def test_ranks_copy_their_share_of_an_earlier_versions_entries(cached, monkeypatch, tmp_path, caplog):
    """The first tells that the folders may be deleted, when all have copied theirs."""
    teacher = cached()
    teacher.fill()
    as_files(teacher.entries.store)
    fillings, waits = [cached().filling for _ in range(2)], []
    monkeypatch.setattr(filling.idist, "get_world_size", lambda: 2)

    def other_rank():
        waits.append("barrier")
        if len(waits) == 2:
            monkeypatch.setattr(filling.idist, "get_rank", lambda: 1)
            monkeypatch.setattr(filling.idist, "barrier", lambda: None)
            fillings[1]._adopt()
            assert "may be deleted" not in caplog.text
            monkeypatch.setattr(filling.idist, "get_rank", lambda: 0)

    monkeypatch.setattr(filling.idist, "barrier", other_rank)
    with caplog.at_level(logging.INFO):
        fillings[0]._adopt()
    assert caplog.text.count("6 entries that an earlier version kept as a file each are in shards now") == 1
    assert len(row_files(tmp_path)) == 2
    assert len(kept(tmp_path)) == 6
    assert not cached().entries.store.files_alone()


def test_space_for_the_copy_is_that_of_the_files(cached, monkeypatch, tmp_path):
    """Which have embeddings, though this run does not need them."""
    teacher = cached(keep_features=True)
    teacher.fill()
    as_files(teacher.entries.store)
    needed = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
    for free, copied in ((needed, 0), (needed + 1, 6)):
        monkeypatch.setattr(filling.Filling, "_free", lambda self, free=free: free + filling.SPARE_BYTES)
        cached().fill()
        assert len(cached().entries.store.all_keys()) == copied


def test_entries_of_an_earlier_version_are_read_as_they_are_where_nothing_can_be_written(
    cached, views, tmp_path, monkeypatch, caplog
):
    teacher = cached()
    teacher.fill()
    images, view = batch(views(), (0, 0), (2, 1))
    before = teacher(images, view)
    as_files(teacher.entries.store)
    refuse_writing(monkeypatch, errno.ENOSPC)
    teacher = cached()
    teacher.fill()
    assert "The entries of an earlier version are read as they are" in caplog.text
    assert torch.equal(teacher(images, view).logits, before.logits)
    assert not teacher.teacher.is_loaded


def test_batch_of_a_teacher_pass_fits_the_device(monkeypatch):
    def fitting(gigabytes, side):
        properties = SimpleNamespace(total_memory=gigabytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        return filling.fitting_batch(torch.device("cuda", 0), side)

    assert filling.fitting_batch(torch.device("cpu"), 16) == 4
    assert [fitting(gigabytes, 16) for gigabytes in (8, 80)] == [32, 64]  # SAM at 256 pixels
    assert [fitting(gigabytes, 64) for gigabytes in (1, 8, 24)] == [1, 1, 4]  # at 1024
