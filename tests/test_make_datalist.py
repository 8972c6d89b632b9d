"""Datalists from a BUS-BRA download and from plain folders: the splits, and every refusal."""

import json
import shutil
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from conftest import ROOT, SHARED
from PIL import Image
from scipy.ndimage import gaussian_filter

from scripts.data.datalist import SegmentationData
from scripts.make_datalist import main

NATIVE = SHARED / "busbra_native"


def save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24)).astype(np.uint8)).save(path)


@pytest.fixture
def busbra(tmp_path):
    """A BUS-BRA download of 20 patients with a left and a right image, half of them malignant."""
    folder = tmp_path / "BUSBRA"
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for patient in range(1, 21):
        pathology = "malignant" if patient % 2 else "benign"
        for side in ("left", "right"):
            name = f"{patient:04d}-{side[0]}"
            save(folder / "Images" / f"bus_{name}.png", 2 * patient + len(side) % 2)
            mask = Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 255).convert("1")
            (folder / "Masks").mkdir(exist_ok=True)
            mask.save(folder / "Masks" / f"mask_{name}.png")
            rows.append(f'bus_{name},{patient},carcinoma,{pathology},4,GE,24,20,{side},"[1,2,3,4]"')
    (folder / "bus_data.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def plain(tmp_path):
    """images/ and masks/ of ten patients with two images each."""
    folder = tmp_path / "plain"
    for number in range(20):
        save(folder / "images" / f"p{number // 2}_{number % 2}.png", number)
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.eye(20, 24, dtype=np.uint8)).save(folder / "masks" / f"p{number // 2}_{number % 2}.png")
    return folder


def run(folder, *options, output="dataset.json"):
    code = main(["--dataset_dir", str(folder), "--output", str(folder / output), *map(str, options)])
    return code, json.loads((folder / output).read_text()) if (folder / output).exists() else None


def refused(capsys, folder, *options, output="dataset.json"):
    """The message of a run that must fail and write nothing."""
    before = sorted(folder.rglob("*"))
    assert main(["--dataset_dir", str(folder), "--output", str(folder / output), *map(str, options)]) == 1
    assert sorted(folder.rglob("*")) == before
    return capsys.readouterr().err


def patients(content, split):
    return {item["patient"] for item in content[split]}


def test_busbra_is_split_by_patient_and_stratified_by_pathology(busbra):
    code, content = run(busbra)
    assert code == 0
    assert [len(patients(content, split)) for split in ("training", "validation", "test")] == [14, 2, 4]
    assert [content[f"num{split}"] for split in ("Training", "Validation", "Test")] == [28, 4, 8]
    for split in ("training", "validation", "test"):
        malignant = sum(item["pathology"] == "malignant" for item in content[split])
        assert malignant == len(content[split]) / 2


def test_busbra_datalist_is_accepted_as_it_is(busbra):
    _, content = run(busbra)
    data = SegmentationData(busbra)
    assert data.labels == ["background", "lesion"]
    assert data.name == "BUSBRA"
    first = content["training"][0]
    assert first["label"] == first["image"].replace("Images/bus_", "Masks/mask_")
    assert set(first) == {"image", "label", "patient", "pathology", "birads", "device", "side"}
    assert isinstance(first["patient"], int)
    assert first["birads"] == 4


def test_the_seed_fixes_the_split(busbra):
    _, one = run(busbra, output="a.json")
    _, two = run(busbra, output="b.json")
    _, other = run(busbra, "--seed", 1, output="c.json")
    assert one == two != other


def test_shared_busbra_native_works(tmp_path):
    if not NATIVE.is_dir():
        pytest.skip("the shared data set busbra_native is not there")
    output = tmp_path / "native.json"
    assert main(["--dataset_dir", str(NATIVE), "--output", str(output)]) == 0
    data = SegmentationData(NATIVE, datalist=str(output))
    assert len(data.training) + len(data.validation) + len(data.test) == 63
    reference = {item["image"]: item for item in json.loads((NATIVE / "dataset.json").read_text())["training"]}
    for item in json.loads(output.read_text())["training"]:
        assert item.items() <= reference[item["image"]].items()


def test_folders_find_the_patient_in_the_name(plain):
    code, content = run(plain, "--format", "folders", "--patient_regex", r"^(p\d+)_", "--name", "mine")
    assert code == 0
    assert content["name"] == "mine"
    assert [len(content[split]) for split in ("training", "validation", "test")] == [14, 2, 4]
    assert not patients(content, "training") & (patients(content, "validation") | patients(content, "test"))
    assert len(SegmentationData(plain).training) == 14


def test_without_an_expression_patients_are_not_told_apart_and_it_says_so(plain, capsys):
    (plain / "masks").rename(plain / "labels")
    _, content = run(plain, "--format", "folders")
    assert [len(content[split]) for split in ("training", "validation", "test")] == [14, 2, 4]
    assert set(content["training"][0]) == {"image", "label"}
    assert content["training"][0]["label"].startswith("labels/")
    assert "warning: patients were not told apart" in capsys.readouterr().out
    run(plain, "--format", "folders", "--patient_regex", r"^p\d+", output="b.json")
    assert "told apart" not in capsys.readouterr().out


def test_expression_sees_the_subfolders(plain):
    for path in [*(plain / "images").iterdir(), *(plain / "masks").iterdir()]:
        home = path.parent / path.name.partition("_")[0]
        home.mkdir(exist_ok=True)
        path.rename(home / path.name)
    _, content = run(plain, "--format", "folders", "--recursive", "--patient_regex", "^(.+)/")
    assert patients(content, "training") | patients(content, "validation") | patients(content, "test") == {
        f"p{number}" for number in range(10)
    }


def test_suffixes_of_image_and_mask_may_differ(plain):
    for path in (plain / "masks").iterdir():
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    _, content = run(plain, "--format", "folders")
    assert content["training"][0]["label"].endswith(".bmp")


def test_no_test_split_when_none_is_asked_for(plain):
    code, content = run(plain, "--format", "folders", "--test", 0)
    assert code == 0
    assert content["test"] == []


def test_class_names_are_written(plain):
    _, content = run(plain, "--format", "folders", "--num_classes", 3, "--labels", "background, nerve,vessel")
    assert content["labels"] == {"0": "background", "1": "nerve", "2": "vessel"}
    _, content = run(plain, "--format", "folders", "--num_classes", 3, output="b.json")
    assert content["labels"]["2"] == "class 2"


@pytest.mark.parametrize("seed", range(5))
def test_identical_images_of_different_patients_stay_together(plain, seed):
    for number in (3, 7):
        shutil.copy(plain / "images" / "p0_0.png", plain / "images" / f"p{number}_1.png")
    _, content = run(plain, "--format", "folders", "--patient_regex", r"^p\d+", "--seed", seed)
    homes = {
        s for s in ("training", "validation", "test") for item in content[s] if item["patient"] in {"p0", "p3", "p7"}
    }
    assert len(homes) == 1
    SegmentationData(plain)


def test_patients_all_linked_by_identical_images_cannot_be_split(plain, capsys):
    for path in (plain / "images").glob("*_1.png"):
        shutil.copy(plain / "images" / "p0_0.png", path)
    message = refused(capsys, plain, "--format", "folders", "--patient_regex", r"^p\d+")
    assert "20 images of 1 separate patients leave the split validation empty" in message


def test_image_without_mask_is_refused(busbra, plain, capsys):
    (plain / "masks" / "p3_1.png").unlink()
    message = refused(capsys, plain, "--format", "folders")
    assert "p3_1.png has no mask p3_1.* (1 of 20 images have none)" in message
    (busbra / "Masks" / "mask_0003-l.png").unlink()
    assert "bus_0003-l.png has no mask mask_0003-l.*" in refused(capsys, busbra)


def test_what_is_left_out_is_counted(plain, capsys):
    save(plain / "masks" / "q1.png", 50)
    for name in ("a.webp", "b.webp", "old/c.png"):
        (plain / "images" / name).parent.mkdir(exist_ok=True)
        (plain / "images" / name).touch()
    run(plain, "--format", "folders")
    shown = capsys.readouterr().out
    assert "4 passed over: 2 .webp, 1 in subfolders, 1 masks without an image\n" in shown
    assert "masks without an image: masks/q1.png\n" in shown


@pytest.fixture
def several(plain):
    """p0_0 has two masks, p1_0 a JPEG and p2_0 a red one."""
    lesion = np.zeros((20, 24), np.uint8)
    lesion[12:, 16:] = 255
    Image.fromarray(lesion).save(plain / "masks" / "p0_0_1.png")
    (plain / "masks" / "p1_0.png").unlink()
    Image.fromarray(lesion).save(plain / "masks" / "p1_0.jpg", quality=50)
    Image.fromarray(lesion[..., None] * np.array([1, 0, 0], np.uint8)).save(plain / "masks" / "p2_0.png")
    return plain


