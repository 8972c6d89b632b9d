"""Signatures and docstrings, read from the source without importing it."""

import json
import subprocess
import sys

import pytest
from conftest import CONFIGS, ROOT

from scripts.run import signatures
from scripts.run.signatures import Parameter, find_definition, target_parameters

MODULE = '''"""A module."""

from .inner import Imported


def function(rate: float, /, size: int | None = None, *, names: tuple[str, ...] = ("a", "b"), plain=3, flag=-1.5):
    """What it does.

    More of it, with a word: and what looks like an argument.

    Args:
        rate: learning rate, of the last
            layer (see `other`). [above 0]
        size, plain: of both; with a [bracket] inside. [1 or more]
        names: which ones:
            all of them [those that
            there are]

    Raises:
        flag: not an argument.
    """


def bare(x, y=None):
    pass


def any_keyword(x: int, **kwargs):
    pass


class Built:
    """A class.

    Args:
        size: in pixels. [multiple of 16]
    """

    def __init__(self, size: int = 16) -> None:
        pass


class Fields:
    """A data class.

    Args:
        name: of the model. [one, two]
        count: of them.
    """

    name: str = "one"
    count: int


class Empty:
    """Nothing."""
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The target of a name in a bundle that has this module alone."""
    folder = tmp_path / "scripts"
    (folder / "wing").mkdir(parents=True)
    (folder / "module.py").write_text(MODULE)
    (folder / "inner.py").write_text('class Imported:\n    def __init__(self, x: int = 1):\n        """No text."""\n')
    (folder / "wing" / "__init__.py").write_text("from .part import Part as Renamed, Part\n")
    (folder / "wing" / "part.py").write_text("class Part:\n    def __init__(self, y=2):\n        pass\n")
    monkeypatch.setattr(signatures, "BUNDLE_ROOT", tmp_path)
    for function in (target_parameters, find_definition):
        function.cache_clear()
    yield lambda name: f"scripts.{name}"
    for function in (target_parameters, find_definition):
        function.cache_clear()


def test_ranges_in_brackets_and_meanings_are_read(module):
    parameters = target_parameters(module("module.function"))
    assert parameters == {
        "rate": Parameter("float", "", "learning rate, of the last layer (see `other`).", "above 0"),
        "size": Parameter("int | None", "None", "of both; with a [bracket] inside.", "1 or more"),
        "plain": Parameter("", "3", "of both; with a [bracket] inside.", "1 or more"),
        "names": Parameter("tuple[str, ...]", "('a', 'b')", "which ones: all of them", "those that there are"),
        "flag": Parameter("", "-1.5", "", ""),
    }


def test_arguments_without_a_docstring_have_no_meaning(module):
    assert target_parameters(module("module.bare")) == {
        "x": Parameter("", "", "", ""),
        "y": Parameter("", "None", "", ""),
    }


def test_what_takes_any_keyword_has_no_list_of_arguments(module):
    assert target_parameters(module("module.any_keyword")) is None
    assert target_parameters(module("module.Empty")) is None


def test_class_has_the_arguments_of_its_constructor_or_its_fields(module):
    assert target_parameters(module("module.Built")) == {"size": Parameter("int", "16", "in pixels.", "multiple of 16")}
    assert target_parameters(module("module.Fields")) == {
        "name": Parameter("str", "'one'", "of the model.", "one, two"),
        "count": Parameter("int", "", "of them.", ""),
    }


@pytest.mark.parametrize("name", ["wing.Part", "wing.part.Part"])
def test_definition_is_found_through_the_package_that_imports_it(module, name):
    assert target_parameters(module(name)) == {"y": Parameter("", "2", "", "")}
    assert find_definition(module(name)).name == "Part"


def test_definition_is_found_through_the_module_that_imports_it(module):
    assert list(target_parameters(module("module.Imported"))) == ["x"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("module.nothing", "_target_ scripts.module.nothing: there is no nothing in scripts.module"),
        ("nowhere.function", "_target_ scripts.nowhere.function: there is no module scripts.nowhere in this bundle"),
        ("wing.nothing", "there is no nothing in scripts.wing"),
    ],
)
def test_missing_target_is_refused(module, name, message):
    with pytest.raises(ValueError, match=message):
        target_parameters(module(name))


# the bundle's own


def test_arguments_of_the_training_are_those_of_its_docstring():
    parameters = target_parameters("scripts.trainer.run_training")
    assert parameters["lr"] == Parameter("float", "0.0001", "learning rate of AdamW, of the last layer.", "above 0")
    assert parameters["resume"].default == "None"


@pytest.mark.parametrize(
    "section", ["data", "teacher", "student", "distillation", "augmentation", "training", "hardware"]
)
def test_every_key_of_a_users_section_has_a_meaning(section):
    content = json.loads((CONFIGS / "train.json").read_text())[section]
    parameters = target_parameters(content["_target_"])
    for key in content:
        assert key[0] == "_" or parameters[key].meaning, f"{section}::{key}"


def test_heavy_libraries_stay_unloaded():
    code = (
        "import sys\n"
        "from scripts.run.signatures import target_parameters\n"
        "target_parameters('scripts.networks.frozen_teacher.FrozenTeacher')\n"
        "print([name for name in ('torch', 'monai') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr
