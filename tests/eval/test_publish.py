"""Sharing a student: weights in half precision that segment the same, results that the metadata repeat, and every
refusal.
"""

import json
import shutil

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY
from safetensors.torch import load_file

from eval import publish
from eval.publish import eval_metrics, main
from scripts.networks.tinyusfm import TinyUSFMSeg
from scripts.share.model_card import find_results

METRICS = {
    "dice": {"mean": 0.75, "low": 0.7, "high": 0.9, "seed_means": {"0": 0.81234567, "3": 0.68765433}},
    "hd95": {"mean": 13.0, "low": 10.0, "high": 14.0, "seed_means": {"0": 12.0, "3": 14.0}},
}


@pytest.fixture
def comparison(tmp_path):
    """What a finished comparison leaves."""
    torch.manual_seed(0)
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "best.pt")
    folder = tmp_path / "busbra"
    folder.mkdir()
    (folder / "comparison.json").write_text(
        json.dumps({"arms": {"student": {"0": {"checkpoint": str(tmp_path / "best.pt")}}}})
    )
    report = {"arms": {"student": {"metrics": METRICS}}, "pictures": {"cases": {"a": {"image": "data:image/jpeg;"}}}}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def arguments(comparison, overrides, tmp_path):
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    shutil.copy(CONFIGS / "metadata.json", tmp_path / "bundle" / "configs")
    own = {
        key: value
        for key, value in overrides.items()
        if not key.startswith("run_folder") and key not in ("bundle_root", "model_file")
    }
    pairs = [text for key, value in own.items() for text in (f"--{key}", repr(value))]
    return ["--comparison", str(comparison), "--bundle", str(tmp_path / "bundle"), *pairs]


def test_weights_are_half_of_the_trained_ones_in_both_files(arguments, tmp_path, caplog):
    assert main(arguments) == 0
    trained = torch.load(tmp_path / "best.pt", weights_only=True)
    pt = torch.load(tmp_path / "bundle" / "models" / "model.pt", weights_only=True)
    safe = load_file(tmp_path / "bundle" / "models" / "model.safetensors")
    assert pt.keys() == safe.keys() == trained.keys()
    for key, value in trained.items():
        assert torch.equal(pt[key], value.half() if value.is_floating_point() else value)
        assert torch.equal(pt[key], safe[key])
    assert "half precision changes the validation Dice by" in caplog.text


def test_metadata_repeat_the_results_of_the_shared_seed(arguments, tmp_path):
    assert main(arguments) == 0
    results = json.loads((tmp_path / "bundle" / "eval" / "results" / "busbra.json").read_text())
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert "pictures" not in results
    assert metadata["eval_metrics"] == eval_metrics(results["arms"], 0) == {"mean_dice": 0.8123, "mean_hd95": 12.0}
    name, metrics = find_results(tmp_path / "bundle", metadata["eval_metrics"])
    assert name == "busbra"
    assert metrics["dice"]["mean"] == 0.81234567
    assert find_results(tmp_path / "bundle", eval_metrics(results["arms"], 3))[1]["hd95"]["mean"] == 14.0
    with pytest.raises(ValueError, match="no shared file"):
        find_results(tmp_path / "bundle", {"mean_dice": 0.75, "mean_hd95": 13.0})
    with pytest.raises(ValueError, match="no student of seed 1, only of 0, 3"):
        eval_metrics(results["arms"], 1)


def test_rounding_that_changes_masks_is_refused_and_nothing_is_written(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(publish, "MOST_DICE_CHANGE", -1.0)
    assert main(arguments) == 1
    assert "nothing is written" in capsys.readouterr().err
    assert not (tmp_path / "bundle" / "models").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "report.json").unlink(), "expected the report of a finished comparison"),
        (lambda folder: (folder / "comparison.json").unlink(), "expected a comparison"),
        (
            lambda folder: (folder / "comparison.json").write_text('{"arms": {"student": {"3": {}}}}'),
            "no student of seed 0, only of 3",
        ),
        (lambda folder: (folder.parent / "best.pt").unlink(), "does not exist any more"),
        (lambda folder: (folder / "report.json").write_text('{"arms": {}}'), "the report has no arm student"),
    ],
)
def test_unfinished_comparison_is_refused(arguments, comparison, capsys, change, message):
    change(comparison)
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


SHARED = ROOT / "models" / "model.pt"


@pytest.mark.skipif(not SHARED.is_file(), reason="models/model.pt is not there")
def test_shared_student_fits_and_both_files_are_the_same():
    pt, safe = torch.load(SHARED, weights_only=True), load_file(SHARED.with_suffix(".safetensors"))
    assert pt.keys() == safe.keys()
    assert all(torch.equal(pt[key], safe[key]) for key in pt)
    TinyUSFMSeg().load_state_dict(pt)
    assert SHARED.stat().st_size + SHARED.with_suffix(".safetensors").stat().st_size < 25e6


def test_metadata_of_the_bundle_repeat_the_committed_results():
    metadata, path = json.loads((CONFIGS / "metadata.json").read_text()), ROOT / "eval" / "results" / "busbra.json"
    assert ("eval_metrics" in metadata) == path.is_file()
    if path.is_file():
        assert metadata["eval_metrics"] == eval_metrics(json.loads(path.read_text())["arms"], 0)