def test_several_masks_are_refused_with_the_option_that_merges_them(several, capsys):
    message = refused(capsys, several, "--format", "folders")
    assert (
        "1 of 20 images have several masks (p0_0.png, p0_0_1.png); pass --clean_masks DIR to write one mask" in message
    )
    (several / "masks" / "p0_0_1.png").unlink()
    assert "2 of 20 masks are colored or compressed (p1_0.jpg); pass --clean_masks" in refused(
        capsys, several, "--format", "folders"
    )


def test_cleaned_masks_are_used_and_the_others_stay(several, capsys):
    code, content = run(several, "--format", "folders", "--clean_masks", "clean")
    assert code == 0
    labels = {item["image"]: item["label"] for split in ("training", "validation", "test") for item in content[split]}
    cleaned = {image: label for image, label in labels.items() if label.startswith("clean/")}
    assert cleaned == {f"images/p{n}_0.png": f"clean/p{n}_0.png" for n in range(3)}
    merged = np.asarray(Image.open(several / "clean" / "p0_0.png"))
    assert (merged[12:, 16:] == 255).all()
    assert merged[0, 0] == 255
    assert "3 masks written to" in capsys.readouterr().out
    SegmentationData(several)


def test_folder_of_cleaned_masks_is_not_read_and_not_overwritten(several, capsys):
    run(several, "--format", "folders", "--clean_masks", "masks/clean")
    assert "is not empty; pass --overwrite" in refused(
        capsys, several, "--format", "folders", "--clean_masks", "masks/clean", output="b.json"
    )
    code, content = run(several, "--format", "folders", "--clean_masks", "masks/clean", "--overwrite")
    assert (code, sum(len(content[split]) for split in ("training", "validation", "test"))) == (0, 20)
    assert "passed over" not in capsys.readouterr().out
    for folder in ("../elsewhere", str(several.parent)):
        assert "must be a folder in --dataset_dir" in refused(
            capsys, several, "--format", "folders", "--clean_masks", folder, output="b.json"
        )


def test_colors_of_classes_are_checked(several, capsys):
    for colors in ("000000", "000000,red", "000000,ff0000,00ff00"):
        assert "--mask_colors must hold 2 colors such as" in refused(
            capsys, several, "--format", "folders", "--mask_colors", colors
        )


def test_values_that_are_no_classes_are_refused(plain, capsys):
    Image.fromarray(np.eye(20, 24, dtype=np.uint8) * 7).save(plain / "masks" / "p3_0.png")
    message = refused(capsys, plain, "--format", "folders")
    assert "p3_0.png holds the values 0, 7; expected 0 and 1, or 0 and 255, for --num_classes 2" in message


def test_class_that_no_mask_shows_is_told(plain, capsys):
    run(plain, "--format", "folders", "--num_classes", 3, "--labels", "background,nerve,vessel")
    assert "warning: No mask of any list shows class 2 (vessel)" in capsys.readouterr().out


def test_picture_in_another_encoding_stays_in_the_same_list_and_is_told(plain, capsys):
    speckle = gaussian_filter(np.random.default_rng(99).random((20, 24)), 1)
    picture = Image.fromarray(np.uint8(255 * (speckle - speckle.min()) / np.ptp(speckle)))
    for number, suffix in enumerate((".jpg", ".bmp", ".png")):
        name = f"p{number}_0"
        (plain / "images" / f"{name}.png").unlink()
        picture.save(plain / "images" / (name + suffix))
    for seed in range(5):
        _, content = run(plain, "--format", "folders", "--seed", seed, "--overwrite")
        homes = [s for s in content if isinstance(content[s], list) for i in content[s] if i["image"][7:11] == "p0_0"]
        others = [s for s in content if isinstance(content[s], list) for i in content[s] if i["image"][7:11] == "p2_0"]
        assert homes == others
    told = "images that look alike stay in one list (groups: 1): images/p0_0.jpg = images/p1_0.bmp = images/p2_0.png\n"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_table_may_come_from_windows(busbra, encoding, delimiter):
    _, content = run(busbra)
    table = busbra / "bus_data.csv"
    lines = [line.partition(',"[')[0].replace(",", delimiter) for line in table.read_text().splitlines()]
    table.write_bytes("\r\n".join(lines).encode(encoding))
    assert run(busbra, output="b.json")[1] == content


