"""Weight files: damage of one bit and values that are not finite are found in every format."""

import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from scripts.utils.digests import file_digest
from scripts.utils.weight_files import TENSORS_SUM, check_finite, read_weight_file, save_safetensors

WEIGHT = torch.linspace(0.5, 1.5, 1000)
STATE = {"a.weight": WEIGHT, "a.bias": torch.arange(3)}


def write(folder, kind):
    """The state in a file of a kind, with what guards it."""
    path = folder / ("x.safetensors" if "safetensors" in kind else "x.pth")
    if kind == "safetensors":
        save_safetensors(STATE, path, {"note": "text"})
    elif kind == "foreign safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "zip")
    if kind in ("foreign safetensors", "legacy"):
        path.with_name(f"{path.name}.sha256").write_text(f"{file_digest(path)}  {path.name}\n")
    return path


def flip_bit(path, byte, bit=6):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


KINDS = ["zip", "safetensors", "foreign safetensors", "legacy"]


@pytest.mark.parametrize("kind", KINDS)
def test_whole_file_is_read_without_a_word(tmp_path, caplog, kind):
    content = read_weight_file(write(tmp_path, kind), "checkpoint")
    assert torch.equal(content["a.weight"], WEIGHT)
    assert torch.equal(content["a.bias"], STATE["a.bias"])
    assert content.get("note") == ("text" if kind == "safetensors" else None)
    assert not caplog.records


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", [3, 1999, 3998])
def test_one_flipped_bit_of_the_weights_is_found(tmp_path, kind, place):
    path = write(tmp_path, kind)
    start = path.read_bytes().index(WEIGHT.numpy().tobytes())
    flip_bit(path, start + place)
    with pytest.raises(
        ValueError, match=rf"student::checkpoint {path} is (damaged|not the file).*; copy or download it"
    ):
        read_weight_file(path, "student::checkpoint")


@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_no_flipped_bit_changes_a_weight_unnoticed(tmp_path, kind):
    """Headers and directories too, in steps; a note that is spoilt leaves the weights right."""
    path = write(tmp_path, kind)
    whole = path.read_bytes()
    for byte in range(0, len(whole), 61):
        path.write_bytes(whole)
        flip_bit(path, byte, byte % 8)
        try:
            content = read_weight_file(path, "checkpoint")
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert {key: value for key, value in content.items() if not isinstance(value, str)}.keys() == STATE.keys()
            assert all(torch.equal(content[key], value) for key, value in STATE.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.complex64])
@pytest.mark.parametrize("kind", ["zip", "safetensors"])
def test_value_that_is_not_finite_is_named(tmp_path, kind, dtype, value):
    weights = torch.ones(50, 50, dtype=dtype)
    weights[30, 7] = value
    state, path = {"whole": torch.ones(3), "b": weights}, tmp_path / ("x.pt" if kind == "zip" else "x.safetensors")
    if kind == "zip":
        torch.save({"network": state, "epoch": 3}, path)
    else:
        save_safetensors(state, path)
    key = "network.b" if kind == "zip" else "b"
    with pytest.raises(ValueError, match=rf"checkpoint {path} holds values that are not finite .* first in {key}; use"):
        read_weight_file(path, "checkpoint")


def test_largest_values_empty_tensors_and_integers_are_finite():
    largest = torch.tensor([-1, 1]) * torch.finfo(torch.float16).max
    check_finite({"a": largest.half(), "b": [torch.empty(0), (torch.arange(3), "text", None)]}, "x")
    check_finite({"a": torch.tensor([1.0]).to(torch.float8_e4m3fn)}, "x")


def test_only_the_part_that_is_used_must_be_finite(tmp_path):
    torch.save({"state": STATE, "losses": torch.tensor([torch.nan])}, tmp_path / "x.pt")
    assert read_weight_file(tmp_path / "x.pt", "x", lambda content: content["state"]).keys() == STATE.keys()


@pytest.mark.parametrize("kind", ["foreign safetensors", "legacy"])
def test_file_without_a_checksum_is_read_and_said_once(tmp_path, caplog, kind):
    path = write(tmp_path, kind)
    path.with_name(f"{path.name}.sha256").unlink()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(read_weight_file(path, "checkpoint")["a.weight"], WEIGHT)
    (record,) = caplog.records
    assert f"checkpoint {path} has no checksum" in record.getMessage()
    assert f"with sha256sum {path.name} > {path.name}.sha256 beside it" in record.getMessage()


def test_file_beside_it_that_holds_no_sum_is_refused(tmp_path):
    path = write(tmp_path, "zip")
    (tmp_path / "x.pth.sha256").write_text("")
    with pytest.raises(ValueError, match="is not the file whose SHA-256 is in x.pth.sha256 beside it"):
        read_weight_file(path, "checkpoint")


def test_remedy_of_the_caller_is_said(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="cannot be read as weights: .*; pass another folder\\.$"):
        read_weight_file(tmp_path / "x.pt", "checkpoint", remedy="pass another folder")


def test_mapped_file_is_checked_too(tmp_path):
    path = write(tmp_path, "zip")
    assert torch.equal(read_weight_file(path, "checkpoint", mmap=True)["a.weight"], WEIGHT)
    flip_bit(path, path.read_bytes().index(WEIGHT.numpy().tobytes()) + 3)
    with pytest.raises(ValueError, match="is damaged"):
        read_weight_file(path, "checkpoint", mmap=True)


def test_other_programs_read_the_safetensors_that_are_written(tmp_path):
    path = write(tmp_path, "safetensors")
    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "pt"
        assert len(file.metadata()[TENSORS_SUM]) == 64
        assert (file.get_tensor("a.weight") == WEIGHT.numpy()).all()


def test_safetensors_can_be_read_by_those_who_can_read_other_files(tmp_path):
    (tmp_path / "other").touch()
    assert write(tmp_path, "safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_no_flipped_bit_of_the_zip_directory_changes_a_weight_unnoticed(tmp_path):
    """There an entry can be marked as a folder, of which torch would give whatever lies in memory."""
    path = tmp_path / "x.pth"
    torch.save({"a": WEIGHT[:8]}, path)
    whole = path.read_bytes()
    begin = whole.index(b"PK\x01\x02")
    for place in range(8 * begin, 8 * len(whole)):
        path.write_bytes(whole)
        flip_bit(path, place // 8, place % 8)
        try:
            content = read_weight_file(path, "checkpoint")
        except ValueError:
            continue
        assert torch.equal(content["a"], WEIGHT[:8]), place


def test_file_that_was_saved_without_checksums_is_refused_with_what_helps(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(ValueError, match=r"x.pth was saved without checksums; save it anew with .*set_crc32_options"):
        read_weight_file(tmp_path / "x.pth", "checkpoint")


def test_cut_file_is_no_file_without_a_checksum(tmp_path, caplog):
    path = write(tmp_path, "zip")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match="x.pth cannot be read as weights: File is not a zip file"):
        read_weight_file(path, "checkpoint")
    assert not caplog.records
