"""The student by from_pretrained: in folders and in the hub's cache, offline, with the checks of all weight files."""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from bundles import NAME, make_repository
from conftest import ROOT

from scripts.api.student import load
from scripts.networks.student import TEST_SIZE
from scripts.share.bundle import write_hub_folder
from scripts.share.pretrained import StudentForSegmentation
from scripts.share.pretrained_files import find_pretrained, is_repository, read_config
from scripts.utils.weight_files import TENSORS_SUM

SHARED = ROOT / "models" / "model.safetensors"
PAGE = ROOT / "docs" / "sharing.md"
COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 before the start."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(params=[2, 3])
def student(request) -> StudentForSegmentation:
    """A tiny student that finds something."""
    torch.manual_seed(0)
    network = StudentForSegmentation(TEST_SIZE, request.param, 64, ["nerve", "vessel"][: request.param - 1]).eval()
    with torch.no_grad():
        network.decode_head.conv_seg.weight.mul_(50)
        network.decode_head.conv_seg.bias -= network(images()).mean(dim=(0, 2, 3))
    return network


def images() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def saved(student: StudentForSegmentation, folder: Path) -> Path:
    student.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_saved_student_comes_back_bit_by_bit(student, tmp_path, capsys):
    student.add_presence().threshold.fill_(0.5)
    folder = saved(student, tmp_path / "student")
    other = StudentForSegmentation.from_pretrained(folder)
    assert not other.training
    assert other.class_names == student.class_names
    assert torch.equal(other(images()), student(images()))
    assert other.state_dict().keys() == student.state_dict().keys()
    assert json.loads((folder / "config.json").read_text()) == {
        "model_name": TEST_SIZE,
        "num_classes": len(student.class_names) + 1,
        "img_size": 64,
        "class_names": student.class_names,
    }
    assert capsys.readouterr().out == ""
    again = saved(other, tmp_path / "again")
    assert (again / "config.json").read_bytes() == (folder / "config.json").read_bytes()


def test_package_segments_with_the_same_student(student, tmp_path):
    folder = saved(student, tmp_path / "student")
    image = (255 * images()[0, 0].numpy()).astype(np.uint8)
    result = load(folder, engine="torch").segment(image)
    with torch.inference_mode():
        logits = student(torch.from_numpy(image / np.float32(255))[None, None])[0]
    expected = logits[0] > 0 if len(logits) == 1 else logits.argmax(0)
    assert 0 < expected.float().mean() < 1
    assert np.array_equal(result.mask, expected.numpy())
    assert {lesion.name for lesion in result.lesions} <= set(student.class_names)
    assert load(folder, engine="torch", class_names=["x", "y"][: len(student.class_names)]).class_names[0] == "x"


def test_card_of_a_saved_student_can_be_read(student, tmp_path):
    card = huggingface_hub.ModelCard.load(saved(student, tmp_path / "student") / "README.md")
    assert card.data.library_name == "monai"
    assert {"ultrasound", "pytorch_model_hub_mixin"} <= set(card.data.tags)
    assert 'StudentForSegmentation.from_pretrained("OWNER/NAME")' in card.text