def test_table_in_another_encoding_is_named(busbra, capsys):
    table = busbra / "bus_data.csv"
    table.write_bytes(table.read_text().replace("carcinoma", "carcinôma").encode("cp1252"))
    assert "bus_data.csv is no UTF-8 text (" in refused(capsys, busbra)


def test_linked_images_are_told_to_the_training(plain, tmp_path, capsys):
    (plain / "images").rename(tmp_path / "storage")
    (plain / "images").symlink_to(tmp_path / "storage")
    run(plain, "--format", "folders")
    assert capsys.readouterr().out.rstrip().endswith("dataset.json --data::allow_outside true")
    with pytest.raises(ValueError, match="leads out of data::dataset_dir"):
        SegmentationData(plain)
    SegmentationData(plain, allow_outside=True)


def test_existing_output_is_kept_without_overwrite(plain, capsys):
    (plain / "dataset.json").write_text("{}")
    assert "exists; pass --overwrite" in refused(capsys, plain, "--format", "folders")
    assert (plain / "dataset.json").read_text() == "{}"
    assert run(plain, "--format", "folders", "--overwrite")[1]["training"]


@pytest.mark.parametrize(
    "options, message",
    [
        (("--val", 0), "--val must be above 0"),
        (("--val", 0.5, "--test", 0.5), "their sum below 1, got 0.5 and 0.5"),
        (("--val", 0.01), "leave the split validation empty"),
        (("--num_classes", 1), "--num_classes must be an integer of at least 2"),
        (("--labels", "a,b,c"), "--labels must name 2 classes"),
        (("--patient_regex", "("), "'(' is no regular expression"),
        (("--patient_regex", "^q"), "does not match the image name 'p0_0'"),
    ],
)
def test_wrong_options_are_refused(plain, capsys, options, message):
    assert message in refused(capsys, plain, "--format", "folders", *options)


def test_missing_parts_are_named(plain, busbra, tmp_path, capsys):
    assert "bus_data.csv does not exist; expected a BUS-BRA download, or pass --format folders" in refused(
        capsys, plain
    )
    assert "has no folder images or Images" in refused(capsys, tmp_path, "--format", "folders")
    assert "lies in no existing folder" in refused(capsys, plain, "--format", "folders", output="none/d.json")
    assert main(["--dataset_dir", str(tmp_path / "none"), "--output", str(tmp_path / "d.json")]) == 1
    assert "none is no folder" in capsys.readouterr().err
    shutil.rmtree(plain / "images")
    (plain / "images").mkdir()
    assert "holds no image; expected .png" in refused(capsys, plain, "--format", "folders")


def test_wrong_tables_are_refused(busbra, capsys):
    table = busbra / "bus_data.csv"
    text = table.read_text()
    table.write_text(text.replace("ID,Case", "ID,Person", 1))
    assert "has no column Case; expected BUS-BRA's ID and Case" in refused(capsys, busbra)
    table.write_text(text.replace("bus_0002-l,2,", "bus_0002-l,,"))
    assert "has no Case (patient) for bus_0002-l" in refused(capsys, busbra)
    table.write_text("\n".join(line for line in text.splitlines() if "bus_0002-l" not in line))
    assert "image bus_0002-l has no row in" in refused(capsys, busbra)


def test_two_images_of_one_name_are_refused(plain, capsys):
    save(plain / "images" / "p0_0.bmp", 99)
    assert "have the same name; expected one file a case" in refused(capsys, plain, "--format", "folders")


