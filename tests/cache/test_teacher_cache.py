"""The teacher cache: exact where it says so, never a wrong hit, and what each damage or full disk leads to."""

import errno
import json
import logging
import shutil
from collections import namedtuple
from functools import partial

import pytest
import torch
from conftest import CONFIGS, root_cause, run, workflow
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from scripts.cache import cached_teacher as teacher_cache
from scripts.cache import entry_store
from scripts.cache.cached_teacher import teacher_for_mode, thumbnails, warp, warp_features
from scripts.cache.entry_store import EntryStore, checksum
from scripts.data.dataset import BASE, ViewDataset
from scripts.data.transforms import joint_augmentation
from scripts.networks import frozen_teacher
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.teacher import build_teacher, build_trainable_teacher, export_adapter

SETTINGS = {"preprocessing": "resize to 64", "augmentation": "the default"}


@pytest.fixture
def frozen(sam_checkpoint, lora_checkpoint):
    return partial(
        FrozenTeacher,
        "vit_test",
        img_size=64,
        sam_checkpoint=str(sam_checkpoint),
        lora_checkpoint=str(lora_checkpoint),
        precision="fp32",
    )


@pytest.fixture
def other_lora(sam_checkpoint, tmp_path):
    torch.manual_seed(5)
    teacher = build_trainable_teacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint))
    state = export_adapter(teacher)
    state.update({key: torch.randn_like(value) for key, value in state.items() if key.startswith("w_b_")})
    torch.save(state, tmp_path / "other.pth")
    return str(tmp_path / "other.pth")


@pytest.fixture
def views(phantoms):
    """Makes the views of the phantoms' training list, read without the config."""
    data = [{"image": str(path)} for path in sorted((phantoms / "images").glob("*.png"))[:3]]

    def read(entry):
        generator = torch.Generator().manual_seed(len(entry["image"]) + int(entry["image"][-6:-4]))
        return {"image": torch.rand(1, 64, 64, generator=generator)}

    def make(views=2, augmentation=joint_augmentation, seed=0, settings=SETTINGS):
        return ViewDataset(data, read, augmentation() if augmentation else None, seed, views, settings=settings)

    return make


@pytest.fixture
def cached(frozen, views, tmp_path):
    def make(mode="replay", teacher=None, dataset=None, num_epochs=10, **options):
        dataset = dataset or views(None if mode == "warp" else 2)
        return teacher_for_mode(
            teacher or frozen(), mode, dataset, tmp_path / "cache", torch.device("cpu"), num_epochs, **options
        )

    return make


def batch(dataset, *pairs):
    """Images and the item "view" of a batch."""
    items = [dataset[pair] for pair in pairs]
    view = {key: torch.stack([torch.as_tensor(item["view"][key]) for item in items]) for key in items[0]["view"]}
    return torch.stack([item["image"] for item in items]), view


def entries(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.safetensors"))


def test_replay_gives_what_the_teacher_says_of_the_same_view(cached, views, frozen):
    teacher = cached(keep_features=True)
    teacher.fill()
    images, view = batch(views(), (0, 0), (2, 1), (1, 1))
    found, expected = teacher(images, view), frozen()(images)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-3, rtol=1e-3)  # fp16
    torch.testing.assert_close(found.features, expected.features, atol=1e-3, rtol=1e-3)


def test_complete_cache_is_read_without_the_teachers_weights(cached, views):
    cached().fill()
    teacher = cached()
    assert not teacher.missing
    assert not teacher.teacher.is_loaded
    teacher.fill()
    teacher(*batch(views(), (0, 0), (1, 1)))
    assert not teacher.teacher.is_loaded


def test_warp_of_an_unchanged_view_is_the_image_itself(cached, views, frozen):
    teacher = cached("warp")
    teacher.fill()
    images, view = batch(views(None, augmentation=None), (0, 3), (1, 4))
    assert "theta" not in view
    torch.testing.assert_close(teacher(images, view).logits, frozen()(images).logits, atol=2e-3, rtol=2e-3)


