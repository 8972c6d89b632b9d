"""The check of a data set: what it finds, what it writes, and that bad data are findings and no crash."""

import ast
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SHARED
from PIL import Image
from scipy.ndimage import gaussian_filter

from scripts.api.command import _doors
from scripts.check_data.__main__ import main
from scripts.check_data.commands import next_commands
from scripts.check_data.survey import take_survey

SIZE = 64


def picture(seed):
    """Smooth noise (SIZE, SIZE), uint8, which no other seed's looks like."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), 3)
    return np.round(255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def disk(x, y=0.5, radius=8):
    rows, columns = np.mgrid[:SIZE, :SIZE]
    return ((columns - x * SIZE) ** 2 + (rows - y * SIZE) ** 2 <= radius**2).astype(np.uint8)


class DataSet:
    """A folder that tests change before it is checked."""

    def __init__(self, folder):
        self.folder = folder
        self.content = {"labels": {"0": "background", "1": "lesion"}}

    def add(self, split, number, places=(0.2, 0.8), label=True, **columns):
        """`number` images in a list, whose lesions lie at the shares `places` of the width."""
        items = self.content.setdefault(split, [])
        for index in range(number):
            name = f"{split}{len(items)}.png"
            for kind, pixels in (
                ("images", picture(len(items) + 1000 * len(self.content))),
                ("masks", 255 * disk(places[index % len(places)])),
            ):
                (self.folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(self.folder / kind / name)
            item = {"image": f"images/{name}", "patient": f"{split}{len(items)}", **columns}
            items.append({**item, "label": f"masks/{name}"} if label else item)
        return self

    def check(self, *options):
        """Exit code, check.json and settings.json."""
        (self.folder / "dataset.json").write_text(json.dumps(self.content))
        output = self.folder / "out"
        code = main(["--dataset_dir", str(self.folder), "--output_dir", str(output), *map(str, options)])
        files = (output / "check.json", output / "settings.json")
        return code, *(json.loads(path.read_text()) if path.is_file() else None for path in files)


@pytest.fixture
def data(tmp_path):
    """24 training, 3 validation and 3 test images with spread lesions; nothing is wrong with them."""
    return DataSet(tmp_path / "mine").add("training", 24).add("validation", 3).add("test", 3)


def texts(found, level):
    return [one["text"] for one in found["findings"] if one["level"] == level]


def test_good_data_have_no_errors_and_one_page(data, capsys):
    code, found, settings = data.check()
    assert code == 0
    assert texts(found, "error") == []
    assert {split: one["images"] for split, one in found["lists"].items()} == {
        "training": 24,
        "validation": 3,
        "test": 3,
    }
    page = (data.folder / "out" / "check.html").read_text()
    assert page.count("data:image/jpeg;base64,") > 24
    assert "<script" not in page.replace("<script></script>", "")  # the frame of the report, where it is full
    assert "http" not in page.replace("http-equiv", "")
    assert "<code>distillation::whiten: true</code>" in page
    assert sorted(path.name for path in (data.folder / "out").iterdir()) == [
        "check.html",
        "check.json",
        "settings.json",
    ]
    assert str(data.folder / "out" / "settings.json") in capsys.readouterr().out


def test_figures_of_a_list(data):
    _, found, _ = data.check()
    one = found["lists"]["training"]
    assert one["width"] == {"min": SIZE, "median": SIZE, "max": SIZE}
    assert one["patients"] == one["with_lesion"] == 24
    assert one["lesion_share"]["median"] == pytest.approx(disk(0.2).mean(), rel=0.05)
    assert one["kinds"] == {"PNG, 8-bit gray": 24}


def test_it_does_without_torch(data):
    data.check()
    command = "import sys; sys.modules['torch'] = None; from scripts.check_data.__main__ import main; sys.exit(main())"
    words = ["--dataset_dir", str(data.folder), "--output_dir", str(data.folder / "out"), "--overwrite"]
    done = subprocess.run([sys.executable, "-c", command, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_broken_and_unfit_files_are_findings(data):
    os.remove(data.folder / "images" / "training0.png")
    (data.folder / "images" / "training1.png").write_bytes(b"no picture")
    Image.fromarray(disk(0.5)[:32]).save(data.folder / "masks" / "training2.png")
    Image.fromarray(3 * disk(0.5)).save(data.folder / "masks" / "training3.png")
    os.remove(data.folder / "masks" / "training4.png")
    code, found, settings = data.check()
    assert code == 1
    missing, broken = texts(found, "error")
    assert missing.startswith("Files of 2 items are missing, such as: file ")
    assert broken.startswith("Files of 3 items cannot be used, such as: file ")
    assert [len(one["cases"]) for one in found["findings"][:2]] == [2, 3]
    reasons = {one["image"]: one["reason"] for one in found["refused"]}
    assert "expected equal sizes" in reasons["images/training2.png"]
    assert "holds the values 0, 3" in reasons["images/training3.png"]
    assert found["lists"]["training"]["refused"] == 5
    assert settings["data::num_classes"] == 2


def test_items_that_are_none_are_findings(data):
    data.content["training"] += [{"image": 7}, {"image": "images/training0.png"}]
    code, found, _ = data.check()
    assert code == 1
    (error,) = texts(found, "error")
    assert "must be an object with an 'image' path, got {'image': 7}" in error
    assert error.endswith("(2 items of this list are at fault)")


def test_patient_and_image_in_two_lists_are_errors(data):
    data.content["test"][0]["patient"] = "training0"
    data.content["test"].append(data.content["training"][1])
    code, found, _ = data.check()
    assert code == 1
    assert sum("in two splits" in text for text in texts(found, "error")) == 2


def test_look_alikes_across_lists_are_an_error_and_within_one_a_note(data):
    small = Image.open(data.folder / "images" / "training0.png").resize((48, 48), Image.Resampling.LANCZOS)
    small.save(data.folder / "images" / "validation0.png")
    Image.fromarray(disk(0.2)).resize((48, 48), 0).save(data.folder / "masks" / "validation0.png")
    Image.open(data.folder / "images" / "training1.png").save(
        data.folder / "images" / "training2.png", compress_level=1
    )
    code, found, _ = data.check()
    assert code == 1
    (error,) = texts(found, "error")
    assert "images/training0.png (training) = images/validation0.png (validation)" in error
    assert any(text.startswith("Images of one list look alike (groups: 1)") for text in texts(found, "note"))
    assert len(found["look_alikes"]) == 2


def test_lesions_in_the_middle_are_told(tmp_path):
    data = DataSet(tmp_path / "narrow").add("training", 24, places=(0.45, 0.55))
    data.add("validation", 3, places=(0.5,)).add("test", 3, places=(0.5,))
    _, found, settings = data.check()
    (warning,) = (text for text in texts(found, "warning") if "a network learns to look there" in text)
    assert "if you expect lesions elsewhere, train with --augmentation::shift_fraction" in warning
    assert "No shifts are added" in _reason(found, "Augmentation")
    assert "augmentation::shift_fraction" not in settings  # they cost Dice where lesions lie in the middle


def test_spread_lesions_need_no_wider_shifts(data):
    _, found, _ = data.check()
    assert "so it needs no wider shifts" in _reason(found, "Augmentation")


def _reason(found, title):
    return next(one["reason"] for one in found["suggestions"] if one["title"] == title)


def test_images_without_a_lesion_are_counted(data):
    for number in range(4):
        Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(data.folder / "masks" / f"training{number}.png")
    _, found, _ = data.check()
    assert "4 images show no lesion." in texts(found, "note")
    assert not any("Every training image shows a lesion" in text for text in texts(found, "note"))
    assert found["lists"]["training"]["without_lesion"] == 4


def test_list_without_any_lesion_is_an_error(tmp_path):
    data = DataSet(tmp_path / "free").add("training", 4, places=(-2,)).add("validation", 2).add("test", 2)
    code, found, _ = data.check()
    assert code == 1
    assert "No training image shows a lesion" in texts(found, "error")[0]


def test_device_is_counted_with_its_brightness(data):
    for number, item in enumerate(data.content["training"]):
        item["device"] = "GE" if number else "Toshiba"
    _, found, _ = data.check()
    assert found["columns"]["device"]["Toshiba"]["images"] == {"training": 1}
    assert 0 < found["columns"]["device"]["GE"]["brightness"] < 1
    (balance,) = [one for one in found["suggestions"] if one["title"] == "Balance"]
    assert "Toshiba (1 of 24)" in balance["reason"]


def test_darker_test_images_are_told(data):
    for path in (data.folder / "images").glob("test*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 3).save(path)
    _, found, _ = data.check()
    assert any(text.startswith("The images of test have a median brightness") for text in texts(found, "warning"))


def test_flat_images_and_specks_are_told(data):
    Image.new("L", (SIZE, SIZE), 40).save(data.folder / "images" / "training5.png")
    mask = disk(0.2)
    mask[1, 1] = 1
    Image.fromarray(mask).save(data.folder / "masks" / "training6.png")
    steps = disk(0.2)
    steps[range(20), range(20)] = 1  # one line, whose pixels touch at their corners
    Image.fromarray(steps).save(data.folder / "masks" / "training7.png")
    _, found, _ = data.check()
    by_text = {one["text"]: one["cases"] for one in found["findings"]}
    assert [cases for text, cases in by_text.items() if "1 image holds one gray value" in text] == [
        ["images/training5.png"]
    ]
    assert [cases for text, cases in by_text.items() if "isolated parts" in text] == [["images/training6.png"]]


def test_names_of_other_encodings_are_findings_and_their_columns_are_shown(data):
    data.content["training"][0]["image"] = os.fsdecode(b"images/\xff.png")
    for number, item in enumerate(data.content["training"]):
        item["device"] = "\udcff" if number % 2 else "GE"
    code, found, _ = data.check()
    assert code == 1
    (error,) = texts(found, "error")
    assert "item 0 of training" in error
    assert "has a path with bytes that are no UTF-8" in error
    assert "\\udcff" in (data.folder / "out" / "check.html").read_text(encoding="utf-8")


def test_page_shows_names_as_text(data):
    name = "<img src=x onerror=alert(1)>\"&'$HOME.png"
    os.rename(data.folder / "images" / "training0.png", data.folder / "images" / name)
    data.content["training"][0]["image"] = f"images/{name}"
    data.content["labels"]["1"] = "<script>1</script>"
    for number, item in enumerate(data.content["training"]):
        item["<b>device"] = f"<i>{number % 2}"
    data.check()
    page = (data.folder / "out" / "check.html").read_text(encoding="utf-8")
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert all(text not in page for text in ("<img src=x", "<script>1", "<b>device", "<i>0"))


def test_commands_can_be_pasted_into_a_shell(data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    survey = take_survey(data.folder, data.check() and data.folder / "dataset.json")
    settings = tmp_path / "it's $HOME here" / "settings.json"
    for kind in ("distill", "tune", "pretrain", "evaluate"):
        for _, command in next_commands(kind, survey, settings):
            words = shlex.split(command)
            files = words[words.index("--config_file") + 1 :]
            assert str(settings) in (ast.literal_eval(files[0]) if files[0].startswith("[") else files)


def test_commands_of_another_folder_are_those_of_the_installed_command(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    survey = take_survey(data.folder, data.check() and data.folder / "dataset.json")
    for kind in ("distill", "tune", "pretrain", "evaluate"):
        for _, command in next_commands(kind, survey, tmp_path / "settings.json"):
            program, door, *words = shlex.split(command)
            assert program == "sam_tinyusfm"
            assert door in _doors()
            assert all(Path(word).is_file() for word in words if word.startswith(str(ROOT)))
            assert not any(word.startswith(("configs/", "models/")) for word in words)


def test_without_a_folder_it_writes_below_the_current_one(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data.check()
    assert main(["--dataset_dir", str(data.folder)]) == 0
    (page,) = tmp_path.glob("logs/check/mine/*/check.html")
    assert f"wrote {page.relative_to(tmp_path)}, check.json" in capsys.readouterr().out


def test_folder_without_a_datalist_ends_with_one_line(tmp_path, capsys):
    assert main(["--dataset_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"check_data: --datalist {tmp_path / 'dataset.json'} does not exist; build it with python -m"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset_dir", "gone"], "check_data: --dataset_dir gone is no folder."),
        (["--datalist", "images/training0.png"], "training0.png is not readable JSON"),
    ],
)
def test_bad_options_end_with_one_line(data, options, message, capsys):
    code, found, _ = data.check(*options)
    assert code == 1
    assert found is None
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_output_that_is_there_is_not_written_over(data, capsys):
    data.check()
    assert data.check()[0] == 1
    assert "exists; choose another one, or pass --overwrite" in capsys.readouterr().err
    assert data.check("--overwrite")[0] == 0


def test_single_class_is_an_error(data):
    data.content["labels"] = {"0": "background"}
    code, found, settings = data.check()
    assert code == 1
    assert "must name two classes or more" in texts(found, "error")[0]
    assert settings["data::num_classes"] == 2


def test_empty_validation_and_test_lists_are_errors(tmp_path):
    code, found, settings = DataSet(tmp_path / "mine").add("training", 4).check()
    assert code == 1
    assert [text.partition(" is empty")[0] for text in texts(found, "error")] == [
        "The list validation",
        "The list test",
    ]
    assert "training::num_epochs" in settings


def test_validation_list_alone_can_be_evaluated_on(tmp_path):
    code, found, settings = DataSet(tmp_path / "mine").add("validation", 4).check()
    assert code == 1
    assert found["plan"] == "evaluate"
    assert set(settings) == {"_desc_", "data::dataset_dir", "data::datalist", "data::num_classes"}


def test_unlabeled_images_alone_can_pretrain(tmp_path):
    code, found, settings = DataSet(tmp_path / "mine").add("unlabeled", 4, label=False).check()
    assert code == 0
    assert found["plan"] == "pretrain"
    assert any("No image has a mask" in text for text in texts(found, "warning"))
    assert "teacher::lora_checkpoint" not in settings


def test_datalist_without_images_is_an_error(data):
    data.content = {}
    code, found, _ = data.check()
    assert code == 1
    assert "lists no images" in texts(found, "error")[0]


@pytest.mark.parametrize("name", ["demo_busbra24", "usgra"])
def test_real_sets_have_no_errors(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"the shared data set {name} is not there")
    assert main(["--dataset_dir", str(SHARED / name), "--output_dir", str(tmp_path)]) == 0
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["data::img_size"] == 224
    assert ("teacher::lora_checkpoint" in settings) == (name == "demo_busbra24")
