"""The entries of a teacher: never a wrong hit, and what each damage leads to."""

import errno
import logging
import shutil

import pytest
import torch
from teacher_stand_ins import (
    batch,
    kept,
    make_cached,
    make_frozen,
    make_other_lora,
    make_views,
    refuse_writing,
    row_files,
    spoil,
)
from torch.nn import functional as F

from scripts.cache.entries import thumbnails
from scripts.cache.shards import Shard
from scripts.data.dataset import BASE

cached, frozen, other_lora, views = map(pytest.fixture, (make_cached, make_frozen, make_other_lora, make_views))


def test_thumbnails_survive_another_processors_rounding():
    image = torch.rand(1, 1, 64, 64)
    noisy = image + 1e-6 * torch.randn_like(image)
    assert (thumbnails(image).int() - thumbnails(noisy).int()).abs().max() <= 1
    assert torch.equal(thumbnails(image)[0], (F.avg_pool2d(image, 4)[0, 0] * 255).round().to(torch.uint8))


def test_entry_with_an_embedding_is_not_replaced_by_one_without(cached, views, monkeypatch):
    """A run that needs logits alone looked before another one had written, and writes after it."""
    slow, other = cached("warp"), cached("warp", keep_features=True)
    compute = slow.entries.compute

    def late(*args):
        entries = compute(*args)
        other.fill()
        return entries

    monkeypatch.setattr(slow.entries, "compute", late)
    slow.fill()
    assert not cached("warp", keep_features=True).filling.missing
    assert other(*batch(views(None), (0, 7))).features is not None