def test_warp_asks_for_one_view_an_image_and_moves_it(cached, views, frozen):
    teacher = cached("warp")
    assert teacher.missing == [(0, BASE), (1, BASE), (2, BASE)]
    teacher.fill()
    images, view = batch(views(None), (0, 7), (1, 9))
    base, _ = batch(views(None), (0, BASE), (1, BASE))
    expected = warp(frozen().segment(base).logits, view["theta"])
    torch.testing.assert_close(teacher.teacher.enlarge(expected), teacher(images, view).logits, atol=2e-3, rtol=2e-3)


def test_warp_flips_exactly_and_fills_the_outside_with_background():
    logits = torch.randn(2, 1, 8, 8)
    flip = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp(logits, flip), logits.flip(-1), atol=1e-5, rtol=0)
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp(logits, away), logits.amin((1, 2, 3), keepdim=True).expand_as(logits))
    logits = torch.randn(1, 3, 8, 8)
    outside = warp(logits, away[:1])
    surest = logits.softmax(1)[:, 0].flatten().argmax()
    torch.testing.assert_close(outside[0, :, 0, 0], logits.flatten(2)[0, :, surest])


def test_warp_moves_the_embedding_along(cached, views, frozen):
    teacher = cached("warp", keep_features=True)
    teacher.fill()
    images, view = batch(views(None), (0, 7), (1, 9))
    base, _ = batch(views(None), (0, BASE), (1, BASE))
    expected = warp_features(frozen().segment(base).features, view["theta"])
    torch.testing.assert_close(teacher(images, view).features, expected, atol=2e-3, rtol=2e-3)
    plain, view = batch(views(None, augmentation=None), (0, 3), (1, 4))
    torch.testing.assert_close(teacher(plain, view).features, frozen()(plain).features, atol=2e-3, rtol=2e-3)


def test_warped_embedding_flips_exactly_and_ends_as_at_its_border():
    features = torch.randn(2, 5, 8, 8)
    flip = torch.tensor([[-1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp_features(features, flip), features.flip(-1), atol=1e-5, rtol=0)
    away = torch.tensor([[1.0, 0, 5], [0, 1, 0]]).expand(2, 2, 3)
    torch.testing.assert_close(warp_features(features, away), features[..., -1:].expand_as(features))


def test_cache_of_logits_is_filled_up_with_embeddings_when_a_loss_asks_for_them(cached, views):
    cached("warp").fill()
    teacher = cached("warp", keep_features=True)
    assert len(teacher.missing) == 3
    teacher.fill()
    assert not cached("warp").missing
    assert not cached("warp", keep_features=True).missing


def test_entry_with_an_embedding_is_not_replaced_by_one_without(cached, views, monkeypatch):
    """A run that needs logits alone looked before another one had written, and writes after it."""
    slow, other = cached("warp"), cached("warp", keep_features=True)
    compute = slow._compute

    def late(*args):
        entries = compute(*args)
        other.fill()
        return entries

    monkeypatch.setattr(slow, "_compute", late)
    slow.fill()
    assert not cached("warp", keep_features=True).missing
    assert other(*batch(views(None), (0, 7))).features is not None


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
    assert not teacher.missing
    assert len(changed) == 1
    teacher.fill()
    assert caplog.text.count("1 entries in ") == 1
    assert "are of other pixels" in caplog.text
    assert not teacher.missing
    images, _ = batch(dataset, (changed[0], BASE))
    view = {"index": torch.tensor(changed), "number": torch.tensor([5])}
    torch.testing.assert_close(teacher(images, view).logits, frozen()(images).logits, atol=1e-3, rtol=1e-3)
    other = [index for index in range(3) if index not in changed]
    assert [teacher._is_of(teacher._key(index, BASE), dataset[index, BASE]["image"]) for index in other] == [True, True]


def test_views_beyond_the_last_epoch_are_left_out(cached, views):
    assert len(cached(dataset=views(8), num_epochs=3).views) == 9
    assert len(cached(dataset=views(8, augmentation=None), num_epochs=3).views) == 3


CHANGES = {
    "adapter": lambda f, v, other: {"teacher": f(lora_checkpoint=other)},
    "ensemble": lambda f, v, other: {"teacher": f(lora_checkpoint=[f().adapters[0], other])},
    "flips": lambda f, v, other: {"teacher": f(flips=True)},
    "normalization": lambda f, v, other: {"teacher": f(normalization="sam")},
    "precision": lambda f, v, other: {"teacher": f(precision="bf16")},
    "seed": lambda f, v, other: {"dataset": v(seed=1)},
    "preprocessing": lambda f, v, other: {"dataset": v(settings={**SETTINGS, "preprocessing": "resize to 32"})},
    "augmentation": lambda f, v, other: {"dataset": v(settings={**SETTINGS, "augmentation": "flips only"})},
    "features": lambda f, v, other: {"keep_features": True},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_outputs_depend_on_is_a_miss_when_it_differs(cached, frozen, views, other_lora, change):
    cached().fill()
    assert len(cached(**CHANGES[change](frozen, views, other_lora)).missing) == 6
    assert not cached().missing


def test_base_weights_and_versions_are_part_of_the_key(cached, frozen, sam_checkpoint, tmp_path, monkeypatch):
    cached().fill()
    state = torch.load(sam_checkpoint, weights_only=True)
    state["image_encoder.patch_embed.proj.bias"] += 1e-3
    torch.save(state, tmp_path / "sam.pth")
    assert len(cached(teacher=frozen(sam_checkpoint=str(tmp_path / "sam.pth"))).missing) == 6
    for module in (teacher_cache, frozen_teacher):
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            assert len(cached().missing) == 6


def test_image_of_another_content_is_a_miss(cached, views, phantoms, tmp_path):
    cached().fill()
    dataset = views()
    copy = tmp_path / "copy_00.png"
    copy.write_bytes((phantoms / "images" / "phantom_0004.png").read_bytes())
    dataset.data[0] = {"image": str(copy)}
    assert cached(dataset=dataset).missing == [(0, 0), (0, 1)]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9] + b"012345678"])
