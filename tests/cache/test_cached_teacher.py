"""The teacher whose outputs are read from disk: exact where it says so, and a miss whenever something differs."""

import errno
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, root_cause, run, workflow
from teacher_stand_ins import (
    SETTINGS,
    as_files,
    batch,
    kept,
    make_cached,
    make_frozen,
    make_other_lora,
    make_views,
    reading,
    spoil,
)

from scripts.cache import entries, entry_store, filling
from scripts.cache.batch_reader import SOURCE
from scripts.cache.cached_teacher import teacher_for_mode
from scripts.cache.entry_store import EntryStore
from scripts.cache.shards import read_owner
from scripts.cache.warp import warp, warp_features
from scripts.data.dataset import BASE, ViewLoader
from scripts.data.transforms import joint_augmentation
from scripts.networks import frozen_teacher
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.utils.digests import weights_digest

cached, frozen, other_lora, views = map(pytest.fixture, (make_cached, make_frozen, make_other_lora, make_views))


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
    assert not teacher.filling.missing
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
    assert teacher.filling.missing == [(0, BASE), (1, BASE), (2, BASE)]
    teacher.fill()
    images, view = batch(views(None), (0, 7), (1, 9))
    base, _ = batch(views(None), (0, BASE), (1, BASE))
    expected = warp(frozen().segment(base).logits, view["theta"])
    torch.testing.assert_close(teacher.teacher.enlarge(expected), teacher(images, view).logits, atol=2e-3, rtol=2e-3)


def test_warp_moves_the_embedding_along(cached, views, frozen):
    teacher = cached("warp", keep_features=True)
    teacher.fill()
    images, view = batch(views(None), (0, 7), (1, 9))
    base, _ = batch(views(None), (0, BASE), (1, BASE))
    expected = warp_features(frozen().segment(base).features, view["theta"])
    torch.testing.assert_close(teacher(images, view).features, expected, atol=2e-3, rtol=2e-3)
    plain, view = batch(views(None, augmentation=None), (0, 3), (1, 4))
    torch.testing.assert_close(teacher(plain, view).features, frozen()(plain).features, atol=2e-3, rtol=2e-3)


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
    assert len(cached(**CHANGES[change](frozen, views, other_lora)).filling.missing) == 6
    assert not cached().filling.missing


def test_base_weights_and_versions_are_part_of_the_key(
    cached, frozen, sam_checkpoint, lora_checkpoint, tmp_path, monkeypatch
):
    cached().fill()
    adapter = torch.load(lora_checkpoint, weights_only=True)
    del adapter["tuned_on"]  # or the other base would be refused
    torch.save(adapter, tmp_path / "lora.pth")
    state = torch.load(sam_checkpoint, weights_only=True)
    state["image_encoder.patch_embed.proj.bias"] += 1e-3
    torch.save(state, tmp_path / "sam.pth")
    other = frozen(sam_checkpoint=str(tmp_path / "sam.pth"), lora_checkpoint=str(tmp_path / "lora.pth"))
    assert len(cached(teacher=other).filling.missing) == 6
    for module in (entries, frozen_teacher):
        with monkeypatch.context() as patch:
            patch.setattr(module, "VERSION", 99)
            assert len(cached().filling.missing) == 6


def test_image_of_another_content_is_a_miss(cached, views, phantoms, tmp_path):
    cached().fill()
    dataset = views()
    copy = tmp_path / "copy_00.png"
    copy.write_bytes((phantoms / "images" / "phantom_0004.png").read_bytes())
    dataset.data[0] = {"image": str(copy)}
    assert cached(dataset=dataset).filling.missing == [(0, 0), (0, 1)]


def test_bf16_cache_is_read_where_bf16_is_not_native(cached, frozen, monkeypatch):
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: True)
    cached(teacher=frozen(precision="auto")).fill()
    monkeypatch.setattr(frozen_teacher, "has_native_bf16", lambda device: False)
    assert len(cached(teacher=frozen(precision="auto")).filling.missing) == 6
    teacher = cached(teacher=frozen(precision="bf16"))
    assert not teacher.filling.missing
    assert not teacher.teacher.is_loaded


