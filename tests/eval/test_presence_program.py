"""The program that calibrates presence: what it writes and prints, and what it refuses."""

import json
import logging

import pytest
import torch
from comparing import settings_of
from conftest import TINY
from PIL import Image

from eval.presence.__main__ import main
from scripts.data.phantoms import write_phantom_dataset
from scripts.networks.student import load_trained_student
from scripts.networks.tinyusfm import TinyUSFMSeg


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Twelve phantoms for validation; in every second the tissue is black, and so is its mask."""
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    write_phantom_dataset(folder, num_training=2, num_validation=12, num_test=2, size=64)
    lists = json.loads((folder / "dataset.json").read_text())
    for number, entry in enumerate(lists["validation"]):
        entry["patient"] = number
        if number % 2:
            for key in ("image", "label"):
                picture = Image.open(folder / entry[key])
                # the number keeps two black images from being the same file
                Image.new("L", picture.size, number if key == "image" else 0).save(folder / entry[key])
    (folder / "dataset.json").write_text(json.dumps(lists))
    return folder


@pytest.fixture
def student(tmp_path):
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "student.pt")
    return tmp_path / "student.pt"


def words(overrides, dataset, **changes):
    settings = {**settings_of(overrides), "data::dataset_dir": str(dataset), **changes}
    left_out = ("bundle_root", "model_file", "run_folder::root")
    return [text for key, value in settings.items() if key not in left_out for text in (f"--{key}", repr(value))]


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_output_is_the_student_with_its_presence(overrides, dataset, student, tmp_path, caplog, suffix):
    before, output = student.read_bytes(), tmp_path / f"new{suffix}"
    options = ["--checkpoint", str(student), "--output", str(output), "--keep", "0.8"]
    with caplog.at_level(logging.INFO):
        assert main([*options, *words(overrides, dataset)]) == 0
    printed = "\n".join(record.getMessage() for record in caplog.records if record.name == "scripts.screen")
    assert "12 images, 6 with a lesion and 6 without; patients left out in turn:" in printed
    assert "to keep 80% of the lesions: kept 5 of 6, left empty" in printed
    assert "warning: images without a lesion of 6 patients alone" in printed
    assert printed.endswith(f"wrote {output}")
    assert student.read_bytes() == before
    old = load_trained_student(TinyUSFMSeg(img_size=64, **TINY), student).eval()
    new = load_trained_student(TinyUSFMSeg(img_size=64, **TINY), output).eval()
    assert torch.equal(new.neck.projections[0].weight, old.neck.projections[0].weight)
    black, lesion = torch.zeros(1, 1, 64, 64), torch.rand(1, 1, 64, 64)
    assert new.detect(black)[1] < new.presence.threshold
    assert torch.isfinite(new.detect(lesion)[1]).all()
    again = ["--checkpoint", str(output), "--output", str(tmp_path / f"again{suffix}"), "--keep", "0.8"]
    assert main([*again, *words(overrides, dataset)]) == 0
    third = load_trained_student(TinyUSFMSeg(img_size=64, **TINY), tmp_path / f"again{suffix}")
    assert torch.equal(third.presence.weight, new.presence.weight)


def test_list_without_lesion_free_images_is_refused_and_says_how_to_get_some(
    overrides, phantoms, student, tmp_path, capsys
):
    output = tmp_path / "new.pt"
    assert main(["--checkpoint", str(student), "--output", str(output), *words(overrides, phantoms)]) == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("presence: the list has 0 of 2 images without a lesion")
    assert "add some to it with python -m scripts.make_datalist --lesion_free DIR" in line
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "student.pt"], "--output student.pt is the --checkpoint itself; choose another file"),
        (["--output", "there.pt"], "--output there.pt exists; choose another file, or pass --overwrite"),
        (["--output", "new.onnx"], "--output new.onnx must end with .pt, .pth, .safetensors"),
        (["--output", "new.pt", "--checkpoint", "gone.pt"], "--checkpoint gone.pt does not exist"),
        (["--output", "new.pt", "--keep", "95"], "--keep must be between 0 and 1, got 95"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(
    overrides, dataset, student, tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.pt").touch()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert main(["--checkpoint", "student.pt", *options, *words(overrides, dataset)]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