def test_run_needs_neither_torch_nor_monai(busbra):
    arguments = ["--dataset_dir", str(busbra), "--output", str(busbra / "dataset.json")]
    code = f"""
import sys
from scripts.make_datalist import main
assert main({arguments!r}) == 0
assert not {{"torch", "monai"}} & set(sys.modules), sorted(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (busbra / "dataset.json").is_file()


@pytest.mark.parametrize("clean", ["images", "masks", ".", "link"])
def test_files_of_the_user_are_never_written_over(plain, capsys, clean):
    second = np.zeros((20, 24), np.uint8)
    for name in ("p0_0_1.png", "p0_0_2.png"):
        Image.fromarray(second).save(plain / "masks" / name)
    (plain / "link").symlink_to(plain / "images")
    layout = ("--format", "folders")
    if clean == ".":  # images and masks side by side
        for path in (plain / "images").iterdir():
            shutil.move(path, plain / path.name)
        layout += ("--image_dir", ".")
    before = {path: path.read_bytes() for path in plain.rglob("*.png")}
    message = refused(capsys, plain, *layout, "--clean_masks", clean, "--overwrite")
    assert "--clean_masks would write over " in message
    assert "p0_0.png, a file of your data; name another place with --clean_masks" in message
    assert {path: path.read_bytes() for path in plain.rglob("*.png")} == before


def test_output_does_not_write_over_an_image(plain, capsys):
    message = refused(capsys, plain, "--format", "folders", "--overwrite", output="images/p0_0.png")
    assert "--output would write over " in message


def test_absolute_folder_of_a_relative_data_set_is_taken(several, capsys, monkeypatch):
    monkeypatch.chdir(several.parent)
    arguments = ["--dataset_dir", several.name, "--output", f"{several.name}/dataset.json", "--format", "folders"]
    assert main([*arguments, "--clean_masks", str(several / "clean"), "--image_dir", str(several / "images")]) == 0
    items = json.loads((several / "dataset.json").read_text())["training"]
    assert {item["label"].partition("/")[0] for item in items} <= {"clean", "masks"}
    assert main([*arguments, "--overwrite", "--image_dir", str(several.parent)]) == 1
    assert "--image_dir" in capsys.readouterr().err


def test_masks_of_two_colors_without_their_classes_are_refused(several, capsys):
    lesion = np.asarray(Image.open(several / "masks" / "p2_0.png"))
    Image.fromarray(lesion[..., [1, 0, 2]]).save(several / "masks" / "p3_0.png")
    message = refused(capsys, several, "--format", "folders", "--clean_masks", "clean")
    assert "p2_0.png) and 00ff00 (" in message
    assert "pass --mask_colors" in message


@pytest.fixture
def recording(plain):
    """The images are twenty frames that look alike."""
    noise = gaussian_filter(np.random.default_rng(99).random((20, 24)), 2)
    picture = np.uint8(200 * (noise - noise.min()) / np.ptp(noise))
    for number, path in enumerate(sorted((plain / "images").iterdir())):
        Image.fromarray(picture + np.uint8(number)).save(path)
    return plain


def test_recording_is_split_only_where_look_alikes_are_ignored(recording, capsys):
    message = refused(capsys, recording, "--format", "folders")
    assert "split validation empty (1 groups of images look alike, and each stays together); expected" in message
    assert "or pass --ignore_look_alikes to split them all the same" in message
    code, content = run(recording, "--format", "folders", "--ignore_look_alikes")
    assert (code, len(content["validation"])) == (0, 2)
    told = "warning: images that look alike may be in two lists (groups: 1): images/p0_0.png = images/p0_1.png"
    assert told in capsys.readouterr().out


def test_identical_files_stay_together_where_look_alikes_are_ignored(recording, capsys):
    for path in (recording / "images").iterdir():
        shutil.copy(recording / "masks" / "p0_0.png", path)
    message = refused(capsys, recording, "--format", "folders", "--ignore_look_alikes")
    assert "20 images of 1 separate patients leave" in message


def test_lists_of_a_datalist_are_checked_for_look_alikes(plain, capsys):
    _, content = run(plain, "--format", "folders")
    check = ["--dataset_dir", str(plain), "--check", str(plain / "dataset.json")]
    assert main(check) == 0
    assert "dataset.json: no images of different lists look alike\n" in capsys.readouterr().out
    first, other = (plain / content[split][0]["image"] for split in ("training", "test"))
    Image.open(first).resize((48, 40)).save(other)
    assert main(check) == 1
    message = capsys.readouterr().err
    assert "look alike in two lists (groups: 1): " in message
    assert f"{first} (training) = {other} (test); move each group to one list" in message


def test_nifti_masks_that_lie_apart_are_not_merged(plain, capsys):
    (plain / "masks" / "p0_0.png").unlink()
    for number in (1, 2):
        affine = np.diag([-0.1, -0.1, 1, 1]) + number * np.eye(4, k=3)
        nibabel.save(
            nibabel.Nifti1Image(np.eye(24, 20, dtype=np.uint8), affine), plain / "masks" / f"p0_0_{number}.nii"
        )
    message = refused(capsys, plain, "--format", "folders", "--clean_masks", "clean")
    assert "p0_0_2.nii of one image lie in different places by their affines; save both with one affine" in message
