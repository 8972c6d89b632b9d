"""The student that a config describes: its sizes, how it starts, and the files that it reads and refuses."""

import json
import logging
from inspect import signature

import pytest
import torch
from conftest import CONFIGS, TINY
from torch.nn import functional as F

from scripts.networks.student import (
    MODEL_NAMES,
    STUDENT_SIZES,
    TEST_SIZE,
    Student,
    build_student,
    load_student,
    load_trained_student,
)
from scripts.networks.tinyusfm import TinyUSFMSeg

SMALL = dict(img_size=32, embed_dim=16, depth=4, num_heads=2, out_indices=(0, 1, 2, 3), channels=8)
CHECKPOINT = "student::checkpoint"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(**changes):
    return TinyUSFMSeg(**{**SMALL, **changes})


def as_pretraining(model):
    """The backbone as TinyUSFM.pth names it."""
    return {k.replace("backbone.", "model."): v for k, v in model.state_dict().items() if k.startswith("backbone.")}


def assert_same(model, state, prefix=""):
    found = model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items() if key.startswith(prefix))


def test_random_start_is_warned_of(caplog):
    build_student(Student(TEST_SIZE), img_size=32)
    assert "without a checkpoint (initialization mimetic); pass --student::checkpoint PATH" in caplog.text
    caplog.clear()
    build_student(Student(TEST_SIZE, pretrained=False), img_size=32)
    assert not caplog.text


def test_unknown_model_name_lists_the_known():
    with pytest.raises(ValueError, match="student::model_name must be one of TinyUSFM_Seg, got 'USFM_Seg'"):
        Student("USFM_Seg")


def test_no_message_names_the_size_for_tests():
    assert MODEL_NAMES == ("TinyUSFM_Seg",)
    assert TEST_SIZE in STUDENT_SIZES


def test_size_of_a_name_is_the_networks_own_default():
    size, arguments = STUDENT_SIZES["TinyUSFM_Seg"]._asdict(), signature(TinyUSFMSeg).parameters
    assert size == {name: arguments[name].default for name in size}


def test_network_has_the_size_the_classes_and_the_features_that_are_asked_for():
    model = build_student(Student(TEST_SIZE, pretrained=False), 3, 48, "backbone")
    assert model(torch.rand(2, 1, 48, 48)).features.shape == (2, TINY["embed_dim"], 3, 3)
    assert model.eval()(torch.rand(2, 1, 48, 48)).shape == (2, 3, 48, 48)


def test_section_of_the_config_has_the_arguments_and_defaults_of_the_class():
    section = json.loads((CONFIGS / "train.json").read_text())["student"]
    assert {name: value for name, value in section.items() if name[0] != "_"} == vars(Student())


@pytest.mark.parametrize("pretrained", [True, False])
def test_unknown_initialization_lists_the_known(pretrained):
    with pytest.raises(ValueError, match="student::initialization must be one of mimetic, random, got 'kaiming'"):
        Student(pretrained=pretrained, initialization="kaiming")


def test_checkpoint_without_pretrained_is_refused():
    with pytest.raises(ValueError, match="x.pth, but student::pretrained is False"):
        Student(pretrained=False, checkpoint="x.pth")


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "network"])
def test_segmentation_file_is_loaded_in_full(tmp_path, wrapper):
    state = build_student(Student(TEST_SIZE), num_classes=3, img_size=32).state_dict()
    torch.save({wrapper: state} if wrapper else state, tmp_path / "x.pt")
    start = Student(TEST_SIZE, checkpoint=str(tmp_path / "x.pt"))
    assert_same(build_student(start, num_classes=3, img_size=32), state)


