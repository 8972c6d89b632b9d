"""The page as a file: what is in it, what it needs, and what is refused. test_web_page.py opens it in a browser."""

import base64
import gzip
import hashlib
import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from web_parts import SIZE, mask_of, random_student, stand_in_packages, write_whole_way

from scripts.export import formats as export_formats
from scripts.export.__main__ import main
from scripts.export.formats import choose_formats, load_runner
from scripts.export.names import FORMAT_FILES, LICENSES, ONNX_FULL, PAGE
from scripts.export.web.packages import INSTALL
from scripts.export.web.scripts import inline, join_modules
from scripts.export.web.write import SOURCE, example_picture, runs, write_page
from scripts.export.whole import load_whole
from scripts.networks.tinyusfm import TinyUSFMSeg


@pytest.fixture(autouse=True)
def libraries():
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exports need the extra export")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the page of a student of an odd class, made with libraries that are short texts."""
    folder = tmp_path_factory.mktemp("page")
    write_whole_way(random_student(), folder, ["</script><b>"])
    write_page(folder, stand_in_packages(tmp_path_factory.mktemp("npm")))
    return folder


def blocks(page):
    """What stands in the page in base64, by id."""
    found = re.findall(r'<script type="text/plain" id="([^"]+)">([^<]*)</script>', page)
    return {name: gzip.decompress(base64.b64decode(text)) for name, text in found}


def settings(page):
    return json.loads(re.search(r'<script type="application/json" id="settings">(.*?)</script>', page, re.S)[1])


def test_page_holds_student_libraries_licenses_and_example(written):
    page = (written / PAGE).read_text(encoding="utf-8")
    data = blocks(page)
    assert data["model"] == (written / ONNX_FULL).read_bytes()
    assert data["wasm-cpu"] == b"stands for onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
    assert data["ort-gpu"] == b"stands for onnxruntime-web/dist/ort.jspi.bundle.min.mjs"
    assert b"stands for dicom-parser/LICENSE" in data["license-texts"]
    assert b"Microsoft" in data["license-texts"]
    assert data["worker"] == (SOURCE / "worker.js").read_bytes()
    assert data["example"] == example_picture().tobytes()
    assert {path.name for path in written.iterdir()} >= set(LICENSES)


def test_example_has_the_mask_that_python_finds(written):
    example = settings((written / PAGE).read_text(encoding="utf-8"))["example"]
    expected = load_whole(written)(example_picture()).mask
    assert 0 < expected.mean() < 1
    assert np.array_equal(mask_of(example["runs"], (example["height"], example["width"])), expected)


@pytest.mark.parametrize("mask", [[[0]], [[1, 1, 0], [0, 2, 2]], [[3, 3], [3, 3]]])
def test_run_lengths_keep_the_mask(mask):
    mask = np.array(mask, np.uint8)
    assert np.array_equal(mask_of(runs(mask), mask.shape), mask)
    assert len(runs(mask)) == 2 * (1 + np.count_nonzero(np.diff(mask.ravel())))


def test_policy_allows_the_two_scripts_and_the_style_and_no_connection(written):
    page = (written / PAGE).read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)[1]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert "unsafe-inline" not in policy
    assert rules.keys() <= {
        *("default-src", "script-src", "worker-src", "style-src", "img-src", "media-src", "base-uri", "form-action")
    }
    scripts = re.findall(r'<script(?: type="module")?>(.*?)</script>', page, re.S)
    assert len(scripts) == 2
    for text in scripts:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules["script-src"]
    assert not re.search(r"\b(?:https?|wss?)://", re.sub(r"stands for.*", "", page))


def test_name_of_a_class_is_no_html(written):
    page = (written / PAGE).read_text(encoding="utf-8")
    assert settings(page)["sam_tinyusfm"]["classes"] == ["background", "</script><b>"]
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)


def call(tmp_path, *words):
    torch.save(random_student().state_dict(), tmp_path / "model.pt")
    given = ["--checkpoint", str(tmp_path / "model.pt"), "--output", str(tmp_path / "out"), "--img_size", str(SIZE)]
    return main([*given, "--num_images", "2", *words])


