"""The bundle as MONAI, MONAI Label and a user see it: properties, metadata, paths, and the commands of the READMEs."""

import ast
import importlib.util
import json
import logging.config
import os
import re
import shlex
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY, run, workflow
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

from scripts.networks.tinyusfm import TinyUSFMSeg

READMES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# properties


def test_training_has_every_property_of_a_monai_workflow(overrides):
    flow = workflow(overrides)
    flow.initialize()
    assert flow.check_properties() == []
    assert flow.network_def is flow.trainer.network
    assert flow.val_interval == 1
    assert flow.max_epochs == 2


def test_inference_has_every_property_of_a_monai_workflow(phantoms, tmp_path):
    torch.save(TinyUSFMSeg().state_dict(), tmp_path / "model.pt")
    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "inference.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(ROOT),
        dataset_dir=str(phantoms / "images"),
        output_dir=str(tmp_path / "masks"),
        checkpoint=str(tmp_path / "model.pt"),
    )
    flow.initialize()
    assert flow.check_properties() == []
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("overlay", ["train_teacher.json", "train_student.json", "quickstart.json"])
def test_overlay_initializes(overrides, overlay):
    flow = workflow(overrides, overlay)
    flow.initialize()
    assert "training" in flow.parser
    assert "run" in flow.parser


def test_evaluation_initializes(overrides, tmp_path):
    torch.save(TinyUSFMSeg(img_size=64, **TINY).state_dict(), tmp_path / "student.pt")
    overrides["student::checkpoint"] = str(tmp_path / "student.pt")
    flow = workflow(overrides, "evaluate.json", run_id="evaluating")
    flow.initialize()
    assert "evaluating" in flow.parser


@pytest.mark.parametrize("run_id", ["training", "run"])
def test_both_ids_start_the_training(overrides, run_folder, run_id):
    overrides["training::num_epochs"] = 1
    run({**overrides, "final_evaluation": None}, run_id=run_id)
    assert (run_folder / "models" / "last.pt").is_file()


@pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is an optional extra that is not installed"
)
def test_tracking_with_mlflow_records_the_run(overrides, tmp_path):
    import mlflow

    flow = ConfigWorkflow(
        config_file=str(CONFIGS / "train.json"),
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id="training",
        tracking="mlflow",
        **{**overrides, "output_dir": str(tmp_path / "tracked"), "run_name": "tiny"},
    )
    flow.initialize()
    flow.run()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'tracked' / 'mlruns.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "monai_experiment"]
    (record,) = client.search_runs([experiment.experiment_id])
    assert record.info.run_name == "tiny"
    assert "train_loss" in record.data.metrics


# metadata


def test_metadata_is_valid_against_the_shipped_schema_offline(monkeypatch):
    import urllib.request

    def refuse(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(urllib.request, "urlretrieve", refuse)
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(ROOT / "eval" / "schema.json"))


def test_invalid_metadata_is_refused_by_the_shipped_schema(tmp_path):
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    (tmp_path / "metadata.json").write_text(json.dumps({**metadata, "version": 1}))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(ROOT / "eval" / "schema.json"))


def test_version_is_in_the_changelog_and_in_pyproject():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert f'version = "{metadata["version"]}"' in (ROOT / "pyproject.toml").read_text()


def test_network_has_the_shapes_of_the_metadata():
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        device="cpu",
        bundle_root=str(ROOT),
    )


# files


def test_logging_configuration_loads():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logging.config.fileConfig(CONFIGS / "logging.conf", disable_existing_loggers=False)
        assert root.level == logging.INFO
        assert isinstance(root.handlers[0], logging.StreamHandler)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "CITATION.cff", "docs/data_license.txt", "eval/schema.json", ".ci/run"]
)
def test_bundle_has(name):
    assert (ROOT / name).stat().st_size > 0


# commands


