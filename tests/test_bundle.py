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

import pytest
import torch
from conftest import CONFIGS, ROOT, TINY_STUDENT, run, workflow
from fire.parser import DefaultParseValue
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out

OVERLAYS = ["train_teacher.json", "train_student.json", "evaluate.json", "quickstart.json"]
# initialized by tests of their own
OTHER_OVERLAYS = [
    *("shared_teacher.json", "from_scratch.json", "train_further.json", "mlflow.json", "wandb.json"),
    *("multi_gpu_train.json", "multi_gpu_evaluate.json", "federated.json"),
]
CONFIG_NAMES = ["train.json", "inference.json", *OVERLAYS, *OTHER_OVERLAYS]
WIRING = {"on_completion"}  # of a user section, but for overlays
READMES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


# properties


def test_training_has_every_property_of_a_monai_workflow(overrides):
    flow = workflow(overrides)
    flow.initialize()
    assert flow.check_properties() == []
    assert flow.network_def is flow.trainer.network and flow.val_interval == 1 and flow.max_epochs == 2


def test_inference_has_every_property_of_a_monai_workflow(phantoms, tmp_path):
    from scripts.networks.tinyusfm import TinyUSFMSeg

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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_initializes(overrides, overlay):
    run_id = "evaluating" if overlay == "evaluate.json" else "training"
    flow = workflow(overrides, overlay, run_id=run_id)
    flow.initialize()
    assert run_id in flow.parser and "run" in flow.parser


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
    assert record.info.run_name == "tiny" and "train_loss" in record.data.metrics


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


def texts(content) -> list[str]:
    """All strings of a JSON value, without the address that identifies the metadata schema."""
    if isinstance(content, dict):
        return [text for key, value in content.items() if key != "schema" for text in (key, *texts(value))]
    if isinstance(content, list):
        return [text for value in content for text in texts(value)]
    return [content] if isinstance(content, str) else []


@pytest.mark.parametrize("name", [*CONFIG_NAMES, "metadata.json"])
def test_config_names_no_address_and_no_absolute_path(name):
    for text in texts(json.loads((CONFIGS / name).read_text())):
        assert not re.search(r"\w+://|\bwww\.|\.(com|io|co|net)\b", text), text
        assert not re.search(r"(^|[\s'\"])(~|[A-Z]:\\|/(home|root|work|tmp|mnt|data|opt|usr|var)\b)", text), text
        assert not text.startswith("/"), text


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_config_says_what_it_is_for(name):
    content = json.loads((CONFIGS / name).read_text())
    assert next(iter(content)) == "_desc_" and len(content["_desc_"]) > 20


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_expressions_are_short(name):
    for text in texts(json.loads((CONFIGS / name).read_text())):
        assert not text.startswith("$") or (len(text) <= 60 and "lambda" not in text and "environ" not in text), text


def test_standing_configs_need_no_other_file_and_overlays_hold_no_setup():
    for name in CONFIG_NAMES:
        content = json.loads((CONFIGS / name).read_text())
        assert ("bundle_root" in content and "initialize" in content) == (name in ("train.json", "inference.json"))
        assert not [text for text in texts(content) if text.startswith("%") and ".json" in text]


def test_logging_configuration_loads():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        logging.config.fileConfig(CONFIGS / "logging.conf", disable_existing_loggers=False)
        assert root.level == logging.INFO and isinstance(root.handlers[0], logging.StreamHandler)
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def test_every_config_is_known():
    assert sorted(path.name for path in CONFIGS.glob("*.json")) == sorted([*CONFIG_NAMES, "metadata.json"])


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


@pytest.mark.parametrize("name", ["scripts.make_datalist", "scripts.export.check", "scripts.share.bundle"])
def test_options_of_a_program_in_a_readme_exist(name):
    found = commands(name)
    assert found
    for words in found:
        importlib.import_module(name)._parser().parse_args(words[1:])


@pytest.mark.parametrize(
    "name", ["eval.compare", "eval.preflight", "eval.publish", "eval.benchmark.__main__", "eval.recipes"]
)
def test_options_of_a_measuring_program_in_a_readme_exist(name, capsys):
    found = commands(name)
    assert found
    for words in found:
        importlib.import_module(name)._parse(words[1:])


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.stem)
def test_overrides_that_a_readme_names_exist(path):
    # train.json last: overlays hold whole sections under their own names, and single keys with "::"
    names = [*OTHER_OVERLAYS, "train.json"]
    config = {key: value for name in names for key, value in json.loads((CONFIGS / name).read_text()).items()}
    text = path.read_text()
    overrides = [name.split("::") for name in re.findall(r"--(\w+(?:::\w+)+)", text)]
    rows = re.findall(r"^\| `(\w+)` \| (`.*) \|$", text, re.M)
    overrides += [[section, key] for section, keys in rows if section in config for key in re.findall(r"`(\w+)`", keys)]
    for keys in overrides:
        content = config
        for key in keys:
            assert key in content, "::".join(keys)
            content = content[key]


def test_readme_lists_every_key_of_a_user_section():
    config = json.loads((CONFIGS / "train.json").read_text())
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*) \|$", (ROOT / "README.md").read_text(), re.M))
    for section in ("data", "teacher", "student", "distillation", "augmentation", "training", "hardware"):
        listed = set(re.findall(r"`(\w+)`", rows[section]))
        own = {
            key for key, value in config[section].items() if key[0] != "_" and not str(value).startswith("@")
        } - WIRING
        assert own == listed, section


# elsewhere


@pytest.mark.slow
def test_copied_bundle_trains_from_another_working_directory(overrides, tmp_path):
    copy, elsewhere = tmp_path / "copy of the bundle", tmp_path / "elsewhere"
    for name in ("configs", "scripts", "eval", "docs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere.mkdir()
    ours = ("bundle_root", "run_folder::root", "model_file")
    overlay = {key: value for key, value in overrides.items() if key not in ours}
    overlay["network_def"] = {**TINY_STUDENT, "_requires_": "$sys.path.insert(1, @bundle_root)"}
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
    assert (run_folder / "test_results.txt").is_file() and (copy / "models" / "model.pt").is_file()
    assert [path.name for path in elsewhere.iterdir()] == ["tiny.json"]
    assert f"run folder: {run_folder}" in result.stdout and str(ROOT) not in result.stdout