def test_damaged_entry_is_found_and_computed_again(cached, tmp_path, caplog, damage):
    cached().fill()
    path = entries(tmp_path)[0]
    before = {name: tensor.clone() for name, tensor in load_file(path).items()}  # not the mapped file
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        teacher = cached()
    assert len(teacher.missing) == 1
    assert f"cache entry {path} is damaged" in caplog.text
    teacher.fill()
    torch.testing.assert_close(load_file(path), before, atol=1, rtol=1e-3)  # thumbnails are gray levels
    torch.testing.assert_close(load_file(path)["masks"], before["masks"], atol=1e-3, rtol=1e-3)
    assert not cached().missing


def test_entry_that_goes_bad_while_the_run_goes_on(cached, views, tmp_path):
    for mode, dataset in (("replay", views(2)), ("warp", views(None))):
        teacher = cached(mode, dataset=dataset)
        teacher.fill()
        images, view = batch(dataset, (0, 0), (1, 1))
        before = teacher(images, view).logits
        for path in entries(tmp_path):
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
    shutil.copytree(teacher.store.folder, other.store.folder, dirs_exist_ok=True)
    other = cached(teacher=frozen(lora_checkpoint=other_lora))
    assert len(other.missing) == 6
    assert "is another's" in caplog.text
    other.fill()
    images, view = batch(views(), (0, 0), (2, 1))
    torch.testing.assert_close(
        other(images, view).logits, frozen(lora_checkpoint=other_lora)(images).logits, atol=1e-3, rtol=1e-3
    )


def test_entry_renamed_to_anothers_name_is_no_hit(cached, tmp_path, caplog):
    teacher = cached("warp")
    teacher.fill()
    first, second, third = entries(tmp_path)
    before = load_file(second)["masks"].clone()
    shutil.copyfile(first, second)
    teacher = cached("warp")
    assert len(teacher.missing) == 1
    assert f"cache entry {second} is another's" in caplog.text
    teacher.fill()
    torch.testing.assert_close(load_file(second)["masks"], before, atol=1e-3, rtol=1e-3)


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
    assert len(cached().missing) == 3
    cached().fill()
    assert not cached().missing


