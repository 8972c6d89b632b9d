"""The checks of a bundle before it is shared: this one passes all, and each finds what it is there for."""

import json
import shutil

import pytest
import torch
from conftest import ROOT
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file, save_file

from scripts.share import verify as program
from scripts.share.manifest import write_manifest
from scripts.share.verify import CHECKS, INFERENCE_CONFIG, METADATA, SAFE_WEIGHTS, WEIGHTS, verify
from scripts.verify import main


@pytest.fixture
def bundle(tmp_path):
    """A copy as it is shared, so that no git is needed."""
    # the last are of tracked runs
    unwanted = shutil.ignore_patterns("__pycache__", "teacher", "mlruns*", "config_*.json")
    for name in ("configs", "docs", "eval", "models"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unwanted)
    for name in ("LICENSE", "README.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    write_manifest(tmp_path)
    return tmp_path


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def drop(path, key):
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


def change_weights(bundle, names=(WEIGHTS, SAFE_WEIGHTS), **values):
    state = load_file(bundle / SAFE_WEIGHTS)
    state.update(values)
    if WEIGHTS in names:
        torch.save(state, bundle / WEIGHTS)
    if SAFE_WEIGHTS in names:
        save_file(state, bundle / SAFE_WEIGHTS)


def grow(path):
    with open(path, "ab") as file:
        file.truncate(26_000_000)


def rename_results(bundle):
    (bundle / "eval" / "results" / "busbra.json").rename(bundle / "eval" / "results" / "mine.json")


def add(bundle, name):
    (bundle / name).write_text("x")
    write_manifest(bundle)


BIAS = "decode_head.conv_seg.bias"
FINDINGS = [
    (
        "necessary files",
        lambda b: (b / "docs" / "data_license.txt").unlink(),
        "docs/data_license.txt missing or empty.",
    ),
    ("necessary files", lambda b: (b / "LICENSE").write_text(""), "LICENSE missing or empty."),
    ("necessary files", lambda b: (b / "docs" / "README.md").unlink(), "USAGE.md missing or empty."),
    (
        "kinds and sizes of files",
        lambda b: add(b, "eval/patient.dcm"),
        "eval/patient.dcm is of a kind that no bundle needs (1",
    ),
    ("kinds and sizes of files", lambda b: add(b, "eval/case.png"), "eval/case.png is of a kind that no bundle needs"),
    (
        "kinds and sizes of files",
        lambda b: grow(b / WEIGHTS),
        f"{WEIGHTS} has 26000000 bytes, more than the model zoo's 25000000",
    ),
    ("kinds and sizes of files", lambda b: (b / "SHA256SUMS").unlink(), "git"),
    ("license", lambda b: (b / "LICENSE").write_text("mine"), "LICENSE is not the Apache License."),
    ("license", lambda b: change(b / METADATA, copyright="mine"), "does not name the license of LICENSE"),
    ("metadata against the schema", lambda b: change(b / METADATA, authors=1), "1 is not of type 'string'"),
    ("metadata against the schema", lambda b: (b / "eval" / "schema.json").unlink(), "eval/schema.json is not there"),
    ("version and changelog", lambda b: change(b / METADATA, version="1"), "must be such as 1.2.3, got '1'"),
    ("version and changelog", lambda b: change(b / METADATA, version="9.9.9"), "says nothing of the version 9.9.9"),
    (
        "version and changelog",
        lambda b: (b / "pyproject.toml").write_text(""),
        "pyproject.toml has another version than",
    ),
    ("results", lambda b: change(b / METADATA, eval_metrics={"mean_dice": 1}), "no shared file of eval/results holds"),
    ("results", rename_results, "eval/results/mine.json is not shared, since git does not track it"),
    ("keys of the configs", lambda b: drop(b / INFERENCE_CONFIG, "inferer"), f"{INFERENCE_CONFIG} has no inferer."),
    ("keys of the configs", lambda b: (b / "configs" / "evaluate.json").write_text("{"), "Expecting property name"),
    (
        "weights",
        lambda b: change_weights(b, **{BIAS: torch.tensor([torch.nan])}),
        f"that are not finite (NaN or infinity), first in {BIAS}",
    ),
    (
        "weights",
        lambda b: change_weights(b, (WEIGHTS,), **{BIAS: torch.zeros(1)}),
        f"differs from {WEIGHTS}, first in {BIAS}",
    ),
    ("weights", lambda b: change_weights(b, other=torch.zeros(1)), "other"),
    (
        "weights",
        lambda b: shutil.copy(b / WEIGHTS, b / "models" / "a.pt"),
        f"models/a.pt has a shorter name than {WEIGHTS}",
    ),
    (
        "input and output of the network",
        lambda b: change(b / INFERENCE_CONFIG, num_classes=3),
        "output channel number `3`",
    ),
]


@pytest.mark.parametrize(("check", "spoil", "message"), FINDINGS)
def test_check_finds_what_it_is_for(bundle, monkeypatch, check, spoil, message):
    spoil(bundle)
    monkeypatch.setattr(program, "CHECKS", {check: CHECKS[check]})
    ((name, reason),) = verify(bundle)
    assert name == check
    assert message in reason


def test_quick_checks_pass_on_a_shared_copy(bundle):
    for check in dict.fromkeys(check for check, _, _ in FINDINGS):
        CHECKS[check](bundle)


def test_workflow_without_a_property_is_found(bundle, phantoms):
    flow = program._inference(
        bundle, **{"dataset_dir": str(phantoms / "images"), "evaluator::val_handlers": "@handlers::0"}
    )
    with pytest.raises(ValueError, match="lacks the properties handlers"):
        program._check_properties(flow)


def test_export_that_segments_otherwise_is_found(bundle, monkeypatch):
    monkeypatch.setattr(torch.jit, "load", lambda *args, **kwargs: torch.nn.Sigmoid())
    monkeypatch.setattr(program, "ckpt_export", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="the TorchScript module's logits differ by"):
        CHECKS["export to TorchScript"](bundle)


def test_masks_of_another_size_are_found(bundle, monkeypatch):
    monkeypatch.setattr(program, "_check_properties", lambda flow: flow.parser.ref_resolver.reset())
    monkeypatch.setattr(ConfigWorkflow, "run", lambda self: None)
    with pytest.raises(ValueError, match="gave masks of \\[\\]"):
        CHECKS["inference: properties and masks"](bundle)


def test_every_failure_is_printed_and_the_rest_goes_on(monkeypatch, capsys):
    def fail(root):
        raise ValueError("the reason\nand more")

    monkeypatch.setattr(program, "CHECKS", {"first": fail, "second": lambda root: None})
    assert main([]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "FAILED  first: the reason",
        "ok      second",
        "1 of 2 checks failed",
    ]


@pytest.mark.slow
def test_this_bundle_passes(capsys):
    assert main([]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.splitlines()[-1] == f"all {len(CHECKS)} checks passed"
