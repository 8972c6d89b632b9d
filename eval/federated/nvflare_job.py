"""An NVFlare job of federated averaging, run in NVFlare's simulator or exported for a real federation.

    python -m eval.federated.nvflare_job --dataset_dirs data/site_1 data/site_2 --output_dir logs/nvflare --rounds 10 \\
        --teacher::model_name lite_medsam --teacher::module mask_decoder --teacher::lora_checkpoint PATH

Needs the package nvflare, 2.9. Client i is site-i and trains on the i-th folder by eval/federated/nvflare_client.py;
the server averages the students and writes the mean below OUTPUT_DIR. With --export the job is written to
OUTPUT_DIR/job instead, for `nvflare job submit`: the folders are then those of the sites, and each site has this bundle
in the same folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from scripts.run.config_check import RESERVED
from scripts.utils.files import BUNDLE_ROOT

from ..arms import parse_overrides, report_error
from .averaging import KEY_METRIC, TRAINING, check_options, federation_parser

CLIENT = "eval/federated/nvflare_client.py"  # below the working directory, as NVFlare wants it
GLOBAL_MODEL = "server/simulate_job/app_server/FL_global_model.pt"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 after a message on stderr, or when the job fails."""
    try:
        options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
        return run_job(options, overrides)
    except Exception as error:
        return report_error("nvflare_job", error)


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = federation_parser("eval.federated.nvflare_job", __doc__)
    parser.add_argument("--export", action="store_true", help="write the job instead of simulating it")
    return parser.parse_known_args(arguments)


def run_job(options: argparse.Namespace, overrides: list[str]) -> int:
    """Export a job or simulate it to its end; 0 when it is well.

    Args:
        options: of the command line.
        overrides: `--id value` pairs for every client.

    Raises:
        ValueError: nvflare is not installed, an override with braces, and see `check_options`.
        OSError: the job has failed.
    """
    check_options(options, parse_overrides(overrides))
    if braces := [word for word in overrides if "{" in word]:
        raise ValueError(
            f"NVFlare takes {braces[0]!r} for a variable of its own; write it to a file and pass it by --config_file."
        )
    try:
        from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
        from nvflare.recipe import SimEnv
        from nvflare.recipe.utils import set_per_site_config
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; install NVFlare: python -m pip install nvflare.") from None
    folder = options.output_dir.resolve()
    schedule = ["--training::num_epochs", str(options.rounds * options.local_epochs)]
    files = [str(Path(file).resolve()) for file in options.config_file]
    common = [
        "--bundle_root",
        str(BUNDLE_ROOT),
        "--output_dir",
        str(folder / "sites"),
        "--local_epochs",
        str(options.local_epochs),
    ]
    common += ["--config_file", *files] if files else []
    sites = {f"site-{i}": str(Path(path).resolve()) for i, path in enumerate(options.dataset_dirs, 1)}
    recipe = FedAvgRecipe(
        name="distillation",
        model=initial_student(overrides, options.config_file),
        min_clients=len(sites),
        num_rounds=options.rounds,
        train_script=CLIENT,
        key_metric=KEY_METRIC,
        launch_external_process=True,
        command=f"{sys.executable} -u",
    )
    words = {site: [*common, "--dataset_dir", path, *schedule, *overrides] for site, path in sites.items()}
    set_per_site_config(recipe, {site: {"train_args": shlex.join(own)} for site, own in words.items()})
    if options.export:
        recipe.export(str(folder / "job"))
        return 0
    # for the server
    os.environ["PYTHONPATH"] = os.pathsep.join([str(BUNDLE_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = SimEnv(clients=list(sites), workspace_root=str(folder))
    model = Path(recipe.execute(environment).get_result()) / GLOBAL_MODEL
    if environment.last_run_failed or not model.is_file():
        raise OSError(f"the job has failed and left no {model}; the clients' messages are above.")
    print("global model:", model)
    return 0


def initial_student(overrides: list[str], config_files: Sequence[str] = ()) -> dict[str, Any]:
    """The student that the first round starts from, as NVFlare's server builds it: the class and the arguments of
    `network_def`.
    """
    files = [*(str(BUNDLE_ROOT / name) for name in TRAINING), *config_files]
    workflow = ConfigWorkflow(
        files, logging_file=False, workflow_type="train", bundle_root=str(BUNDLE_ROOT), **parse_overrides(overrides)
    )
    component = workflow.parser["network_def"]
    names = [name for name in component if name not in RESERVED]
    return {
        "class_path": component["_target_"],
        "args": {name: workflow.parser.get_parsed_content(f"network_def::{name}") for name in names},
    }


if __name__ == "__main__":
    sys.exit(main())