def test_online_is_the_teacher_itself_with_its_weights(cached):
    teacher = cached("online")
    assert isinstance(teacher, FrozenTeacher)
    assert teacher.is_loaded


def test_teacher_that_the_loss_does_not_read_is_none(frozen, views, monkeypatch, tmp_path):
    monkeypatch.setattr(FrozenTeacher, "load", lambda self: pytest.fail("loaded"))
    for mode in ("online", "replay", "warp"):
        assert teacher_for_mode(frozen(), reading(False), mode, views(2), torch.device("cpu"), 10) is None
    assert not (tmp_path / "cache").exists()


def test_mode_without_what_it_needs_is_refused(cached, frozen, views):
    with pytest.raises(ValueError, match="replay needs views that come back"):
        cached(dataset=views(None))
    with pytest.raises(ValueError, match="warp needs an augmentation that gives 'theta'"):
        cached("warp", dataset=views(None, augmentation=lambda: joint_augmentation().__class__([])))
    with pytest.raises(ValueError, match="mode must be one of online, replay, warp, got 'cache'"):
        cached("cache")
    with pytest.raises(ValueError, match="needs a folder, got None; pass --teacher::cache_dir PATH"):
        teacher_for_mode(frozen(cache_dir=None), reading(), "warp", views(None), torch.device("cpu"), 1)


# whole runs


def trained(overrides):
    return run(overrides).parser.get_parsed_content("network").state_dict()


def apart(first, second):
    """Distance of the weights; without the vectors, among which are biases in front of a batch norm: their gradients
    are rounding alone, and Adam makes them as large as any.
    """
    weights = [name for name, value in first.items() if value.ndim > 1]
    return torch.cat([(first[name] - second[name]).flatten() for name in weights]).norm().item()


@pytest.mark.parametrize("gamma", [0.0, 0.1])
def test_replay_trains_what_online_trains_on_the_same_views(overrides, gamma):
    """Up to the rounding of the logits to fp16, 2^-11 of their size.

    With plain SGD: AdamW makes a gradient that is rounding alone as large as any other.
    """
    parameters = "$itertools.chain(@network.parameters(), @loss.parameters())"
    changes = {
        "imports": ["$import sys", "$import itertools"],
        "optimizer": {"_target_": "torch.optim.SGD", "params": parameters, "lr": "@training::lr"},
        "final_evaluation": None,
        "hardware::precision": "fp32",
        "teacher::precision": "fp32",
        "train::dataset::views": 2,
        "distillation::gamma": gamma,
        "distillation::student_channels": 6,
        "training::num_epochs": 3,
        "training::lr": 0.1,
    }
    runs = {
        "online": {"distillation::mode": "online"},
        "replay": {"distillation::mode": "replay"},
        "start": {"distillation::mode": "online", "training::lr": 1e-12},
    }
    states = {
        name: trained({**overrides, **changes, **own, "run_folder::timestamp": name}) for name, own in runs.items()
    }
    assert apart(states["online"], states["replay"]) < 2**-11 * apart(states["online"], states["start"])


def test_second_run_of_a_sweep_never_loads_the_teacher(overrides):
    run({**overrides, "distillation::mode": "warp"})
    flow = run(
        {**overrides, "distillation::temperature": 8.0, "distillation::beta": 0.9, "run_folder::timestamp": "two"}
    )
    teacher = flow.parser.get_parsed_content("cached_teacher")
    assert not teacher.filling.missing
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
    assert not flow.parser.get_parsed_content("cached_teacher").teacher.is_loaded


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
    assert flow.parser.get_parsed_content("cached_teacher") is None
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
    count = len(kept(tmp_path))
    flow = run({**overrides, "teacher::lora_checkpoint": other_lora, "run_folder::timestamp": "two"})
    assert flow.parser.get_parsed_content("cached_teacher").teacher.is_loaded
    assert len(kept(tmp_path)) == 2 * count


