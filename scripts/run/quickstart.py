"""The quickstart's teacher: LiteMedSAM's mask decoder tuned on the phantoms, by the same training that real data gets.

configs/quickstart.json refers to `tune_teacher` where a real run names a file, so that one command does what a user
does in two: fine-tune a teacher, then distil it.
"""

from __future__ import annotations

import sys

from ..utils.files import CONFIGS
from ..utils.screen import tell
from .errors import NOTHING_KEPT, stopping, this_command
from .run_folder import RunFolder
from .workflow import build_workflow


def tune_teacher(
    bundle_root: str,
    dataset_dir: str,
    cache_dir: str,
    img_size: int,
    logs: str,
    gpu_ids: list[int],
    precision: str,
    seed: int,
    num_epochs: int = 8,
    batch_size: int = 2,
    lr: float = 1e-3,
) -> str:
    """Path of a teacher tuned on a data set with configs/train_teacher.json.

    Args:
        bundle_root: of this bundle.
        dataset_dir: with dataset.json.
        cache_dir: keeps the image embeddings, which every epoch reads again.
        img_size: of the images as the student will see them.
        logs: where the fine-tuning's run folder is made.
        gpu_ids: as hardware::gpu_ids.
        precision: as hardware::precision.
        seed: as training::seed.
        num_epochs: of the mask decoder.
        batch_size: images an iteration.
        lr: of AdamW.
    """
    tell(f"Step 1 of 2: the teacher's mask decoder is fine-tuned on {dataset_dir}")
    overrides = {
        "bundle_root": bundle_root,
        "data::dataset_dir": str(dataset_dir),
        "data::img_size": img_size,
        "teacher::model_name": "lite_medsam",
        "teacher::module": "mask_decoder",
        "teacher::cache_dir": cache_dir,
        "train::dataset::augmentation": None,
        "hardware::gpu_ids": gpu_ids,
        "hardware::precision": precision,
        "training::seed": seed,
        "training::num_epochs": num_epochs,
        "training::warmup_epochs": 0,
        "training::batch_size": batch_size,
        "training::num_workers": 0,  # the images are in memory and not augmented
        "training::lr": lr,
        "run_folder::root": logs,
    }
    workflow = build_workflow([CONFIGS / "train.json", CONFIGS / "train_teacher.json"], overrides)
    workflow.initialize()
    with stopping(lambda: f"{NOTHING_KEPT}; start again with: {this_command()}"):
        workflow.run()
    return str(workflow.parser.get_parsed_content("run_folder").best_model())


def print_next_commands(run_folder: RunFolder, dataset_dir: str, img_size: int) -> None:
    """Tell on the terminal where the results lie and what can be run next.

    Args:
        run_folder: of the distillation that has ended.
        dataset_dir: of the phantoms.
        img_size: of the student.
    """
    best = run_folder.best_model()
    python = sys.executable  # the environment that ran this
    print(f"""
The quickstart is done.
  results  {run_folder.path / "test_results.txt"}
  report   {run_folder.path / "report.html"} (opens in a browser)
  panels   {run_folder.visualizations}
  student  {best}

Segment images with this student:
  {python} -m monai.bundle run --config_file configs/inference.json --dataset_dir {dataset_dir}/images \\
      --checkpoint {best} --img_size {img_size} --output_dir masks

Look at the curves (loss terms, metrics):
  {python} -m tensorboard.main --logdir {run_folder.tensorboard}

Do the same on your own images (README.md, "Train on your data"):
  {python} -m scripts.make_datalist --help
""")