def test_program_writes_the_page_and_its_licenses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
    packages = stand_in_packages(tmp_path)
    assert call(tmp_path, "--formats", "web", "--node_modules", str(packages)) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FORMAT_FILES["web"], "export.json"}
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["formats"]["web"]["max_probability_difference"] < 1e-5
    assert set(record["sha256"]) == set(FORMAT_FILES["web"])
    assert "web" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"{PAGE} runs in a browser: open it there"):
        load_runner("web", tmp_path / "out", SIZE)


@pytest.mark.parametrize(
    "missing, message",
    [
        ("onnxruntime-web/package.json", f"holds no onnxruntime-web; run {INSTALL}, and pass the folder node_modules"),
        ("dicom-parser/package.json", f"holds no dicom-parser; run {INSTALL}"),
        (
            "onnxruntime-web/dist/ort.jspi.bundle.min.mjs",
            "is no file, with onnxruntime-web 1.30.0, dicom-parser 1.8.21",
        ),
    ],
)
def test_missing_library_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys, missing, message):
    monkeypatch.setattr(export_formats, "TinyUSFMSeg", partial(TinyUSFMSeg, **TINY))
    packages = stand_in_packages(tmp_path)
    (packages / missing).unlink()
    assert call(tmp_path, "--formats", "web", "--node_modules", str(packages)) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_all_formats_leave_the_page_out_without_its_libraries(tmp_path, monkeypatch, capsys):
    rows = {name: export_formats.FORMATS[name] for name in ("onnx_full", "web")}
    monkeypatch.setattr(export_formats, "FORMATS", rows)
    assert choose_formats(["all"], tmp_path / "node_modules") == ["onnx_full"]
    assert f"web is left out: --node_modules {tmp_path / 'node_modules'} holds no onnx" in capsys.readouterr().out
    assert choose_formats(["all"], stand_in_packages(tmp_path)) == ["onnx_full", "web"]


@pytest.mark.parametrize("path", ["docs/web.md", "scripts/export/__main__.py"])
def test_documentation_installs_the_versions_of_the_libraries(path):
    assert INSTALL in [line.strip() for line in (ROOT / path).read_text(encoding="utf-8").splitlines()]


def test_modules_are_joined_in_the_order_of_their_need(tmp_path):
    (tmp_path / "main.js").write_text('import {b} from "./b.js";\nimport {a} from "./a.js";\nexport const c = a + b;\n')
    (tmp_path / "b.js").write_text('import {\n  a,\n} from "./a.js";\nexport function b() {}\n')
    (tmp_path / "a.js").write_text("export class a {}\nconst own = 1; // export this\n")
    joined = join_modules(tmp_path, "main.js")
    assert joined == "class a {}\nconst own = 1; // export this\n\nfunction b() {}\n\nconst c = a + b;\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("const a = 1;\n", "a.js and main.js both declare a; rename one"),
        ("export default 1;\n", "main.js has a form that is not joined: export default 1"),
        ('import * as a from "./a.js";\n', "main.js has a form that is not joined: import"),
    ],
)
def test_modules_that_cannot_be_joined_are_refused(tmp_path, text, message):
    (tmp_path / "a.js").write_text("export let a = 1;\n")
    (tmp_path / "main.js").write_text('import {a} from "./a.js";\n' + text)
    with pytest.raises(ValueError, match=re.escape(message)):
        join_modules(tmp_path, "main.js")


def test_script_that_would_end_its_tag_is_refused():
    with pytest.raises(ValueError, match="holds a tag that would end it"):
        inline('const text = "</SCRIPT>";')


def test_files_of_the_page_are_short_and_in_the_wheel():
    for path in SOURCE.iterdir():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 350, path.name
        assert max(map(len, lines)) <= 120, path.name
    assert '"sam_tinyusfm.scripts.export.web" = ["page/*"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
