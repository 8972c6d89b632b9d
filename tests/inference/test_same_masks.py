"""Inference and evaluation on real images that are larger than the network's input: the same masks, bit for bit."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT, SHARED, workflow
from PIL import Image

from scripts.evaluation.evaluate import Arm, read_case, segment_case
from scripts.metrics import logits_to_classes
from scripts.run.workflow import build_workflow

NATIVE, COUNT = SHARED / "busbra_native", 8


@pytest.mark.skipif(not (ROOT / "models" / "model.pt").is_file(), reason="models/model.pt is not there")
@pytest.mark.skipif(not NATIVE.is_dir(), reason="../shared/data is not there")
def test_masks_of_real_images_are_those_of_the_evaluation(tmp_path):
    cases = json.loads((NATIVE / "dataset.json").read_text())["training"][:COUNT]
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for case in cases:
        shutil.copy(NATIVE / case["image"], tmp_path / "images")
        shutil.copy(NATIVE / case["label"], tmp_path / "labels")
    entries = [{key: f"{key}s/{case[key].split('/')[-1]}" for key in ("image", "label")} for case in cases]
    lists = {"training": entries[:1], "validation": entries[1:2], "test": entries[2:]}
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    hardware = {"hardware::gpu_ids": [], "hardware::precision": "fp32"}

    own = {"dataset_dir": str(tmp_path / "images"), "output_dir": str(tmp_path / "masks"), "engine": "torch"}
    inference = build_workflow(["inference.json"], {**hardware, **own}, run_id="run", kind="infer")
    inference.initialize()
    inference.run()

    parser = workflow({**hardware, "data::dataset_dir": str(tmp_path)}, "evaluate.json").parser
    dataset, student = parser.get_parsed_content("test::dataset"), parser.get_parsed_content("network").eval()
    arm, autocast = Arm("student", student, 224), parser.get_parsed_content("hardware").autocast()
    for index, case in enumerate(cases[2:]):
        one = read_case(dataset, index)
        expected = logits_to_classes(segment_case(arm, one, 2, "cpu", autocast)[None])[0, 0].numpy()
        stem = case["image"].split("/")[-1].rsplit(".", 1)[0]
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{stem}_mask.png"))
        assert min(mask.shape) > 224
        assert mask.any()
        assert np.array_equal(mask, expected), stem
