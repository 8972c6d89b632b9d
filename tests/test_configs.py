"""The files of configs/: what each may hold, the order of overlays, and the measured best recipe."""

import ast
import json
import re
import shlex
from itertools import combinations
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT
from monai.bundle import ConfigParser

from eval.recipes import RECIPES
from scripts.run.references import get_item
from scripts.utils.options import STUDENT

STANDING = ("train.json", "inference.json")
KINDS = ("train_teacher.json", "train_student.json", "pretrain.json", "evaluate.json")
STUDENT_RECIPES = ("from_scratch.json", "train_further.json")
RECIPE_OVERLAYS = (*STUDENT_RECIPES, "quickstart.json")
ADD_ONS = (
    *("shared_teacher.json", "multi_gpu_train.json", "multi_gpu_evaluate.json"),
    *("mlflow.json", "wandb.json", "federated.json"),
)
OVERLAYS = (*KINDS, *RECIPE_OVERLAYS, *ADD_ONS)
CONFIG_NAMES = (*STANDING, *OVERLAYS)
MISSING = object()


def read(name: str) -> dict:
    return json.loads((CONFIGS / name).read_text())


def texts(content) -> list[str]:
    """All strings of a JSON value, without the address that identifies the metadata schema."""
    if isinstance(content, dict):
        return [text for key, value in content.items() if key != "schema" for text in (key, *texts(value))]
    if isinstance(content, list):
        return [text for value in content for text in texts(value)]
    return [content] if isinstance(content, str) else []


# what a file holds


def test_every_config_is_known():
    assert sorted(path.name for path in CONFIGS.glob("*.json")) == sorted([*CONFIG_NAMES, "metadata.json"])


@pytest.mark.parametrize("name", [*CONFIG_NAMES, "metadata.json"])
def test_config_names_no_address_and_no_absolute_path(name):
    for text in texts(read(name)):
        assert not re.search(r"\w+://|\bwww\.|\.(com|io|co|net)\b", text), text
        assert not re.search(r"(^|[\s'\"])(~|[A-Z]:\\|/(home|root|work|tmp|mnt|data|opt|usr|var)\b)", text), text
        assert not text.startswith("/"), text


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_config_says_what_it_is_for(name):
    content = read(name)
    assert next(iter(content)) == "_desc_"
    assert len(content["_desc_"]) > 20


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_expressions_are_short(name):
    for text in texts(read(name)):
        if text.startswith("$"):
            assert len(text) <= 60, text
            assert "lambda" not in text
            assert "environ" not in text


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_standing_configs_need_no_other_file_and_overlays_hold_no_setup(name):
    content = read(name)
    assert ("bundle_root" in content) == (name in STANDING)
    assert ("initialize" in content) == (name in STANDING)
    assert [text for text in texts(content) if text.startswith("%") and ".json" in text] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_holds_only_what_differs(name):
    train, overlay = read("train.json"), read(name)
    assert [id for id, value in overlay.items() if value == value_of(id, train)] == []


def value_of(id: str, config: dict):
    try:
        return get_item(id, config)
    except (KeyError, TypeError, ValueError):
        return MISSING


# the order of overlays


def is_sensible(first: str, second: str) -> bool:
    """Whether two overlays are meant to be used together."""
    pair = {first, second}
    if any(pair <= set(group) for group in (KINDS, RECIPE_OVERLAYS)):
        return False  # one stands in the place of the other
    if pair & {"train_teacher.json", "pretrain.json"} and pair & {*RECIPE_OVERLAYS}:
        return False  # schedules of a student
    if pair == {"quickstart.json", "shared_teacher.json"}:
        return False  # each names a teacher
    # each says where its runs are written
    return not ("federated.json" in pair and pair & {*KINDS})


@pytest.mark.parametrize(("first", "second"), [pair for pair in combinations(OVERLAYS, 2) if is_sensible(*pair)])
def test_order_of_overlays_does_not_matter(first, second):
    assert merged(first, second) == merged(second, first)


@pytest.mark.parametrize(
    "overlays", [("federated.json", "train_student.json"), ("train_student.json", "federated.json")]
)
def test_control_of_a_federation_differs_by_order_in_its_folder_alone(overlays):
    first, second = merged(*overlays), merged("train_student.json", "federated.json")
    first["run_folder"].pop("root"), second["run_folder"].pop("root")
    assert first == second
    assert first["training"]["final_evaluation"] is None


def merged(*overlays: str) -> dict:
    """train.json and overlays as MONAI merges them; lists, which overlays append to, in one order."""
    config = ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *overlays)])
    return {key: without_order(value) for key, value in config.items() if key != "_desc_"}


def without_order(value):
    if isinstance(value, dict):
        return {key: without_order(part) for key, part in value.items()}
    if isinstance(value, list):
        return sorted((without_order(part) for part in value), key=lambda part: json.dumps(part, sort_keys=True))
    return value


# the best recipe


def best_options() -> dict:
    """Options of the recipe with the best mean validation Dice of a distilled student."""
    measured = json.loads((ROOT / "eval" / "results" / "recipes.json").read_text())["recipes"]
    students = {name: row["mean"] for name, row in measured.items() if RECIPES[name][0] == STUDENT}
    train = read("train.json")
    options = RECIPES[max(students, key=students.get)][1]
    return {id: value for id, value in options.items() if value != value_of(id, train)}


@pytest.mark.parametrize("name", STUDENT_RECIPES)
def test_overlays_for_students_hold_the_best_recipe(name):
    best, overlay = best_options(), read(name)
    assert best
    assert {id: overlay.get(id) for id in best} == best


def distillations(page: Path) -> list[list[str]]:
    """Config files of each command of a page that distils into a student without a published file."""
    blocks = re.findall(r"```(?:bash|sh|shell)\n(.*?)```", page.read_text(), re.S)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    trainings = [words for words in lines if "monai.bundle" in words and "--student::checkpoint" not in words]
    files = [words[words.index("--config_file") + 1] for words in trainings if "--config_file" in words]
    files = [ast.literal_eval(text) if text.startswith("[") else [text] for text in files]
    others = {f"configs/{name}" for name in (*KINDS, "quickstart.json", "inference.json")}
    return [names for names in files if not others & {*names}]


@pytest.mark.parametrize("name", ["README.md", "docs/walkthrough.md"])
def test_training_on_a_page_is_the_best_recipe(name):
    found = distillations(ROOT / name)
    assert found
    for files in found:
        config = ConfigParser.load_config_files([str(ROOT / file) for file in files])
        best = best_options()
        assert {id: get_item(id, config) for id in best} == best, files
