"""Reading, recognizing and strictly loading checkpoint files."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scripts.networks import weights
from scripts.networks.weights import check_kind, list_keys, load_strict, read_state_dict, recognize

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model", "network"])
def test_wrappers_are_taken_off(tmp_path, wrapper):
    torch.save({wrapper: STATE, "epoch": 3} if wrapper else STATE, tmp_path / "x.pth")
    assert_same(read_state_dict(tmp_path / "x.pth"), STATE)


def test_nested_wrappers_are_taken_off(tmp_path):
    torch.save({"network": {"state_dict": STATE}}, tmp_path / "x.pt")
    assert_same(read_state_dict(tmp_path / "x.pt"), STATE)


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    assert_same(read_state_dict(tmp_path / "x.safetensors"), STATE)


def test_entries_that_are_no_tensors_are_left_out(tmp_path):
    torch.save({**STATE, "adaptation_mode": "lora"}, tmp_path / "x.pth")
    assert_same(read_state_dict(tmp_path / "x.pth"), STATE)


def test_missing_file_is_named_with_its_config_id(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"student::checkpoint .*gone\.pth does not exist"):
        read_state_dict(tmp_path / "gone.pth", "student::checkpoint")


def test_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder, not a checkpoint file"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x80\x02}q\x00."[:3], b"PK\x03\x04 torn"])
def test_unreadable_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"checkpoint .*{name} cannot be read as weights: \S"):
        read_state_dict(tmp_path / name)


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.rand(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_state_dict(path)


def test_file_that_would_run_code_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3}, "a dictionary with the keys epoch"),
        ({}, "an empty dictionary"),
        (torch.ones(2), "an object of type Tensor"),
    ],
)
def test_file_without_state_dict_is_described(tmp_path, content, found):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=f"holds no state dict .*but {found}"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("backbone.cls_token", weights.STUDENT),
        ("decode_head.conv_seg.bias", weights.STUDENT),
        ("model.cls_token", weights.BACKBONE),
        ("w_a_000", weights.LORA),
        ("base_model.model.image_encoder.x", weights.LORA),
        ("sam.image_encoder.pos_embed", weights.TEACHER),
        ("image_encoder.patch_embed.seq.0.c.weight", weights.LITE_MEDSAM),
        ("image_encoder.pos_embed", weights.SAM),
        ("mask_decoder.mask_tokens.weight", weights.DECODER),
        ("conv1.weight", weights.UNKNOWN),
    ],
)
def test_kind_is_told_by_the_keys(key, kind):
    assert recognize([key, "prompt_encoder.x"]) == kind


def test_file_of_another_kind_is_sent_home():
    with pytest.raises(
        ValueError, match="X is a SAM base file .*, not a TinyUSFM student .*; it is for teacher::sam_checkpoint"
    ):
        check_kind(["image_encoder.pos_embed"], (weights.STUDENT,), "X")


def test_file_of_no_known_kind_shows_its_keys():
    with pytest.raises(ValueError, match=r"neither a student, .* \(keys conv1.weight\)"):
        check_kind(["conv1.weight"], (weights.SAM,), "X")


def test_strict_load_of_a_fitting_state_leaves_no_gaps():
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    assert load_strict(target, source.state_dict()) == ([], [])
    assert_same(target.state_dict(), source.state_dict())


def test_named_gaps_are_returned():
    module, state = nn.Linear(3, 2), {"weight": torch.ones(2, 3), "head.w": torch.ones(1)}
    gaps = load_strict(module, state, allowed_missing=["bi*"], allowed_unexpected=["head.*"])
    assert gaps.missing == ["bias"]
    assert gaps.unexpected == ["head.w"]
    assert torch.equal(module.weight, torch.ones(2, 3))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.ones(2, 3)}, "1 missing: bias"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "1 unexpected: x"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(5)}, r"1 of another shape: bias \(5,\) instead of \(2,\)"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_nothing_is_loaded(state, message):
    module = nn.Linear(3, 2)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"file.pth does not fit Linear: .*{message}"):
        load_strict(module, state, allowed_missing=["weight"], allowed_unexpected=["y"], source="file.pth")
    assert_same(module.state_dict(), before)


def test_long_lists_of_keys_end_with_a_count():
    assert list_keys(map(str, range(13))) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more"
