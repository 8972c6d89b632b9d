"""The engines of configs/inference.json: the same masks, what auto takes, and exports that are kept."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, TINY
from PIL import Image
from test_folder_runs import failure, infer, save

from scripts.inference import engines, exports
from scripts.inference.engines import ENOUGH_FILES, LOCAL_CACHE, ExportedStudent, choose_engine
from scripts.inference.exports import ensure_export, export_dir
from scripts.inference.sessions import Session
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.run.workflow import build_workflow
from scripts.utils.files import WriteError
from scripts.utils.hardware import Hardware

NATIVE = SHARED / "busbra_native" / "Images"
SESSIONS = ("openvino", "onnx")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A student that finds about half of an image."""
    torch.manual_seed(0)
    model = TinyUSFMSeg(img_size=64, **TINY).eval()
    with torch.no_grad():
        model.decode_head.conv_seg.weight.mul_(50)
        model.decode_head.conv_seg.bias -= model(torch.rand(1, 1, 64, 64)).median()
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def written(checkpoint, tmp_path_factory) -> Path:
    """An export for both engines, as a first use writes it."""
    for name in ("onnxscript", "openvino", "onnxruntime"):
        pytest.importorskip(name, reason="exports need the extra export")
    from scripts.export.on_demand import main

    folder = export_dir(checkpoint, tmp_path_factory.mktemp("cache"))
    assert main([str(checkpoint), str(folder), *SESSIONS]) == 0
    return folder


@pytest.fixture
def export(written, tmp_path, monkeypatch) -> Path:
    """A copy of it in the user's cache folder, which nothing may write again."""
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(exports, "_write", lambda *given: pytest.fail("written again"))
    return Path(shutil.copytree(written, tmp_path / "cache" / written.name))


@pytest.fixture
def no_export(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    save(*(tmp_path / "images" / f"{name}.png" for name in "abc"))
    return tmp_path / "images"


def masks(output_dir: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(output_dir.glob("*_mask.png"))]


def record(output_dir: Path) -> dict:
    return json.loads((output_dir / "run.json").read_text())


def differences(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[int, float]:
    """Pixels that differ, and the smallest Dice."""
    dices = [2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in zip(ours, theirs, strict=True)]
    return sum(int((a != b).sum()) for a, b in zip(ours, theirs)), min(dices)


@pytest.mark.parametrize("engine", SESSIONS)
def test_masks_of_an_export_are_those_of_torch(export, folder, checkpoint, tmp_path, caplog, engine):
    caplog.set_level("INFO")
    infer(folder, checkpoint, tmp_path / "torch", engine="torch")
    infer(folder, checkpoint, tmp_path / engine, engine=engine)
    assert f"engine {engine} in fp32" in caplog.messages
    assert record(tmp_path / engine)["engine"] == engine
    assert record(tmp_path / "torch")["engine"] == "torch"
    expected = masks(tmp_path / "torch")
    assert len(expected) == 3
    assert all(0.05 < mask.mean() < 0.95 for mask in expected)
    pixels, dice = differences(masks(tmp_path / engine), expected)
    assert dice >= 0.999, f"{pixels} pixels differ"


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "models" / "model.pt").is_file(), reason="models/model.pt is not there")
@pytest.mark.skipif(not NATIVE.is_dir(), reason="../shared/data is not there")
def test_masks_of_real_images_are_those_of_torch(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="exports need the extra export")
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    for path in sorted(NATIVE.iterdir())[:20]:
        shutil.copy(path, tmp_path / "images")
    for engine in ("torch", *SESSIONS):
        given = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / engine), "engine": engine}
        hardware = {"hardware::gpu_ids": [], "hardware::precision": "fp32"}
        flow = build_workflow(["inference.json"], {**given, **hardware}, "run", "infer")
        flow.initialize()
        flow.run()
    for engine in SESSIONS:
        pixels, dice = differences(masks(tmp_path / engine), masks(tmp_path / "torch"))
        print(f"{engine}: {pixels} pixels differ, Dice at least {dice:.6f}")
        assert dice >= 0.999, f"{pixels} pixels differ"


def test_student_with_presence_gives_it_by_an_export_too():
    outputs = {"logits": np.ones((1, 1, 4, 4), np.float32), "presence": np.full(1, 0.25, np.float32)}
    seen = []
    student = ExportedStudent(Session(lambda values: seen.append(values.shape) or outputs, None), None)
    logits, presence = student.detect(torch.zeros(3, 1, 4, 4))
    assert seen == [(1, 1, 4, 4)] * 3
    assert (tuple(logits.shape), presence.tolist()) == ((3, 1, 4, 4), [0.25] * 3)
    assert torch.equal(student(torch.zeros(3, 1, 4, 4)), logits)