def commands(program: str = "monai.bundle") -> list[list[str]]:
    """Words of every command of a program in the READMEs, from its name on."""
    found = []
    for path in READMES:
        for block in re.findall(r"```(?:bash|sh|shell)\n(.*?)```", path.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if program in words:
                    found.append(words[words.index(program) :])
    return found


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{n}") for n, words in enumerate(commands())])
def test_command_of_a_readme_is_accepted(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[1] != "run":
        pytest.skip(f"monai.bundle {words[1]} is no run; the tests above call it")
    run_id = words[2] if not words[2].startswith("-") else "run"
    options = [word.removeprefix("--") for word in words[2 + (run_id == words[2]) :]]
    options = [re.sub(r"^\$([A-Z]\w*)$", r"\1", word) for word in options]  # a variable of the reader's shell
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    config_file = pairs.pop("config_file")
    files = ast.literal_eval(config_file) if config_file.startswith("[") else [config_file]
    if not all((ROOT / name).is_file() for name in files):
        pytest.skip(f"{files} holds a file of the reader's")
    if "multi_gpu" in config_file:
        pytest.skip("torchrun starts it, in test_distributed.py")
    pairs.pop("tracking", None)
    flow = ConfigWorkflow(
        config_file=files,
        logging_file=False,
        run_id=run_id,
        **{key: DefaultParseValue(value) for key, value in pairs.items()},
    )
    flow.initialize()
    assert run_id in flow.parser


def module_of(program: str) -> ModuleType:
    """What `python -m` runs of it."""
    module = importlib.import_module(program)
    return importlib.import_module(f"{program}.__main__") if hasattr(module, "__path__") else module


@pytest.mark.parametrize(
    "name", ["scripts.make_datalist", "scripts.export", "scripts.share", "scripts.convert_adapter", "eval.deploy"]
)
def test_options_of_a_program_in_a_readme_exist(name):
    found = commands(name)
    assert found
    for words in found:
        module_of(name)._parser().parse_args(words[1:])


@pytest.mark.parametrize(
    "name",
    [
        *(f"eval.{name}" for name in ("compare", "preflight", "publish", "benchmark", "recipes")),
        *(f"eval.{name}" for name in ("robustness", "presence", "organs", "nnunet", "active_learning")),
    ],
)
def test_options_of_a_measuring_program_in_a_readme_exist(name):
    found = commands(name)
    assert found
    for words in found:
        module_of(name)._parse(words[1:])


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.stem)
def test_overrides_that_a_readme_names_exist(path):
    # train.json last: overlays hold whole sections under their own names, and single keys with "::"
    standing = [CONFIGS / name for name in ("inference.json", "metadata.json", "train.json")]
    names = [*sorted({*CONFIGS.glob("*.json")} - {*standing}), CONFIGS / "train.json"]
    config = {key: value for name in names for key, value in json.loads(name.read_text()).items()}
    overrides = [name.split("::") for name in re.findall(r"--(\w+(?:::\w+)+)", path.read_text())]
    for keys in overrides:
        content = config
        for key in keys:
            assert isinstance(content, dict), "::".join(keys)
            assert key in content, "::".join(keys)
            content = content[key]


# elsewhere


@pytest.mark.slow
def test_copied_bundle_trains_from_another_working_directory(overrides, tmp_path):
    copy, elsewhere = tmp_path / "copy of the bundle", tmp_path / "elsewhere"
    for name in ("configs", "scripts", "eval", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere.mkdir()
    ours = ("bundle_root", "run_folder::root", "model_file")
    overlay = {key: value for key, value in overrides.items() if key not in ours}
    (elsewhere / "tiny.json").write_text(json.dumps(overlay))
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "training",
        "--config_file",
        str([str(copy / "configs" / "train.json"), str(elsewhere / "tiny.json")]),
        "--bundle_root",
        str(copy),
        "--training::num_epochs",
        "1",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    run_folder = copy / "logs" / "distillation" / "phantoms" / "run"
    assert (run_folder / "test_results.txt").is_file()
    assert (copy / "models" / "model.pt").is_file()
    assert [path.name for path in elsewhere.iterdir()] == ["tiny.json"]
    assert f"run folder: {run_folder}" in result.stdout
    assert str(ROOT) not in result.stdout