def test_two_runs_that_fill_at_once_share_the_work(cached, monkeypatch):
    first, second = cached(batch_size=2), cached(batch_size=2)
    first.fill()
    monkeypatch.setattr(second.teacher, "segment", lambda image: pytest.fail("computed again"))
    second.fill()
    assert not second.missing


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_work(cached, monkeypatch, world, tmp_path):
    teachers = [cached(batch_size=2) for _ in range(world)]
    monkeypatch.setattr(teacher_cache.idist, "get_world_size", lambda: world)
    counts = []
    for rank, teacher in enumerate(teachers):
        monkeypatch.setattr(teacher_cache.idist, "get_rank", lambda rank=rank: rank)
        before = len(entries(tmp_path))
        try:
            teacher.fill()
        except OSError as error:  # the other ranks have not run yet
            assert "vanished" in str(error)
            assert rank < world - 1
        counts.append(len(entries(tmp_path)) - before)
    assert counts == [6 // world] * world


def test_ranks_share_the_work_whenever_they_look(cached, monkeypatch, tmp_path):
    monkeypatch.setattr(teacher_cache.idist, "get_world_size", lambda: 2)
    for rank in range(2):  # the second is built when the first has written
        monkeypatch.setattr(teacher_cache.idist, "get_rank", lambda rank=rank: rank)
        teacher = cached(batch_size=2)
        assert len(teacher.missing) == 6 - 3 * rank
        if rank == 0:
            with pytest.raises(OSError, match="3 entries .* vanished"):  # without a barrier, the other's are not there
                teacher.fill()
        else:
            teacher.fill()
        assert len(entries(tmp_path)) == 3 + 3 * rank
    assert not teacher.missing


def test_rank_with_nothing_to_do_waits_for_the_others(cached, monkeypatch):
    cached().fill()
    teacher, calls = cached(), []
    monkeypatch.setattr(teacher_cache.idist, "barrier", lambda: calls.append("barrier"))
    teacher.fill()
    assert calls == ["barrier"]


def test_full_disk_is_refused_before_anything_is_computed(cached, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    with pytest.raises(OSError, match=r"needs .* kB and 1 kB are free.*--teacher::cache_dir PATH") as error:
        cached()
    assert error.value.errno == errno.ENOSPC
    assert not entries(tmp_path)


def test_disk_that_fills_up_keeps_what_was_written(cached, monkeypatch, tmp_path):
    teacher, save, calls = cached(), entry_store.save_file, []

    def fail_later(*args):
        calls.append(args)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args)

    monkeypatch.setattr(entry_store, "save_file", fail_later)
    with pytest.raises(OSError, match="cannot be written .*No space left.*entries written before are kept"):
        teacher.fill()
    monkeypatch.undo()
    assert len(entries(tmp_path)) == 4
    assert len(cached().missing) == 2


def test_read_only_folder_serves_a_complete_cache_and_refuses_to_grow(cached, views, monkeypatch):
    cached().fill()

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(teacher_cache.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(entry_store, "save_file", refuse)
    teacher = cached()
    teacher.fill()
    teacher(*batch(views(), (0, 0)))
    with pytest.raises(OSError, match="cannot be written .*Permission denied.*--distillation::mode online"):
        cached(dataset=views(seed=3))


def test_write_that_fails_after_the_fill_is_a_warning(cached, views, frozen, monkeypatch, tmp_path, caplog):
    teacher = cached()
    teacher.fill()
    entries(tmp_path)[0].unlink()

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(entry_store, "save_file", refuse)
    images, view = batch(views(), *((index, number) for index in range(3) for number in range(2)))
    torch.testing.assert_close(teacher(images, view).logits, frozen()(images).logits, atol=1e-3, rtol=1e-3)
    for _ in range(2):
        torch.testing.assert_close(teacher(images.sqrt()).logits, frozen()(images.sqrt()).logits, atol=1e-3, rtol=1e-3)
    assert caplog.text.count("cannot be written") == 1
    assert "The run goes on" in caplog.text


def test_fill_for_panels_and_evaluation_ends_where_nothing_can_be_kept(cached, monkeypatch, caplog):
    cached().fill()

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(entry_store, "save_file", refuse)
    images = iter(torch.rand(3, 1, 64, 64))
    cached().fill(images)
    assert len(list(images)) == 2
    assert "Read-only file system" in caplog.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_refused_with_the_file(cached, monkeypatch, tmp_path, value):
    teacher = cached()
    monkeypatch.setattr(teacher.teacher, "segment", lambda image: (torch.full((len(image), 1, 16, 16), value), None))
    with pytest.raises(
        FloatingPointError, match=r"the teacher's masks of .*_\d+.png are not finite.*--teacher::precision fp32"
    ):
        teacher.fill()
    assert not entries(tmp_path)


def test_images_without_a_view_are_found_by_their_pixels(cached, frozen):
    image = torch.rand(2, 1, 64, 64)
    first = cached()(image)
    torch.testing.assert_close(first.logits, frozen()(image).logits, atol=1e-3, rtol=1e-3)
    cached().fill()
    teacher = cached()
    assert torch.equal(teacher(image).logits, first.logits)
    assert not teacher.teacher.is_loaded


def test_online_is_the_teacher_itself_with_its_weights(cached, frozen):
    teacher = cached("online")
    assert isinstance(teacher, FrozenTeacher)
    assert teacher.is_loaded


def test_size_and_payback_are_logged(cached, caplog, tmp_path):
    with caplog.at_level(logging.INFO):
        cached(batch_size=1, num_epochs=20).fill()
    assert "3 images, 2 views each" in caplog.text
    assert "6 of 6 are to be computed, once" in caplog.text
    assert "it pays from epoch 3 of 20 on" in caplog.text
    planned = 6 * cached()._entry_bytes()
    assert planned == pytest.approx(sum(path.stat().st_size for path in entries(tmp_path)), rel=0.15)
    about = json.loads(next((tmp_path / "cache").rglob("about.json")).read_text())
    assert about["teacher"]["model_name"] == "vit_test"
    assert len(about["teacher"]["adapters"]) == 1


def test_teacher_that_the_loss_does_not_read_is_none(cached, frozen, monkeypatch, tmp_path):
    monkeypatch.setattr(FrozenTeacher, "load", lambda self: pytest.fail("loaded"))
    for mode in ("online", "replay", "warp"):
        assert cached(mode, needed=False) is None
    assert not (tmp_path / "cache").exists()


def test_mode_without_what_it_needs_is_refused(cached, frozen, views, tmp_path):
    with pytest.raises(ValueError, match="replay needs views that come back"):
        cached(dataset=views(None))
    with pytest.raises(ValueError, match="warp needs an augmentation that gives 'theta'"):
        cached("warp", dataset=views(None, augmentation=lambda: joint_augmentation().__class__([])))
    with pytest.raises(ValueError, match="mode must be one of online, replay, warp, got 'cache'"):
        cached("cache")
    with pytest.raises(ValueError, match="needs a folder, got None; pass --teacher::cache_dir PATH"):
        teacher_for_mode(frozen(), "warp", views(None), None, torch.device("cpu"), 1)


# the teacher of several members


def test_ensemble_averages_the_logits_of_its_members(frozen, other_lora, sam_checkpoint, lora_checkpoint):
    image = torch.rand(2, 1, 64, 64)
    both = frozen(lora_checkpoint=[str(lora_checkpoint), other_lora])(image)
    alone = [
        build_teacher("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint), lora_checkpoint=path)(image)
        for path in (str(lora_checkpoint), other_lora)
    ]
    for k in range(2):
        torch.testing.assert_close(both[k], (alone[0][k] + alone[1][k]) / 2, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0].logits, alone[1].logits, atol=1e-3)


def test_flips_make_the_teacher_symmetric(frozen):
    image, teacher = torch.rand(1, 1, 64, 64), frozen(flips=True)
    torch.testing.assert_close(teacher(image.flip(-1)).logits, teacher(image).logits.flip(-1), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(frozen()(image.flip(-1)).logits, frozen()(image).logits.flip(-1), atol=1e-3)


def test_shapes_are_known_without_weights(frozen):
    teacher = frozen()
    shapes = teacher.mask_shape, teacher.feature_shape
    assert not teacher.is_loaded
    assert shapes == tuple(part.shape[1:] for part in teacher.segment(torch.rand(1, 1, 64, 64)))


# precision


def test_precision_is_what_auto_gives_on_the_processor(frozen, monkeypatch):
    for native in (True, False):
        monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device, native=native: native)
        auto, told = frozen(precision="auto"), frozen(precision="bf16" if native else "fp32")
        assert auto.description["precision"] == ("bf16" if native else "fp32")
        assert auto.key == told.key
        assert frozen(precision="fp32").resolved_precision == "fp32"
        assert frozen(precision="bf16").resolved_precision == "bf16"
    assert frozen(precision="fp32").key != frozen(precision="bf16").key
    with pytest.raises(ValueError, match="teacher::precision must be one of auto, fp32, bf16, got 'fp16'"):
        frozen(precision="fp16")


def test_auto_is_fp32_for_lite_medsam(monkeypatch, tmp_path):
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: True)
    teacher = build_trainable_teacher("lite_medsam", "mask_decoder")
    torch.save(export_adapter(teacher), tmp_path / "decoder.pth")
    options = {"module": "mask_decoder", "lora_checkpoint": str(tmp_path / "decoder.pth")}
    assert FrozenTeacher("lite_medsam", **options).resolved_precision == "fp32"
    assert FrozenTeacher("lite_medsam", **options, precision="bf16").resolved_precision == "bf16"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_teacher_runs_in_its_own_precision_whatever_the_students(frozen, precision):
    teacher, image = frozen(precision=precision), torch.rand(2, 1, 64, 64)
    plain = teacher(image)
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for found, expected in zip(teacher(image), plain):
                assert torch.equal(found, expected)
                assert found.dtype == expected.dtype
    weight = teacher.members[0].sam.image_encoder.blocks[0].attn.qkv.weight
    assert weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    other = frozen(precision="bf16" if precision == "fp32" else "fp32")(image)
    assert not torch.equal(other.logits, plain.logits)


def test_bf16_cache_is_read_where_bf16_is_not_native(cached, frozen, monkeypatch):
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: True)
    cached(teacher=frozen(precision="auto")).fill()
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: False)
    assert len(cached(teacher=frozen(precision="auto")).missing) == 6
    teacher = cached(teacher=frozen(precision="bf16"))
    assert not teacher.missing
    assert not teacher.teacher.is_loaded


