"""Files of weights that are damaged, of something else, or not there."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from faults.place import RUN
from faults.table import fault

from scripts.networks.tinyusfm import TinyUSFMSeg


def cut(path: Path) -> None:
    """Leave the first half of a file, as a download that broke off does."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_bit(path: Path) -> None:
    """Change the highest bit of an exponent in the largest tensor of what torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    name_size, extra_size = (int.from_bytes(content[at : at + 2], "little") for at in entry_sizes(entry.header_offset))
    start = entry.header_offset + 30 + name_size + extra_size
    content[start + entry.file_size // 8 * 4 + 3] ^= 0x40
    path.write_bytes(content)


def entry_sizes(header: int) -> tuple[int, int]:
    """Where a zip's entry says how long its name and its extra field are."""
    return header + 26, header + 28


def spoil(path: Path) -> None:
    """Write one nan into a file of weights."""
    state = torch.load(path, weights_only=True)
    name = next(name for name, value in state.items() if isinstance(value, torch.Tensor) and value.is_floating_point())
    state[name].view(-1)[0] = float("nan")
    torch.save(state, path)


@fault("checkpoint", "a student's file that is cut off in the middle", "inference", r"cut\.pt cannot be read")
def cut_off(place):
    place.images("a.png")
    cut(place.shared_student("cut.pt"))
    yield place.inference("--checkpoint", "cut.pt")


@fault(
    "checkpoint", "one flipped bit in a student's file", "evaluation", r"student\.pt.*(damaged|changed|CRC|checksum)"
)
def flipped_bit(place):
    flip_bit(place.tiny_student("student.pt"))
    yield place.evaluation()


@fault("checkpoint", "weights that are nan", "export", r"nan\.pt.*(finite|nan)")
def not_finite(place):
    spoil(place.shared_student("nan.pt"))
    yield [
        "-m",
        "scripts.export",
        "--checkpoint",
        "nan.pt",
        "--output",
        "export",
        "--formats",
        "safetensors",
        "--num_images",
        "2",
    ]


@fault("checkpoint", "a student of three classes for two", "inference", r"three\.pt segments 3 classes.*num_classes 3")
def other_classes(place):
    place.images("a.png")
    torch.save(TinyUSFMSeg(num_classes=3).state_dict(), place / "three.pt")
    yield place.inference("--checkpoint", "three.pt")


@fault(
    "checkpoint", "a teacher's adapter as the student", "training", r"adapter\.pth is a LoRA adapter.*lora_checkpoint"
)
def adapter_as_student(place):
    yield place.training("--student::checkpoint", "adapter.pth")


@fault("checkpoint", "an empty file", "training", r"empty\.pt cannot be read|empty\.pt .*is empty")
def empty(place):
    (place / "empty.pt").touch()
    yield place.training("--student::checkpoint", "empty.pt")


@fault("checkpoint", "a file that is not there", "evaluation", r"student::checkpoint nowhere\.pt does not exist")
def missing(place):
    yield place.evaluation("--student::checkpoint", "nowhere.pt")


@fault(
    "checkpoint",
    "a presence threshold for a student that does not tell presence",
    "inference",
    r"presence_threshold is 0\.2, but .*gives no presence probability",
)
def threshold_without_presence(place):
    place.images("a.png")
    yield place.inference("--presence_threshold", "0.2")


@fault("checkpoint", "a cut off last.pt, from which a run shall go on", "training, resumed", r"last\.pt cannot be read")
def cut_off_last(place):
    place.begun_run()
    cut(place / RUN / "models" / "last.pt")
    yield place.training("--training::resume", RUN, "--training::num_epochs", "3")
