"""Exported formats: what they compute, what is kept of them, and every refusal. The student is tiny and fitted to
phantoms.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from shutil import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY
from monai.data import MetaTensor
from torch.nn.functional import binary_cross_entropy_with_logits

from scripts.data.datalist import SegmentationData
from scripts.data.phantoms import write_phantom_dataset
from scripts.evaluation.evaluate import Arm, evaluate
from scripts.export import check as export_check
from scripts.export import formats as export_formats
from scripts.export import writers as export_writers
from scripts.export.__main__ import main
from scripts.export.cases import dataset_cases, phantom_cases
from scripts.export.check import Check
from scripts.export.formats import DICE_LIMIT, FORMATS, LOGIT_LIMIT, Format, load_runner
from scripts.export.names import FORMAT_FILES
from scripts.networks.student import load_trained_student
from scripts.networks.tinyusfm import TinyUSFMSeg

pytest_plugins = "tiny_exports"
pytestmark = pytest.mark.usefixtures("tiny_networks")
SIZE = 64
ALL = [name for name, format in FORMATS.items() if format.write]
WRITTEN = [name for name in ALL if not FORMATS[name].is_whole]  # test_whole.py has the others
EXACT = [name for name in WRITTEN if FORMATS[name].limit == LOGIT_LIMIT]
REDUCED = [name for name in WRITTEN if FORMATS[name].limit == DICE_LIMIT]


def need(format):
    for module in FORMATS[format].needs:
        pytest.importorskip(module, reason=f"{format} needs the extra export")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    student = TinyUSFMSeg(img_size=SIZE, drop_path_rate=0.0, dropout=0.0, **TINY)
    optimizer = torch.optim.Adam(student.parameters(), 3e-3)
    cases = phantom_cases(8, SIZE)
    images = torch.cat([case.image for case in cases])
    labels = torch.nn.functional.interpolate(torch.stack([case.label for case in cases]).float(), size=(SIZE, SIZE))
    for _ in range(40):
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(student(images), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("student") / "student.pt"
    torch.save(student.state_dict(), path)
    return path


@pytest.fixture
def student(checkpoint):
    return load_trained_student(TinyUSFMSeg(img_size=SIZE, **TINY), checkpoint).eval()


def arguments(checkpoint, output, *formats, **options):
    options = {"img_size": SIZE, "num_images": 1, **options}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["--checkpoint", str(checkpoint), "--output", str(output), "--formats", *formats, *flags]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """An export of all formats whose libraries are installed, whatever int8 costs a student of width 24."""
    output = tmp_path_factory.mktemp("export") / "formats"
    installed = [format for format in WRITTEN if all(map(find_spec, FORMATS[format].needs))]
    # runs the files of openvino, where the processor can
    formats = [format for format in installed if format != "openvino_bf16"]
    with pytest.MonkeyPatch.context() as patch:
        for format in REDUCED:
            patch.setitem(FORMATS, format, FORMATS[format]._replace(limit=DICE_LIMIT._replace(value=1.0)))
        assert main(arguments(checkpoint, output, *formats, num_images=4)) == 0
    return output


def start(format, folder, **options):
    try:
        return load_runner(format, folder, SIZE, **options)
    except ValueError as error:
        if "on this processor" not in str(error):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("format", EXACT)
def test_fp32_format_gives_torchs_logits_at_any_batch_size(exported, student, format, batch):
    need(format)
    images = torch.rand(batch, 1, SIZE, SIZE)
    logits = start(format, exported)(images)
    assert logits.shape == (batch, 1, SIZE, SIZE)
    assert logits.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(logits, student(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("format", [*REDUCED, "torch_bf16"])
def test_reduced_format_is_near_torch_but_not_the_same(exported, checkpoint, student, format, batch):
    need(format)
    images = torch.cat([case.image for case in phantom_cases(batch, SIZE)])
    logits = start(format, exported if FORMATS[format].files else checkpoint)(images)
    with torch.inference_mode():
        expected = student(images)
    assert logits.shape == expected.shape
    assert logits.dtype == torch.float32
    difference = (logits - expected).abs().max() / (expected.max() - expected.min())
    assert 1e-5 < difference < 0.2  # fp32 that runs under this name would be below


@pytest.mark.parametrize("format", WRITTEN)
def test_metatensors_come_in_and_plain_tensors_out(exported, format):
    need(format)
    image, runner = torch.rand(1, 1, SIZE, SIZE), start(format, exported)
    logits = runner(MetaTensor(image))
    assert type(logits) is torch.Tensor
    torch.testing.assert_close(logits, runner(image))


@pytest.mark.parametrize("format", WRITTEN)
def test_logits_of_one_call_outlive_the_next(exported, format):
    need(format)
    runner = start(format, exported)
    first = runner(torch.zeros(1, 1, SIZE, SIZE))
    kept = first.clone()
    assert not torch.equal(runner(torch.ones(1, 1, SIZE, SIZE)), kept)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_each_thread_gets_the_logits_of_its_own_image(exported, format):
    need(format)
    runner = start(format, exported)
    images = torch.rand(8, 1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    expected = [runner(image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            assert all(map(torch.equal, pool.map(runner, images), expected))


def test_int8_leaves_attention_products_and_classifier_in_fp32(exported):
    need("onnx_int8")
    import onnx

    graph = onnx.load(exported / "student_int8.onnx").graph
    quantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    fp32 = [
        node.op_type for node in graph.node if node.op_type in ("Conv", "MatMul") and not quantized & set(node.input)
    ]
    int8 = [
        node.op_type for node in graph.node if node.op_type in ("Conv", "MatMul") and quantized.issuperset(node.input)
    ]
    depth = TINY["depth"]
    assert sorted(fp32) == ["Conv"] + ["MatMul"] * 2 * depth  # classifier; q k and its product with v
    assert sorted(int8) == ["Conv"] * 13 + ["MatMul"] * 4 * depth  # patches, neck and head; qkv, projection, MLP


def test_record_holds_the_numbers_of_every_form(exported, checkpoint):
    record = json.loads((exported / "export.json").read_text())
    assert record["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (record["img_size"], record["num_classes"], record["num_images"]) == (SIZE, 2, 4)
    assert record["versions"]["torch"] == torch.__version__
    assert record["formats"]["safetensors"]["max_logit_difference"] == 0
    for format, numbers in record["formats"].items():
        assert numbers["dice"] - numbers["torch_dice"] == numbers["dice_change"]
        assert numbers["torch_dice"] == record["torch"]["dice"] > 0.5
        assert numbers["bytes"] == sum((exported / name).stat().st_size for name in FORMATS[format].files)
        assert numbers["ms"] > 0


def test_folder_holds_the_files_of_the_formats_and_the_record_alone(exported):
    record = json.loads((exported / "export.json").read_text())
    named = {name for format in record["formats"].values() for name in format["files"]}
    assert {path.name for path in exported.iterdir()} == {*named, "export.json"}
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]


def test_onnx_behind_openvino_is_not_kept_unasked(exported, checkpoint, tmp_path, monkeypatch, capsys):
    need("openvino")
    monkeypatch.setattr(
        export_writers,
        "write_onnx_file",
        lambda student, folder, images, about: copy(exported / "student.onnx", folder),
    )
    assert main(arguments(checkpoint, tmp_path / "out", "openvino")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.xml", "student.bin", "export.json"}
    assert "generated phantoms, since no --dataset_dir is given" in capsys.readouterr().out


def test_dice_of_the_check_is_that_of_the_evaluation(student, tmp_path):
    data = SegmentationData(write_phantom_dataset(tmp_path / "data", 4, 1, 1, size=96), img_size=SIZE)
    cases, originals = (dataset_cases(data.training, 4, size, 2) for size in (SIZE, 96))
    dataset = [{"image": case.image[0], "label": case.label, "case": case.name} for case in originals]
    (means,) = evaluate(dataset, [Arm("student", student, SIZE)], 2).summary.values()
    assert Check(student, cases, 2).expected.dice == pytest.approx(means["dice"], abs=1e-12)


def test_images_are_resized_and_labels_are_not(phantoms):
    case = dataset_cases(SegmentationData(phantoms).test, 1, 32, 2)[0]
    assert case.image.shape == (1, 1, 32, 32)
    assert 0 <= case.image.min() < case.image.max() <= 1
    assert case.label.shape == (1, 64, 64)
    assert case.label.unique().tolist() == [0, 1]


def test_calibration_is_on_the_training_list_and_the_check_on_the_split(checkpoint, phantoms, tmp_path, monkeypatch):
    seen = {}

    def keep(student, formats, check, calibration, output, about, node_modules):
        seen.update(check=check, calibration=calibration)
        return {}

    monkeypatch.setattr(export_check, "export_student", keep)
    main(arguments(checkpoint, tmp_path / "out", "safetensors", dataset_dir=phantoms, split="test", num_images=2))
    data = SegmentationData(phantoms, img_size=SIZE)
    assert [case.name for case in seen["check"].cases] == [item["image"] for item in data.test]
    ends = dataset_cases([data.training[0], data.training[-1]], 2, SIZE, 2)
    assert all(torch.equal(image, case.image) for image, case in zip(seen["calibration"], ends, strict=True))


def test_multi_class_student_is_exported(tmp_path, capsys):
    torch.manual_seed(0)
    student = TinyUSFMSeg(num_classes=3, img_size=SIZE, **TINY).eval()
    torch.save(student.state_dict(), tmp_path / "three.pt")
    assert main(arguments(tmp_path / "three.pt", tmp_path / "out", "torchscript", num_classes=3)) == 0
    image = torch.rand(2, 1, SIZE, SIZE)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_runner("torchscript", tmp_path / "out", SIZE, num_classes=3)(image), student(image)
        )
    with pytest.raises(ValueError, match="segments 3 classes with the background, but num_classes is 2; pass 3"):
        load_runner("torchscript", tmp_path / "out", SIZE)


@pytest.mark.parametrize("names", [[], ["--formats", "all"]])
def test_all_formats_are_those_that_this_processor_runs(checkpoint, tmp_path, monkeypatch, capsys, names):
    light = {format: FORMATS[format] for format in ("safetensors", "torchscript")}
    light["openvino_bf16"] = FORMATS["openvino_bf16"]._replace(needs=(), lacks=lambda: "bf16")
    for module in (export_check, export_formats):
        monkeypatch.setattr(module, "FORMATS", light)
    call = arguments(checkpoint, tmp_path / "out")
    call.remove("--formats")
    assert main([*call, *names]) == 0
    shown = capsys.readouterr().out
    assert "openvino_bf16 is left out: this processor has no bf16" in shown
    assert f"wrote {tmp_path / 'out'}: safetensors, torchscript;" in shown
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.safetensors", "student.ts", "export.json"}


def test_openvino_says_when_the_processor_lacks_bf16(monkeypatch):
    for capabilities, lacks in ((["FP32", "INT8"], "bf16"), (["FP32", "BF16"], None)):
        core = SimpleNamespace(get_property=lambda device, name: capabilities)
        monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
        assert FORMATS["openvino_bf16"].lacks() == lacks
    assert all(format.lacks() is None for name, format in FORMATS.items() if name != "openvino_bf16")


@pytest.mark.slow
def test_monais_ckpt_export_gives_torchscript_from_any_folder(checkpoint, student, tmp_path):
    tiny = [word for name, value in TINY.items() for word in (f"--network_def::{name}", str(value))]
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "ckpt_export",
        "--bundle_root",
        str(ROOT),
        "--config_file",
        str(CONFIGS / "inference.json"),
        "--filepath",
        str(tmp_path / "model.ts"),
        "--ckpt_file",
        str(checkpoint),
        "--img_size",
        str(SIZE),
        *tiny,
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    runner, files = load_runner("torchscript", tmp_path / "model.ts", SIZE), {"inference.json": "", "metadata.json": ""}
    for batch in (1, 3):
        images = torch.rand(batch, 1, SIZE, SIZE)
        with torch.inference_mode():
            torch.testing.assert_close(runner(images), student(images), rtol=0, atol=1e-4)
    torch.jit.load(tmp_path / "model.ts", _extra_files=files)
    assert json.loads(files["inference.json"])["network_def"]["_target_"] == "scripts.networks.tinyusfm.TinyUSFMSeg"
    assert (
        json.loads(files["metadata.json"])["version"] == json.loads((CONFIGS / "metadata.json").read_text())["version"]
    )


def broken(monkeypatch, format, limit, change):
    """Let the format compute something else from here on."""
    right = FORMATS[format].start

    def start(path, setup):
        runner = right(path, setup)
        return lambda images: change(runner(images))

    monkeypatch.setitem(FORMATS, format, FORMATS[format]._replace(start=start, limit=limit))


def test_format_of_other_logits_is_refused_and_the_others_are_kept(checkpoint, tmp_path, monkeypatch, capsys):
    broken(monkeypatch, "torchscript", LOGIT_LIMIT, lambda logits: logits + 2e-4)
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors", "torchscript")) == 1
    shown = capsys.readouterr()
    assert "torchscript is refused: max_logit_difference is 0.0002, the limit is 0.0001" in shown.err
    assert f"wrote {tmp_path / 'out'}: safetensors;" in shown.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.safetensors", "export.json"}
    assert list(json.loads((tmp_path / "out" / "export.json").read_text())["formats"]) == ["safetensors"]


def test_format_of_other_masks_is_refused_and_nothing_is_left(checkpoint, tmp_path, monkeypatch, capsys):
    broken(monkeypatch, "safetensors", DICE_LIMIT, lambda logits: -logits)
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors")) == 1
    shown = capsys.readouterr()
    assert "safetensors is refused: dice_change is -" in shown.err
    assert "the limit is 0.002" in shown.err
    assert "wrote" not in shown.out
    assert list(tmp_path.iterdir()) == []


def test_other_logits_with_the_same_masks_are_within_the_dice_limit(checkpoint, tmp_path, monkeypatch):
    broken(monkeypatch, "safetensors", DICE_LIMIT, lambda logits: 1.1 * logits)
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors")) == 0


def test_a_nan_logit_is_refused_even_where_the_mask_is_the_same(checkpoint, tmp_path, monkeypatch, capsys):
    corner = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    corner[0, 0] = True
    broken(monkeypatch, "safetensors", DICE_LIMIT, lambda logits: logits.masked_fill(corner, torch.nan))
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors")) == 1
    shown = capsys.readouterr()
    assert "safetensors is refused: max_logit_difference is nan, the limit is 0.0001" in shown.err
    assert "+0.00000" in shown.out


def test_earlier_export_stays_when_every_format_is_refused(checkpoint, tmp_path, monkeypatch):
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors")) == 0
    before = (tmp_path / "out" / "export.json").read_bytes()
    broken(monkeypatch, "safetensors", LOGIT_LIMIT, lambda logits: logits + 1)
    assert main([*arguments(checkpoint, tmp_path / "out", "safetensors"), "--overwrite"]) == 1
    assert (tmp_path / "out" / "export.json").read_bytes() == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.safetensors", "export.json"}


def test_overwrite_replaces_an_earlier_export_as_a_whole(checkpoint, tmp_path):
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors")) == 0
    assert main([*arguments(checkpoint, tmp_path / "out", "torchscript"), "--overwrite"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"student.ts", "export.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_replacement_brings_the_earlier_export_back(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text("{}")
    with pytest.raises(OSError):
        export_check._replace(tmp_path / "gone", tmp_path / "out", tmp_path / "old")
    assert (tmp_path / "out" / "export.json").read_text() == "{}"
    assert not (tmp_path / "old").exists()


def test_failure_while_writing_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fail(student, folder, images, about):
        (folder / "student.ts").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setitem(FORMATS, "torchscript", Format(FORMATS["torchscript"].start, fail, ("student.ts",)))
    assert main(arguments(checkpoint, tmp_path / "out", "safetensors", "torchscript")) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def refused(capsys):
    """Runs the program in vain and returns its message."""

    def try_export(arguments) -> str:
        assert main(arguments) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("export: ")
        assert shown.err.count("\n") == 1
        return shown.err

    return try_export


@pytest.mark.parametrize(
    "format, options, message",
    [
        ("tensorrt", {}, f"--formats must be all, or of {', '.join(ALL)}, got 'tensorrt'"),
        ("torch_bf16", {}, "got 'torch_bf16'"),
        (
            "safetensors",
            {"img_size": 32},
            "was trained at 64 pixels, but the student is built for 32; pass --img_size 64",
        ),
        ("safetensors", {"img_size": 60}, "--img_size must be a positive multiple of 16, got 60"),
        (
            "safetensors",
            {"num_classes": 3},
            "segments 2 classes, but data::num_classes is 3; pass --data::num_classes 2",
        ),
        (
            "safetensors",
            {"class_names": "nerve", "num_classes": 3},
            "class_names must name the 2 classes without the background, got ['nerve']",
        ),
        (
            "safetensors",
            {"num_classes": 1},
            "--num_classes must be an integer of at least 2 (the background counts), got 1",
        ),
        ("safetensors", {"num_images": 0}, "--num_images must be at least 1, got 0"),
        ("safetensors", {"dataset_dir": "gone"}, "gone is no folder; pass --dataset_dir PATH"),
    ],
)
def test_bad_argument_is_refused(checkpoint, tmp_path, monkeypatch, refused, format, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(arguments(checkpoint, tmp_path / "out", format, **options))
    assert list(tmp_path.iterdir()) == []


def test_all_stands_alone(checkpoint, tmp_path, refused):
    assert "--formats must be all, or of safetensors, " in refused(
        arguments(checkpoint, tmp_path / "out", "all", "onnx")
    )


def test_bad_datalist_is_refused(checkpoint, phantoms, tmp_path, refused):
    call = partial(arguments, checkpoint, tmp_path / "out", "safetensors", dataset_dir=phantoms)
    assert (
        "none.json does not exist; build one with python -m scripts.make_datalist or pass --datalist NAME"
        in refused(call(datalist="none.json"))
    )
    content = json.loads((phantoms / "dataset.json").read_text())
    (tmp_path / "list.json").write_text(json.dumps({**content, "validation": []}))
    assert "has no validation cases" in refused(call(datalist=tmp_path / "list.json"))
    (tmp_path / "list.json").write_text(json.dumps({"training": [{"image": "../a.png", "label": "../b.png"}]}))
    assert "or pass --allow_outside if you trust" in refused(call(datalist=tmp_path / "list.json"))
    assert not (tmp_path / "out").exists()


def test_checkpoint_that_is_no_student_is_refused(tmp_path, refused):
    output = tmp_path / "out"
    assert f"{tmp_path / 'gone.pt'} does not exist; pass --checkpoint PATH" in refused(
        arguments(tmp_path / "gone.pt", output, "safetensors")
    )
    torch.save({"image_encoder.pos_embed": torch.ones(1)}, tmp_path / "sam.pt")
    assert "is a SAM base file (image_encoder.*), not a TinyUSFM student" in refused(
        arguments(tmp_path / "sam.pt", output, "safetensors")
    )
    (tmp_path / "text.pt").write_text("no weights")
    assert "cannot be read as weights" in refused(arguments(tmp_path / "text.pt", output, "safetensors"))
    assert not output.exists()


def test_existing_output_is_refused_and_kept(checkpoint, tmp_path, refused):
    call = arguments(checkpoint, tmp_path / "out", "safetensors")
    (tmp_path / "out").mkdir()
    assert "exists; choose another folder, or pass --overwrite to replace an export" in refused(call)
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    assert "is no earlier export, since thesis.tex is not of one; choose another folder" in refused(
        [*call, "--overwrite"]
    )
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("mine")
    assert "is no earlier export" in refused([*arguments(checkpoint, tmp_path / "file", "safetensors"), "--overwrite"])
    assert "lies in no existing folder; create it first" in refused(
        arguments(checkpoint, tmp_path / "a" / "b", "safetensors")
    )


@pytest.mark.parametrize(
    "format, module", [("onnx", "onnxscript"), ("onnx_int8", "onnxruntime"), ("openvino", "openvino")]
)
def test_missing_library_is_named_with_its_extra(checkpoint, tmp_path, monkeypatch, refused, format, module):
    for name in FORMATS[format].needs:
        monkeypatch.setitem(sys.modules, name, None if name == module else SimpleNamespace())
    message = refused(arguments(checkpoint, tmp_path / "out", format))
    assert f"{module} cannot be imported" in message
    assert "run pip install .[export]" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", WRITTEN)
def test_runner_for_another_img_size_is_refused(exported, format):
    need(format)
    runner = start(format, exported)
    with pytest.raises(Exception, match="64|32"):  # each library has its own
        runner(torch.zeros(1, 1, 32, 32))
    with pytest.raises(
        ValueError, match="was trained at 64 pixels|takes images of 64 x 64 pixels, but img_size is 32; pass 64"
    ):
        load_runner(format, exported, 32)


@pytest.mark.parametrize("format", ["torchscript", "onnx", "openvino"])
def test_damaged_file_is_refused(tmp_path, format):
    need(format)
    path = tmp_path / FORMATS[format].files[0]
    path.write_text("damaged")
    with pytest.raises(ValueError, match=f"{path.name} does not run as {format}"):
        load_runner(format, path, SIZE)


def test_unknown_format_and_missing_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match="format must be one of torch, torch_bf16, safetensors, .*, got 'coreml'"):
        load_runner("coreml", tmp_path, SIZE)
    with pytest.raises(FileNotFoundError, match="student.ts is no file; expected one that runs as torchscript"):
        load_runner("torchscript", tmp_path, SIZE)


def test_bf16_is_refused_where_the_processor_falls_back_to_fp32(tmp_path, monkeypatch):
    fp32 = SimpleNamespace(get_type_name=lambda: "f32")
    compiled = SimpleNamespace(get_property=lambda name: fp32)
    model = SimpleNamespace(has_rt_info=lambda place: False)
    core = SimpleNamespace(read_model=lambda path: model, compile_model=lambda *arguments: compiled)
    fake = SimpleNamespace(Core=lambda: core, Type=SimpleNamespace(f32=fp32, bf16="bf16"))
    monkeypatch.setitem(sys.modules, "openvino", fake)
    (tmp_path / "student.xml").touch()
    with pytest.raises(ValueError, match="would run in f32 on this processor, not in bf16; choose the format openvino"):
        load_runner("openvino_bf16", tmp_path, SIZE)


def test_threads_are_those_of_torch(checkpoint):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        load_runner("torch", checkpoint, SIZE, threads=before)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_names_list_the_formats_that_are_written():
    assert list(FORMAT_FILES) == ALL
    assert {name: format.files for name, format in FORMATS.items() if format.write} == FORMAT_FILES