# where a batch is made


def test_batch_of_a_loader_has_the_outputs_of_its_views(cached, views):
    for mode, dataset in (("replay", views(2)), ("warp", views(None))):
        teacher = cached(mode, dataset=dataset, keep_features=True)
        pairs = [(0, 0), (2, 1), (1, 0)]
        plain = next(iter(ViewLoader(dataset, batch_size=3, sampler=pairs)))
        assert SOURCE not in plain["view"]
        teacher.fill()
        alone = teacher(plain["image"], plain["view"])
        for workers in (0, 1):
            made = next(iter(ViewLoader(dataset, batch_size=3, sampler=pairs, num_workers=workers)))
            assert made["view"]["masks"].dtype == torch.float16
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(EntryStore, "read_batch", lambda *_: pytest.fail("read in the training process"))
                found = teacher(made["image"], made["view"])
            assert torch.equal(found.logits, alone.logits)
            assert torch.equal(found.features, alone.features)


def test_outputs_of_another_teacher_beside_a_batch_are_not_used(cached, views, frozen, other_lora):
    dataset = views(2)
    other = cached(teacher=frozen(lora_checkpoint=other_lora), dataset=dataset)
    teacher = cached(dataset=dataset)
    teacher.fill()
    other.fill()
    made = next(iter(ViewLoader(dataset, batch_size=2, sampler=[(0, 0), (1, 1)])))
    expected = cached(dataset=views(2))(made["image"], {key: made["view"][key] for key in ("index", "number")})
    assert torch.equal(teacher(made["image"], made["view"]).logits, expected.logits)
    assert not torch.equal(other(made["image"], made["view"]).logits, expected.logits)


def test_batch_with_a_damaged_entry_is_left_to_the_teacher(cached, views):
    dataset = views(2)
    teacher = cached(dataset=dataset)
    teacher.fill()
    pairs = [(0, 0), (1, 1)]
    before = teacher(*batch(dataset, *pairs)).logits
    teacher = cached(dataset=dataset)
    teacher.fill()
    spoil(teacher.entries.store, teacher.reader.key(pairs[1]))
    teacher.entries.store.read([])
    for shard in teacher.entries.store._shards.values():
        shard.verified.clear()
    made = next(iter(ViewLoader(dataset, batch_size=2, sampler=pairs, num_workers=1)))
    assert SOURCE not in made["view"]
    torch.testing.assert_close(teacher(made["image"], made["view"]).logits, before, atol=1e-3, rtol=1e-3)
    assert SOURCE in next(iter(ViewLoader(dataset, batch_size=2, sampler=pairs)))["view"]


@pytest.mark.parametrize("mode", ["warp", "replay"])
def test_cache_of_an_earlier_version_trains_the_same_weights_bit_by_bit(overrides, run_folder, tmp_path, mode):
    """Entries of a file each, copied into shards; and read as they are, where they cannot be."""
    changes = {"distillation::mode": mode, "distillation::gamma": 0.1, "distillation::student_channels": 6}
    changes = {**changes, "train::dataset::views": 2 if mode == "replay" else None, "final_evaluation": None}
    states = [trained({**overrides, **changes})]
    for folder in (tmp_path / "cache").glob("teacher-*"):
        as_files(EntryStore(folder, read_owner(next(folder.glob("*.index")))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        states.append(trained({**overrides, **changes, "run_folder::timestamp": "files"}))
    assert not list((tmp_path / "cache").rglob("*.index"))
    flow = run({**overrides, **changes, "run_folder::timestamp": "copied"})
    assert not flow.parser.get_parsed_content("cached_teacher").teacher.is_loaded
    states.append(flow.parser.get_parsed_content("network").state_dict())
    assert list((tmp_path / "cache").rglob("*.index"))
    assert len({weights_digest(state) for state in states}) == 1
