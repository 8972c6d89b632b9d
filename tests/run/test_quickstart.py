"""The quickstart with fewer phantoms: the real LiteMedSAM is tuned and distilled."""

import pytest
import torch
from conftest import ROOT, run

from scripts.networks.student import TEST_SIZE


@pytest.mark.slow
def test_quickstart_tunes_a_teacher_distils_it_and_tells_what_is_next(tmp_path, capsys):
    flow = run(
        {
            "bundle_root": str(ROOT),
            "hardware::gpu_ids": [],
            "student::model_name": TEST_SIZE,
            "phantoms::dataset_dir": str(tmp_path / "phantoms"),
            "phantoms::num_training": 3,
            "phantoms::num_validation": 1,
            "phantoms::num_test": 1,
            "phantoms::size": 64,
            "data::img_size": 64,
            "teacher::cache_dir": str(tmp_path / "cache"),
            "quickstart_teacher::num_epochs": 1,
            "quickstart_teacher::logs": str(tmp_path / "teacher"),
            "run_folder::root": str(tmp_path / "logs"),
            "run_folder::timestamp": "run",
            "training::num_epochs": 2,
            "training::num_workers": 0,
        },
        "quickstart.json",
    )
    folder = tmp_path / "logs" / "phantoms" / "run"
    assert "teacher" in (folder / "test_results.txt").read_text()
    assert (folder / "visualizations" / "test_sample_000.png").is_file()
    teacher = flow.parser.get_parsed_content("cached_teacher")
    assert teacher.mode == "warp"
    assert len(teacher.filling.views) == 3
    assert not teacher.filling.missing
    out = capsys.readouterr().out
    assert "configs/inference.json" in out
    assert all(str(folder / name) in out for name in ("test_results.txt", "report.html"))
    best = next((folder / "models").glob("best_epoch*.pt"))
    assert str(best) in out
    assert "backbone.cls_token" in torch.load(best, weights_only=True)