# whole runs


def trained(overrides, **changes):
    return run({**overrides, **changes}).parser.get_parsed_content("network").state_dict()


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_replay_trains_what_online_trains_on_the_same_views(overrides, gamma):
    """Up to the rounding of the logits to fp16, 2^-11 of their size."""
    changes = {
        "final_evaluation": None,
        "hardware::precision": "fp32",
        "teacher::precision": "fp32",
        "train::dataset::views": 2,
        "distillation::gamma": gamma,
        "distillation::student_channels": 6,
        "training::num_epochs": 3,
        "training::lr": 1e-3,
    }
    states = {}
    for mode in ("online", "replay"):
        states[mode] = trained(overrides, **changes, **{"distillation::mode": mode, "run_folder::timestamp": mode})
    start = run(
        {
            **overrides,
            **changes,
            "distillation::mode": "online",
            "training::lr": 1e-12,
            "run_folder::timestamp": "start",
        }
    )
    start = start.parser.get_parsed_content("network").state_dict()
    weights = [name for name, value in start.items() if value.is_floating_point() and value.numel() > 1]
    moved = torch.cat([(states["online"][name] - start[name]).flatten() for name in weights]).norm()
    apart = torch.cat([(states["online"][name] - states["replay"][name]).flatten() for name in weights]).norm()
    assert apart < 2**-6 * moved, (float(apart), float(moved))