# what auto takes


def choose(checkpoint, tmp_path, engine="auto", device="cpu", precision="fp32", **given):
    network = TinyUSFMSeg(img_size=64, **TINY)
    return choose_engine(network, checkpoint, Hardware([], precision), device, tmp_path / "out", engine, **given)


def test_auto_takes_an_export_that_is_there(export, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    chosen = choose(checkpoint, tmp_path, num_files=1)
    assert chosen.name in SESSIONS
    assert f"engine {chosen.name} in fp32: the fastest on this processor" in caplog.messages


def test_auto_writes_no_export_for_few_files(no_export, checkpoint, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(exports, "installed", lambda name: name == "onnx")
    monkeypatch.setattr(engines, "can_write", lambda: True)
    monkeypatch.setattr(exports, "_write", lambda *given: "no export here")
    assert choose(checkpoint, tmp_path, num_files=ENOUGH_FILES - 1).name == "torch"
    assert "engine torch in fp32: an export does not pay for 99 files; --engine onnx writes it" in caplog.messages
    assert choose(checkpoint, tmp_path, num_files=ENOUGH_FILES).name == "torch"
    assert "engine torch in fp32: no export can be written and kept (no export here)" in caplog.messages
    with pytest.raises(ValueError, match="no export here"):
        choose(checkpoint, tmp_path, "onnx")


def test_auto_takes_torch_where_nothing_else_runs(export, checkpoint, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    assert choose(checkpoint, tmp_path, device="cuda:0").name == "torch"
    monkeypatch.setattr(exports, "installed", lambda name: False)
    assert choose(checkpoint, tmp_path).name == "torch"
    assert [text.partition(": ")[2] for text in caplog.messages if "engine torch" in text] == [
        "the device is cuda:0",
        "OpenVINO and ONNX Runtime are not installed (pip install .[export])",
    ]


def test_precision_that_is_asked_for_is_computed_in(export, folder, checkpoint, tmp_path, caplog):
    caplog.set_level("INFO")
    chosen = choose(checkpoint, tmp_path, precision="bf16")
    assert (chosen.name, chosen.precision) == ("torch", "bf16")
    assert "engine torch in bf16: hardware::precision is bf16" in caplog.messages
    with pytest.raises(
        ValueError, match="^engine onnx has no export in bf16; pass --hardware::precision auto or --eng"
    ):
        choose(checkpoint, tmp_path, "onnx", precision="bf16")
    infer(folder, checkpoint, tmp_path / "out", engine="onnx")  # resumed in bf16, its outputs would be mixed
    assert choose(checkpoint, tmp_path, precision="bf16", resume=True).precision == "bf16"
    assert choose(checkpoint, tmp_path, precision="auto", resume=True).name == "onnx"


@pytest.mark.parametrize("has_bf16", [False, True])
def test_export_of_another_processor_runs_in_what_this_one_has(monkeypatch, has_bf16):
    monkeypatch.setattr(exports, "openvino_has_bf16", lambda: has_bf16)
    record = {"formats": {"openvino_bf16": {"ms": 1.0}, "openvino": {"ms": 2.0}}}
    chosen = exports.fastest_format(record, ["openvino"], exports.runnable_precisions(["openvino"]))
    assert chosen == ("openvino", "openvino_bf16" if has_bf16 else "openvino")
    assert exports.runnable_precisions(["onnx"]) == ("fp32",)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_run_keeps_the_precision_of_its_outputs(tmp_path, precision):
    (tmp_path / "run.json").write_text(json.dumps({"engine": "openvino", "precision": precision}))
    assert engines._recorded_engine(tmp_path, "auto") == ("openvino", precision)
    assert engines._recorded_engine(tmp_path, "fp32") == (("openvino", "fp32") if precision == "fp32" else None)
    assert engines._precisions(precision, Hardware([], "auto")) == [precision]


def test_resumed_run_goes_on_with_its_engine(export, folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    infer(folder, checkpoint, out, engine="onnx")
    save(folder / "d.png")
    infer(folder, checkpoint, out, resume=True)
    assert record(out)["engine"] == "onnx"
    assert len(masks(out)) == 4
    error = failure(folder, checkpoint, out, resume=True, engine="torch")
    assert "were made with another engine (onnx, now torch)" in str(error)


def test_folder_of_an_earlier_version_was_made_with_torch(export, folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    infer(folder, checkpoint, out, engine="torch")
    former = {name: value for name, value in record(out).items() if name != "engine"}
    (out / "run.json").write_text(json.dumps(former))
    infer(folder, checkpoint, out, resume=True)
    assert "another engine (torch, now onnx)" in str(failure(folder, checkpoint, out, resume=True, engine="onnx"))


# bad input


def test_mistyped_engine_is_named(folder, checkpoint, tmp_path):
    error = failure(folder, checkpoint, tmp_path / "out", engine="openvin")
    assert "engine must be one of auto, openvino, onnx, torch, got 'openvin'" in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("engine", "library"), [("openvino", "openvino"), ("onnx", "onnxruntime")])
def test_engine_that_is_not_installed_is_named(folder, checkpoint, tmp_path, monkeypatch, engine, library):
    monkeypatch.setitem(sys.modules, library, None)
    error = failure(folder, checkpoint, tmp_path / "out", engine=engine)
    assert f"engine {engine}: {library} cannot be imported" in str(error)
    with pytest.raises(
        ValueError, match=rf"engine {engine}: {library} cannot .*; run pip install .\[export\], or pass"
    ):
        choose(checkpoint, tmp_path, engine)
    assert not (tmp_path / "out").exists()


def test_what_writes_an_export_is_named_where_it_is_not_installed(no_export, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"engine onnx: onnxscript cannot be imported .*; run pip install"):
        choose(checkpoint, tmp_path, "onnx")


def test_engine_of_the_cpu_is_refused_on_a_gpu(checkpoint, tmp_path):
    message = r"engine onnx computes on the CPU, but hardware::gpu_ids chose cuda:0; pass --hardware::gpu_ids \[\]"
    with pytest.raises(ValueError, match=message):
        choose(checkpoint, tmp_path, "onnx", "cuda:0")


@pytest.mark.parametrize("name", ["student.onnx", "export.json"])
def test_damaged_export_is_named_with_its_folder(export, checkpoint, tmp_path, name):
    content = (export / name).read_bytes()
    (export / name).write_bytes(content[: len(content) // 2])
    for engine in ("onnx", "auto") if name == "export.json" else ("onnx",):
        with pytest.raises(ValueError, match=f"{name} is damaged.*; remove the folder {export}, and the next run"):
            choose(checkpoint, tmp_path, engine)


def test_threshold_that_is_not_in_the_export_is_refused(export, checkpoint, tmp_path):
    network = TinyUSFMSeg(img_size=64, **TINY)
    network.add_presence().threshold.fill_(0.2)
    with pytest.raises(ValueError, match="presence_threshold 0.2 is not the one of the checkpoint"):
        choose_engine(network, checkpoint, Hardware([], "fp32"), "cpu", tmp_path / "out", "onnx")


# where exports are kept


def test_export_of_other_weights_is_never_taken(export, checkpoint, tmp_path, monkeypatch):
    other = tmp_path / "other.pt"
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), other)
    asked = []
    monkeypatch.setattr(exports, "_write", lambda checkpoint, folder, names: asked.append(folder) or "not written")
    with pytest.raises(ValueError, match="not written"):
        ensure_export(other, ["onnx"])
    assert asked == [export_dir(other)]
    assert asked != [export]


def test_export_in_a_folder_that_cannot_be_written_is_taken(export, checkpoint, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("read-only")

    monkeypatch.setattr(exports, "FileLock", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert choose(checkpoint, tmp_path, "onnx").name == "onnx"


def test_export_goes_into_the_output_folder_where_the_cache_cannot_be_written(
    written, folder, checkpoint, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(exports, "_write", lambda checkpoint, target, names: shutil.copytree(written, target))
    infer(folder, checkpoint, tmp_path / "out", engine="onnx")
    assert (tmp_path / "out" / LOCAL_CACHE / written.name / "student.onnx").is_file()
    assert f"The export is kept in {tmp_path / 'out' / LOCAL_CACHE}" in caplog.text
    assert len(masks(tmp_path / "out")) == 3


def test_auto_takes_torch_where_no_export_can_be_kept(no_export, checkpoint, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")

    def refuse(*given):
        raise WriteError(tmp_path / "cache", 30)

    monkeypatch.setattr(engines, "ensure_export", refuse)
    monkeypatch.setattr(exports, "installed", lambda name: True)
    monkeypatch.setattr(engines, "can_write", lambda: True)
    assert choose(checkpoint, tmp_path, num_files=ENOUGH_FILES).name == "torch"
    assert "engine torch in fp32: no export can be written and kept" in caplog.text
