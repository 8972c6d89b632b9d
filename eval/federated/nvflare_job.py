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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.utils.files import BUNDLE_ROOT
from scripts.utils.screen import tell

from ..command_line import parse_overrides, run_program
from .options import KEY_METRIC, TRAINING, check_options, federation_parser

CLIENT = "eval/federated/nvflare_client.py"  # below the working directory, as NVFlare wants it
GLOBAL_MODEL = "server/simulate_job/app_server/FL_global_model.pt"


def main(arguments: list[str] | None = None) -> int:
    """Run the program; 1 after a message on stderr, or when the job fails."""
    arguments = sys.argv[1:] if arguments is None else arguments
    return run_program("nvflare_job", lambda: run_job(*_parse(arguments)))


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
    places = {"--bundle_root": BUNDLE_ROOT, "--output_dir": folder / "sites", "--local_epochs": options.local_epochs}
    common = [str(word) for pair in places.items() for word in pair]
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
    set_per_site_config(recipe, {site: {"train_args": shlex.join(arguments)} for site, arguments in words.items()})
    if options.export:
        recipe.export(str(folder / "job"))
        return 0
    # for the server
    os.environ["PYTHONPATH"] = os.pathsep.join([str(BUNDLE_ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = SimEnv(clients=list(sites), workspace_root=str(folder))
    model = Path(recipe.execute(environment).get_result()) / GLOBAL_MODEL
    if environment.last_run_failed or not model.is_file():
        raise OSError(f"the job has failed and left no {model}; the clients' messages are above.")
    tell(f"global model: {model}")
    return 0


def initial_student(overrides: list[str], config_files: Sequence[str] = ()) -> dict[str, Any]:
    """The student that the first round starts from, as NVFlare's server builds it: a class and its arguments."""
    from scripts.run.workflow import build_workflow

    workflow = build_workflow([*(BUNDLE_ROOT / name for name in TRAINING), *config_files], parse_overrides(overrides))
    sizes = {name: workflow.parser.get_parsed_content(f"data::{name}") for name in ("num_classes", "img_size")}
    student = workflow.parser.get_parsed_content("student")
    return {"class_path": "scripts.networks.student.student_from_choices", "args": {**sizes, **asdict(student)}}


if __name__ == "__main__":
    sys.exit(main())