def test_second_run_of_a_sweep_never_loads_the_teacher(overrides):
    run({**overrides, "distillation::mode": "warp"})
    flow = run(
        {**overrides, "distillation::temperature": 8.0, "distillation::beta": 0.9, "run_folder::timestamp": "two"}
    )
    teacher = flow.parser.get_parsed_content("frozen_teacher")
    assert not teacher.missing
    assert not teacher.teacher.is_loaded


def panels_every_epoch():
    """The override that draws them."""
    handlers = json.loads((CONFIGS / "train.json").read_text())["train"]["handlers"]
    (number,) = [i for i, handler in enumerate(handlers) if handler["_target_"] == "scripts.handlers.PanelWriter"]
    return {f"train::handlers::{number}::interval": 1}


@pytest.mark.parametrize("img_size", [64, 96])
def test_complete_cache_serves_panels_and_final_evaluation_too(overrides, run_folder, img_size):
    """At the teacher's own size and at another."""
    overrides = {**overrides, **panels_every_epoch(), "data::img_size": img_size, "distillation::mode": "warp"}
    run(overrides)
    flow = run({**overrides, "training::seed": 1, "run_folder::timestamp": "two"})
    second = run_folder.parent / "two"
    assert (second / "visualizations" / "epoch_002.png").is_file()
    assert "teacher" in (second / "test_results.txt").read_text()
    assert not flow.parser.get_parsed_content("frozen_teacher").teacher.is_loaded


