"""The examples of README.md, docs/python.md and the notebook, as they are printed."""

import os
import re
import textwrap

import pytest
from api_students import speckle
from conftest import ROOT
from PIL import Image

from scripts.api.student import SHARED

EXAMPLES = {
    page: re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.S)
    for page in ("README.md", "docs/python.md")
}
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the images that the examples name; exports stay in it."""
    if not SHARED.is_file():
        pytest.skip("models/model.pt is not there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM_TINYUSFM_CACHE", str(tmp_path / "cache"))
    for number, name in enumerate(("image.png", "a.png", "b.png")):
        Image.fromarray(speckle(number, (300, 250))).save(tmp_path / name)
    return tmp_path


@pytest.mark.slow
def test_examples_of_the_pages_run(place):
    assert len(EXAMPLES["README.md"]) == 1
    assert len([line for line in EXAMPLES["README.md"][0].splitlines() if line.strip()]) == 3
    assert len(EXAMPLES["docs/python.md"]) >= 3
    for page, examples in EXAMPLES.items():
        names = {}
        for example in map(textwrap.dedent, examples):
            assert len(example.strip().splitlines()) <= 10
            exec(compile(example, page, "exec"), names)
        result = names["result"]
        assert result.mask.shape == result.probability.shape == result.overlay().shape[:2] == (250, 300)
        assert isinstance(result.lesions, list)
    assert (place / "overlay.png").is_file()


@pytest.mark.slow
def test_notebook_runs_from_an_image_to_a_trained_student(place, monkeypatch):
    nbclient, nbformat = (pytest.importorskip(name) for name in ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel")
    paths = [str(ROOT / "scripts" / "api"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(place)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 2
    assert (place / "models" / "model.pt").is_file()