def test_pretrained_backbone_is_loaded_and_the_head_left_new(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    source, model = small(), small()
    head = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    pretraining = {
        **as_pretraining(source),
        "model.head.weight": torch.ones(3, 16),
        "decoder.w": torch.ones(1),
        "epoch": 3,
    }
    torch.save(pretraining, tmp_path / "TinyUSFM.pth")
    load_student(model, tmp_path / "TinyUSFM.pth")
    assert_same(model, source.state_dict(), "backbone.")
    assert_same(model, head)
    assert f"{len(head)} entries of neck and head left new" in caplog.text
    assert "1 keys outside model.* left out: decoder.w" in caplog.text
    assert "pretraining head left out: backbone.head.weight" in caplog.text


def test_backbone_file_may_lack_the_unused_norm_but_no_block(tmp_path):
    state = as_pretraining(small())
    torch.save({k: v for k, v in state.items() if ".norm." not in k}, tmp_path / "good.pth")
    load_student(small(), tmp_path / "good.pth")
    torch.save({k: v for k, v in state.items() if ".blocks.1." not in k}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"12 missing: backbone.blocks.1.attn.proj.bias.* and 2 more"):
        load_student(small(), tmp_path / "bad.pth")


@pytest.mark.parametrize("convert", [lambda m: m.state_dict(), as_pretraining])
def test_position_embeddings_of_another_size_are_resized(tmp_path, convert):
    source, model = small(img_size=64), small(img_size=32)
    torch.save(convert(source), tmp_path / "x.pth")
    load_student(model, tmp_path / "x.pth")
    found, original = model.backbone.pos_embed, source.backbone.pos_embed
    assert torch.equal(found[:, 0], original[:, 0])  # the class token's
    grid = original[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(2, 2), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    torch.testing.assert_close(found[:, 1:], expected)


def test_trained_student_is_read_once_and_loaded_in_full(tmp_path, monkeypatch):
    source, reads = small(), []
    torch.save(source.state_dict(), tmp_path / "x.pt")
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: reads.append(args) or load(*args, **kwargs))
    model = small()
    assert load_trained_student(model, tmp_path / "x.pt") is model
    assert len(reads) == 1
    assert_same(model, source.state_dict())


def test_trained_student_is_used_as_it_is(tmp_path):
    source = build_student(Student(TEST_SIZE), img_size=64)
    torch.save(source.state_dict(), tmp_path / "x.pt")
    student = Student(TEST_SIZE, checkpoint=str(tmp_path / "x.pt"))
    assert_same(build_student(student, img_size=64, trained=True), source.state_dict())
    with pytest.raises(ValueError, match=f"{CHECKPOINT} .*x.pt was trained at 64 pixels"):
        build_student(student, img_size=32, trained=True)
    with pytest.raises(ValueError, match=f"{CHECKPOINT} is required, got None"):
        build_student(Student(TEST_SIZE), img_size=64, trained=True)


def test_trained_student_of_another_img_size_is_refused(tmp_path):
    torch.save(small(img_size=128).state_dict(), tmp_path / "x.pt")
    model = small(img_size=224)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    message = (
        r"x.pt was trained at 128 pixels, but the student is built for 224; pass --img_size 128 "
        r"\(--data::img_size 128 in evaluate.json\)\."
    )
    with pytest.raises(ValueError, match=message):
        load_trained_student(model, tmp_path / "x.pt")
    assert_same(model, before)


def test_backbone_is_no_trained_student(tmp_path):
    torch.save(as_pretraining(small()), tmp_path / "TinyUSFM.pth")
    with pytest.raises(
        ValueError, match="^checkpoint .*TinyUSFM.pth is a pretrained TinyUSFM backbone .*, not a TinyUSFM student"
    ):
        load_trained_student(small(), tmp_path / "TinyUSFM.pth")


def test_trained_student_needs_a_file(tmp_path):
    with pytest.raises(ValueError, match="student::checkpoint is required, got None; pass --student::checkpoint PATH"):
        load_trained_student(small(), None, CHECKPOINT)
    with pytest.raises(
        FileNotFoundError, match="student::checkpoint .*gone.pt does not exist; pass --student::checkpoint PATH"
    ):
        load_trained_student(small(), tmp_path / "gone.pt", CHECKPOINT)


def test_other_class_count_is_refused(tmp_path):
    torch.save(small(num_classes=3).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="segments 3 classes, but data::num_classes is 2; pass --data::num_classes 3"):
        load_student(small(), tmp_path / "x.pth")


def test_other_width_is_refused_with_the_keys(tmp_path):
    torch.save(small(embed_dim=32).state_dict(), tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"x.pth does not fit TinyUSFMSeg: .*of another shape: backbone.cls_token \(1, 1, 32\)"
    ):
        load_student(small(), tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("image_encoder.pos_embed", "is a SAM base file .*; it is for teacher::sam_checkpoint"),
        ("w_a_000", "is a LoRA adapter .*; it is for teacher::lora_checkpoint"),
        ("mask_decoder.mask_tokens.weight", "is a tuned mask decoder .*; it is for teacher::lora_checkpoint"),
        ("layer1.0.conv1.weight", "is neither a student, a SAM nor an adapter"),
    ],
)
def test_file_of_another_network_is_refused_by_name(tmp_path, key, message):
    torch.save({key: torch.ones(1)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"{CHECKPOINT} .*x.pth {message}"):
        load_student(small(), tmp_path / "x.pth")


def test_missing_file_names_the_config_id(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{CHECKPOINT} .*gone.pth does not exist"):
        build_student(Student(TEST_SIZE, checkpoint=str(tmp_path / "gone.pth")), img_size=32)