def test_run_whose_folder_fills_up_after_the_fill_ends_well(overrides, run_folder, monkeypatch):
    views, write = 6, EntryStore.write
    count = []

    def full_after_the_views(self, key, tensors):
        count.append(key)
        if len(count) > views:
            raise OSError(errno.ENOSPC, entry_store.explain(self.folder, "No space left on device"))
        write(self, key, tensors)

    monkeypatch.setattr(EntryStore, "write", full_after_the_views)
    run({**overrides, **panels_every_epoch(), "distillation::mode": "warp"})
    assert "teacher" in (run_folder / "test_results.txt").read_text()
    assert (run_folder / "distill.log").read_text().count("No space left on device") == 1


def test_loss_that_reads_no_teacher_fills_and_loads_none(overrides, run_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(FrozenTeacher, "load", lambda self: pytest.fail("loaded"))
    flow = run({**overrides, **panels_every_epoch(), "distillation::beta": 0.0})
    assert flow.parser.get_parsed_content("frozen_teacher") is None
    assert not (tmp_path / "cache").exists()
    assert (run_folder / "visualizations" / "epoch_001.png").is_file()
    assert (run_folder / "test_results.txt").is_file()


def test_teacher_that_does_not_fit_leaves_no_run_folder(overrides, tmp_path):
    flow = workflow({**overrides, "teacher::rank": 8})
    with pytest.raises(Exception) as error:
        flow.initialize()
        flow.run()
    assert "has LoRA rank 4, but teacher::rank is 8" in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()
    assert not (tmp_path / "cache").exists()


def test_wrong_teachers_cache_is_not_used_by_a_run(overrides, other_lora, tmp_path):
    run(overrides)
    count = len(entries(tmp_path))
    flow = run({**overrides, "teacher::lora_checkpoint": other_lora, "run_folder::timestamp": "two"})
    assert flow.parser.get_parsed_content("frozen_teacher").teacher.is_loaded
    assert len(entries(tmp_path)) == 2 * count


def test_checksum_covers_names_types_and_shapes(tmp_path):
    tensor = torch.arange(6.0)
    sums = {
        checksum({"a": tensor}),
        checksum({"b": tensor}),
        checksum({"a": tensor.view(2, 3)}),
        checksum({"a": tensor.int()}),
    }
    assert len({*sums, checksum({"a": tensor}, {"key": "a"}), checksum({"a": tensor}, {"key": "b"})}) == 6
    store = EntryStore(tmp_path, "me")
    store.write("abcd", {"a": tensor})
    held = store.read("abcd")["a"]
    with open(store.path("abcd"), "r+b") as file:
        file.truncate(0)
    assert torch.equal(held, tensor)
    assert store.read("abcd") is None
    save_file({"a": tensor + 1}, store.path("abcd"), {"blake2b": checksum({"a": tensor})})
    assert store.read("abcd") is None
    assert store.read("other") is None


def test_thumbnails_survive_another_processors_rounding():
    image = torch.rand(1, 1, 64, 64)
    noisy = image + 1e-6 * torch.randn_like(image)
    assert (thumbnails(image).int() - thumbnails(noisy).int()).abs().max() <= 1
    assert torch.equal(thumbnails(image)[0], (F.avg_pool2d(image, 4)[0, 0] * 255).round().to(torch.uint8))
