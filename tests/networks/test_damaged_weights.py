"""Every reader of weights refuses a file with one flipped bit, or with a value that is not finite."""

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from scripts.convert_adapter import convert_adapter
from scripts.handlers import Checkpoints
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.lite_medsam import build_lite_medsam, load_lite_medsam
from scripts.networks.sam import build_sam, load_sam_checkpoint
from scripts.networks.student import load_student, load_trained_student
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.utils.weight_files import save_safetensors


def student():
    return TinyUSFMSeg(num_classes=2, img_size=64, **TINY)


def resume(path):
    Checkpoints(path.parent, student(), None, {}, resume=path)._read()


READERS = {
    "a student to start from": (load_student, student, "x.pt"),
    "a trained student": (load_trained_student, student, "x.pt"),
    "a trained student as safetensors": (load_trained_student, student, "x.safetensors"),
    "a SAM base": (load_sam_checkpoint, lambda: build_sam("vit_test", 64), "x.pth"),
    "a LiteMedSAM base": (load_lite_medsam, build_lite_medsam, "x.pth"),
    "a checkpoint to resume from": (lambda network, path: resume(path), student, "last.pt"),
}


def write(state, path):
    (save_safetensors if path.suffix == ".safetensors" else torch.save)(state, path)


def flip_bit(path, tensor):
    """Flip the highest bit of the exponent of a tensor's first value, where it lies in the file."""
    content = bytearray(path.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 3] ^= 1 << 6
    path.write_bytes(content)


def largest(state):
    return max((key for key in state if state[key].dtype == torch.float32), key=lambda key: state[key].numel())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", ["damaged", "not finite"])
def test_file_is_refused_and_nothing_is_loaded(tmp_path, reader, fault):
    load, build, name = READERS[reader]
    network, path = build(), tmp_path / name
    state = {key: value.clone() for key, value in network.state_dict().items()}
    key, before = largest(state), {key: value.clone() for key, value in state.items()}
    if fault == "not finite":
        state[key].view(-1)[5] = torch.nan
    write({"network": state} if "resume" in reader else state, path)
    if fault == "damaged":
        flip_bit(path, state[key])
    with pytest.raises(ValueError, match=f"{path} .*{fault}"):
        load(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["a .pth file", "a peft folder"])
@pytest.mark.parametrize("fault", ["damaged", "not finite"])
def test_adapter_is_refused(tmp_path, lora_checkpoint, sam_checkpoint, kind, fault):
    state = torch.load(lora_checkpoint, weights_only=True)
    path = tmp_path / "a.pth"
    if fault == "not finite":
        state["w_b_000"][0, 0] = torch.inf
    if kind == "a .pth file":
        torch.save(state, path)
    else:
        convert_adapter(lora_checkpoint, tmp_path / "adapter")
        path = tmp_path / "adapter" / "adapter_model.safetensors"
        if fault == "not finite":
            tensors = load_file(path)
            next(tensor for key, tensor in tensors.items() if "lora_A" in key)[0, 0] = torch.inf
            save_safetensors(tensors, path)
    if fault == "damaged":
        flip_bit(path, state["w_a_000"])
    with pytest.raises(ValueError, match=f"teacher::lora_checkpoint {path.parent}.*{fault}"):
        FrozenTeacher("vit_test", img_size=64, lora_checkpoint=str(path), sam_checkpoint=str(sam_checkpoint))
    with pytest.raises(ValueError, match=f"SOURCE .*{fault}"):
        convert_adapter(path, tmp_path / "out.pth", half=True)
    assert not (tmp_path / "out.pth").exists()
