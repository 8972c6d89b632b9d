"""The entries of a teacher: never a wrong hit, and what each damage leads to."""

import errno
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from teacher_stand_ins import batch, entry_files, make_cached, make_frozen, make_other_lora, make_views
from torch.nn import functional as F

from scripts.cache import entry_store
from scripts.cache.entries import thumbnails

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


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"012345678"])
def test_damaged_entry_is_found_and_computed_again(cached, tmp_path, caplog, damage):
    cached().fill()
    path = entry_files(tmp_path)[0]
    before = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not the mapped file
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        teacher = cached()
    assert len(teacher.filling.missing) == 1
    assert f"cache entry {path} is damaged" in caplog.text
    teacher.fill()
    torch.testing.assert_close(load_file(path), before, atol=1, rtol=1e-3)  # thumbnails are gray levels
    torch.testing.assert_close(load_file(path)["masks"], before["masks"], atol=1e-3, rtol=1e-3)
    assert not cached().filling.missing


def test_entry_that_goes_bad_while_the_run_goes_on(cached, views, tmp_path):
    for mode, dataset in (("replay", views(2)), ("warp", views(None))):
        teacher = cached(mode, dataset=dataset)
        teacher.fill()
        images, view = batch(dataset, (0, 0), (1, 1))
        before = teacher(images, view).logits
        for path in entry_files(tmp_path):
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


def test_entry_renamed_to_anothers_name_is_no_hit(cached, tmp_path, caplog):
    teacher = cached("warp")
    teacher.fill()
    first, second, third = entry_files(tmp_path)
    before = load_file(second)["masks"].clone()
    shutil.copyfile(first, second)
    teacher = cached("warp")
    assert len(teacher.filling.missing) == 1
    assert f"cache entry {second} is another's" in caplog.text
    teacher.fill()
    torch.testing.assert_close(load_file(second)["masks"], before, atol=1e-3, rtol=1e-3)


def test_write_that_fails_after_the_fill_is_a_warning(cached, views, frozen, monkeypatch, tmp_path, caplog):
    teacher = cached()
    teacher.fill()
    entry_files(tmp_path)[0].unlink()

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entry_store, "save_file", refuse)
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
    assert not entry_files(tmp_path)


def test_images_without_a_view_are_found_by_their_pixels(cached, frozen):
    image = torch.rand(2, 1, 64, 64)
    first = cached()(image)
    torch.testing.assert_close(first.logits, frozen()(image).logits, atol=1e-3, rtol=1e-3)
    cached().fill()
    teacher = cached()
    assert torch.equal(teacher(image).logits, first.logits)
    assert not teacher.teacher.is_loaded