def test_student_of_the_hubs_cache_is_found_without_the_hub(student, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "models--owner--name"
    saved(student, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    other = StudentForSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")
    assert torch.equal(other.neck.projections[0].weight, student.neck.projections[0].weight)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert load("owner/name", engine="torch").class_names == student.class_names
    (folder / "snapshots" / COMMIT / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"owner/name has no model.safetensors; expected what save_pretrained"):
        StudentForSegmentation.from_pretrained("owner/name", cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("call", [StudentForSegmentation.from_pretrained, load])
def test_repository_that_is_not_there_is_one_line(call):
    with pytest.raises(OSError) as error:
        call("owner/gone")
    assert re.fullmatch(
        r"owner/gone is no folder here, and the Hugging Face Hub does not give it \(.+\); correct the name, .*folder\.",
        str(error.value),
    )


def test_names_that_are_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_repository("owner/name")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in (
        "a/b",
        "a/gone",
        Path("owner/name"),
        "models/model.pt",
        "name",
        "/a/b",
        "./a",
        "a/b/c",
        "",
        "../a",
        "https://x/y",
    ):
        assert not is_repository(name)
    with pytest.raises(FileNotFoundError, match="^gone is neither a folder nor OWNER/NAME of a model on the Hugging"):
        find_pretrained("gone")


def change(folder: Path, **values) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


CHANGES = [
    (lambda f: (f / "config.json").unlink(), "has no config.json; expected what save_pretrained or"),
    (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors; expected what save_pretrained or"),
    (lambda f: (f / "config.json").write_text("{"), r"config.json cannot be read as JSON \(.*\); copy or download"),
    (lambda f: (f / "config.json").write_text("[1]"), "config.json is not that of a student, since it has no model_n"),
    (lambda f: change(f, img_size=...), "config.json is not that of a student, since it has no img_size; expected"),
    (lambda f: change(f, img_size=128), "img_size is 128 by config.json or the call, but the weights .* have 64; take"),
    (lambda f: change(f, num_classes=4, class_names=None), "num_classes is 4 by config.json or the call, but the"),
    (lambda f: change(f, class_names=["a"] * 5), "class_names must name the . classes without the background"),
    (flip, "model.safetensors is damaged: the SHA-256 of its tensors is not the one in it; copy or download it again"),
    (lambda f: (f / "model.safetensors").write_bytes(b"weights"), "model.safetensors cannot be read as weights"),
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_folder_that_is_not_whole_is_refused_in_one_line(student, tmp_path, number):
    folder, (spoil, message) = saved(student, tmp_path / "student"), CHANGES[number]
    spoil(folder)
    for call in (StudentForSegmentation.from_pretrained, lambda f: load(f, engine="torch")):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            call(folder)
        assert "\n" not in str(error.value)


def test_weights_of_another_size_and_arguments_that_do_not_fit_are_refused(student, tmp_path):
    folder = saved(student, tmp_path / "student")
    with pytest.raises(ValueError, match="img_size is 32 by config.json or the call, but the weights"):
        StudentForSegmentation.from_pretrained(folder, img_size=32)
    with pytest.raises(TypeError, match="unexpected keyword argument 'strict'"):
        StudentForSegmentation.from_pretrained(folder, strict=False)
    with pytest.raises(ValueError, match="model_name must be one of TinyUSFM_Seg, got 'vit'"):
        StudentForSegmentation("vit")


OFFLINE = """
import socket, sys
def refuse(*arguments): raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
import numpy, sam_tinyusfm.api.student
sam_tinyusfm.api.student.installed = lambda engine: False  # torch, at once
exec(compile(sys.stdin.read(), "card and page", "exec"))
shared = sam_tinyusfm.load(engine="torch")
names = sys.argv[1], "my_student"
for one in (sam_tinyusfm.load(name, engine="torch") for name in names):
    assert numpy.array_equal(one.segment("image.png").mask, shared.segment("image.png").mask)
image = torch.rand(1, 1, 224, 224)
with torch.inference_mode():
    for one in (StudentForSegmentation.from_pretrained(name) for name in names):
        assert torch.equal(one(image), shared.engine.network.cpu()(image))
"""


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_file(), reason="models/model.safetensors is not there")
def test_examples_of_card_and_page_run_on_the_hub_folder_offline(tmp_path):
    from PIL import Image

    pytest.importorskip("cyclonedx", reason="the SBOM needs the extra sign")
    folder = write_hub_folder(make_repository(tmp_path / "bundle", models=True), tmp_path / "hub", repo="me/mine")
    text = huggingface_hub.ModelCard.load(folder / "README.md").text
    examples = re.findall(r"```python\n(.*?)```", text[: text.index("## The model")], re.S)
    section = PAGE.read_text().split("### from_pretrained")[1].split("\n## ")[0]
    examples += map(textwrap.dedent, re.findall(r"```python\n(.*?)```", section, re.S))
    assert len(examples) == 4
    code = "\n".join(examples).replace("OWNER/NAME", "me/mine")
    assert code.count('"me/mine"') == 4
    shutil.copy(SHARED.with_suffix(".pt"), tmp_path / "best.pt")
    with Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120), dtype=np.uint8)) as picture:
        picture.save(tmp_path / "image.png")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts" / "api"), "HF_HUB_OFFLINE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "SAM_TINYUSFM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder)],
        input=code.replace("me/mine", str(folder)),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "(90, 120)" in done.stdout


@pytest.fixture
def hub_folder(tmp_path) -> Path:
    pytest.importorskip("cyclonedx", reason="the SBOM needs the extra sign")
    return write_hub_folder(make_repository(tmp_path / "bundle"), tmp_path / "hub")


def test_front_matter_says_where_the_student_comes_from(hub_folder):
    data = huggingface_hub.ModelCard.load(hub_folder / "README.md").data
    assert data.base_model == ["wanglab/medsam-vit-base"]
    assert data.datasets == ["busbra"]
    results = {result.metric_type: result for result in data.eval_results}
    assert results["dice"].metric_value == 0.8598
    assert {result.dataset_type for result in results.values()} == set(data.datasets)
    built = huggingface_hub.ModelCardData(**data.to_dict() | {"model_name": NAME})  # checks itself
    assert built.to_dict() == data.to_dict()


def test_hub_folder_has_the_config_of_the_inference_config(hub_folder):
    assert read_config(hub_folder) == {
        "model_name": "TinyUSFM_Seg",
        "num_classes": 2,
        "img_size": 224,
        "class_names": ["lesion"],
    }
    shared = hub_folder / "models" / "model.safetensors"
    assert (hub_folder / "model.safetensors").read_bytes() == shared.read_bytes()


def test_card_without_a_shared_teacher_names_no_base_model(tmp_path):
    pytest.importorskip("cyclonedx", reason="the SBOM needs the extra sign")
    bundle = make_repository(tmp_path / "bundle")
    (bundle / "configs" / "shared_teacher.json").write_text("{}")
    folder = write_hub_folder(bundle, tmp_path / "hub")
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.base_model is None


@pytest.mark.skipif(
    not (ROOT / "models" / "model.safetensors").is_file(), reason="models/model.safetensors is not there"
)
def test_shared_weights_have_the_sum_that_is_checked():
    from safetensors import safe_open

    with safe_open(SHARED, "pt") as file:
        assert TENSORS_SUM in file.metadata()
