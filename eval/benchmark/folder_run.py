"""One run of configs/inference.json, timed: the process that `folders.py` starts in this bundle or in an earlier one.

    python eval/benchmark/folder_run.py '{"dataset_dir": "images", "output_dir": "masks"}' 1

It runs in the bundle of the current folder, whichever version that is, so it takes nothing from its neighbors. The
seconds do not hold the start of the process and the loading of the student.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str]) -> int:
    """Print the figures as a line of JSON; takes overrides of the config as JSON, and the threads."""
    sys.path.insert(0, os.getcwd())
    import torch

    overrides, threads = json.loads(arguments[0]), int(arguments[1])
    torch.set_num_threads(threads)
    flow = _workflow(overrides)
    flow.initialize()
    evaluator = flow.parser.get_parsed_content("evaluator")
    seconds, cpu_seconds = time.perf_counter(), time.process_time()
    evaluator.run()
    figures = {"seconds": time.perf_counter() - seconds, "cpu_seconds": time.process_time() - cpu_seconds}
    print(json.dumps(figures))
    return 0


def _workflow(overrides: dict[str, Any]) -> Any:
    """The workflow of configs/inference.json, by MONAI's own class where a version has none (0.5.0)."""
    try:
        from scripts.run.workflow import build_workflow
    except ModuleNotFoundError:
        from monai.bundle import ConfigWorkflow

        files = {"config_file": "configs/inference.json", "meta_file": "configs/metadata.json"}
        return ConfigWorkflow(**files, logging_file=False, workflow_type="infer", bundle_root=".", **overrides)
    return build_workflow(["inference.json"], overrides, "run", "infer")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