DAMAGES = {  # of the rows of six entries, and how many of them are lost
    "half of it cut off": (lambda b: b[: len(b) // 2], 3),
    "last byte cut off": (lambda b: b[:-1], 1),
    "empty": (lambda b: b"", 6),
    "other bytes": (lambda b: b[:-9] + b"012345678", 1),
    "a turned bit": (lambda b: bytes([b[0] ^ 1]) + b[1:], 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_found_and_computed_again(cached, tmp_path, caplog, damage):
    cached().fill()
    (path,), before, (change, lost) = row_files(tmp_path), kept(tmp_path), DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        teacher = cached()
    assert len(teacher.filling.missing) == lost
    assert f"cache shard {path} is damaged or cut off" in caplog.text
    assert f"{lost} of its entries count as missing" in caplog.text
    teacher.fill()
    after = kept(tmp_path)
    assert after.keys() == before.keys()
    for key, entry in before.items():
        torch.testing.assert_close(after[key], entry, atol=1, rtol=1e-3)  # thumbnails are gray levels
        torch.testing.assert_close(after[key]["masks"], entry["masks"], atol=1e-3, rtol=1e-3)
    assert not cached().filling.missing


@pytest.mark.parametrize("left", [0, 10])
def test_entries_of_a_shard_without_its_index_are_computed_again(cached, tmp_path, caplog, left):
    cached().fill()
    (index,) = (tmp_path / "cache").rglob("*.index")
    index.write_bytes(index.read_bytes()[:left])
    teacher = cached()
    assert len(teacher.filling.missing) == 6
    assert ("its first line is damaged" in caplog.text) == (left > 0)  # an empty one is just being made
    teacher.fill()
    assert not cached().filling.missing


def test_entry_whose_line_in_the_index_is_damaged_is_computed_again(cached, tmp_path, caplog):
    cached().fill()
    (index,) = (tmp_path / "cache").rglob("*.index")
    content = bytearray(index.read_bytes())
    content[-60] ^= 1  # the last but one
    index.write_bytes(content[:-1])  # and the last is cut off, as by a kill
    teacher = cached()
    assert len(teacher.filling.missing) == 2
    assert "1 line of" in caplog.text
    teacher.fill()
    assert not cached().filling.missing


def test_entry_that_goes_bad_while_the_run_goes_on(cached, views, tmp_path):
    for mode, dataset in (("replay", views(2)), ("warp", views(None))):
        teacher = cached(mode, dataset=dataset)
        teacher.fill()
        images, view = batch(dataset, (0, 0), (1, 1))
        before = teacher(images, view).logits
        for path in row_files(tmp_path):
            path.write_bytes(b"")
        if mode == "replay":  # the image is at hand: computed again
            torch.testing.assert_close(teacher(images, view).logits, before, atol=1e-3, rtol=1e-3)
        else:
            with pytest.raises(
                ValueError, match="2 entries of the teacher cache .* gone or damaged.* --training::resume"
            ):
                teacher(images, view)
        shutil.rmtree(tmp_path / "cache")


def test_entry_of_another_image_under_the_same_name_is_refused(cached, views):
    teacher = cached()
    teacher.fill()
    images, view = batch(views(), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="was computed from another image than the one it is to go with: .* Delete"):
        teacher(images.flip(0), view)


def test_folder_copied_over_another_teachers_name_is_no_hit(cached, views, frozen, other_lora, tmp_path, caplog):
    teacher, other = cached(), cached(teacher=frozen(lora_checkpoint=other_lora))
    teacher.fill()
    shutil.copytree(teacher.entries.store.folder, other.entries.store.folder, dirs_exist_ok=True)
    other = cached(teacher=frozen(lora_checkpoint=other_lora))
    assert len(other.filling.missing) == 6
    assert "is another's" in caplog.text
    other.fill()
    images, view = batch(views(), (0, 0), (2, 1))
    torch.testing.assert_close(
        other(images, view).logits, frozen(lora_checkpoint=other_lora)(images).logits, atol=1e-3, rtol=1e-3
    )


def test_rows_that_changed_places_are_no_hits(cached, tmp_path, caplog):
    cached("warp").fill()
    (path,), before = row_files(tmp_path), kept(tmp_path)
    rows, size = path.read_bytes(), path.stat().st_size // 3
    path.write_bytes(rows[size : 2 * size] + rows[:size] + rows[2 * size :])
    teacher = cached("warp")
    assert len(teacher.filling.missing) == 2
    assert "is damaged or cut off (row 0, 1)" in caplog.text
    teacher.fill()
    after = kept(tmp_path)
    for key, entry in before.items():
        torch.testing.assert_close(after[key]["masks"], entry["masks"], atol=1e-3, rtol=1e-3)


def test_damage_that_size_and_times_do_not_show_is_found_when_a_row_is_read(cached, views, tmp_path, caplog):
    """And from then on by the next start."""
    cached("warp").fill()
    assert not cached("warp").filling.missing
    (memory,) = (tmp_path / "cache").rglob("*.checked")
    teacher = cached("warp")
    path = spoil(teacher.entries.store, teacher.filling.key((0, BASE)))
    for shard in teacher.entries.store._shards.values():
        shard.verified.clear()
        shard.remember(shard.state())  # as if it had been damaged before
    teacher = cached("warp")
    assert not teacher.filling.missing
    teacher.filling.check_images = False
    teacher.fill()
    with pytest.raises(ValueError, match="1 entries of the teacher cache .* gone or damaged"):
        teacher(*batch(views(None), (0, 7), (1, 9)))
    assert f"cache shard {path} is damaged" in caplog.text
    assert not memory.exists()
    assert cached("warp").filling.missing == [(0, BASE)]


def test_rows_that_were_found_whole_are_not_read_at_the_next_start(cached, monkeypatch):
    cached().fill()
    assert not cached().filling.missing
    monkeypatch.setattr(Shard, "read", lambda *_: pytest.fail("read"))
    teacher = cached()
    teacher.fill()
    assert not teacher.filling.missing


def test_write_that_fails_after_the_fill_is_a_warning(cached, views, frozen, monkeypatch, tmp_path, caplog):
    teacher = cached()
    teacher.fill()
    (path,) = row_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    refuse_writing(monkeypatch, errno.ENOSPC)
    images, view = batch(views(), *((index, number) for index in range(3) for number in range(2)))
    torch.testing.assert_close(teacher(images, view).logits, frozen()(images).logits, atol=1e-3, rtol=1e-3)
    for _ in range(2):
        torch.testing.assert_close(teacher(images.sqrt()).logits, frozen()(images.sqrt()).logits, atol=1e-3, rtol=1e-3)
    assert caplog.text.count("cannot be written") == 1
    assert "The run goes on" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused_with_the_file(cached, monkeypatch, tmp_path, value):
    teacher = cached()
    monkeypatch.setattr(teacher.teacher, "segment", lambda image: (torch.full((len(image), 1, 16, 16), value), None))
    with pytest.raises(
        FloatingPointError, match=r"the teacher's masks of .*_\d+.png are not finite.*--teacher::precision fp32"
    ):
        teacher.fill()
    assert not kept(tmp_path)


def test_images_without_a_view_are_found_by_their_pixels(cached, frozen):
    image = torch.rand(2, 1, 64, 64)
    first = cached()(image)
    torch.testing.assert_close(first.logits, frozen()(image).logits, atol=1e-3, rtol=1e-3)
    cached().fill()
    teacher = cached()
    assert torch.equal(teacher(image).logits, first.logits)
    assert not teacher.teacher.is_loaded


def test_batch_that_does_not_fit_into_the_memory_is_halved(cached, monkeypatch, caplog):
    teacher = cached(batch_size=6, keep_features=True)
    segment, sizes = teacher.teacher.segment, []

    def small(images):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return segment(images)

    monkeypatch.setattr(teacher.teacher, "segment", small)
    teacher.fill()
    assert not cached(keep_features=True).filling.missing
    assert sizes == [6, 3, 2, 1, 2, 1]
    assert "too small for 6 images" in caplog.text
    caplog.clear()
    teacher.entries.compute(torch.rand(4, 1, 64, 64), "abcd", keep_features=True)
    assert sizes[6:] == [2, 2]
    assert not caplog.text
