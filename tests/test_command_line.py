"""The programs on the command line: --help without torch, and a mistyped section ends with one line."""

import importlib
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAMS = (
    *("scripts.make_datalist", "scripts.convert_adapter", "scripts.export", "scripts.share", "scripts.verify"),
    *("scripts.check_data", "scripts.report"),
    *("scripts.settings", "eval.compare", "eval.preflight", "eval.recipes", "eval.publish", "eval.card"),
    *("eval.robustness", "eval.organs", "eval.nnunet", "eval.presence", "eval.kills", "eval.deploy"),
    "eval.active_learning",
    *(
        "eval.benchmark",
        "eval.benchmark.folders",
        "eval.benchmark.plots",
        "eval.federated",
        "eval.federated.nvflare_job",
    ),
)
# started by other programs, or without the bundle
NO_PROGRAMS = {
    *("scripts.export.on_demand", "scripts.share.manifest", "eval.benchmark.folder_run"),
    *("eval.nnunet.driver", "eval.federated.nvflare_client"),
}
# as python -m, where importing torch fails
WITHOUT_TORCH = """import runpy, sys
sys.modules["torch"] = None
sys.argv = [sys.argv[1], "--help"]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def test_list_of_programs_is_whole():
    files = [path for top in ("scripts", "eval") for path in (ROOT / top).rglob("*.py")]
    started = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in files
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert started == {*PROGRAMS, *NO_PROGRAMS}


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_does_without_torch(program):
    command = [sys.executable, "-c", WITHOUT_TORCH, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {program} ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("eval.compare", []),
        ("eval.preflight", ["--control", "student.pt"]),
        ("eval.recipes", []),
        ("eval.robustness", ["--checkpoint", "student=gone.pt"]),
        ("eval.federated", []),
    ],
)
def test_mistyped_section_ends_with_one_line(program, options, phantoms, tmp_path, capsys):
    words = [*options, "--output_dir", str(tmp_path / "out"), "--hardware::gpu_ids", "[]"]
    words += (
        ["--dataset_dirs", str(phantoms), str(phantoms)]
        if program == "eval.federated"
        else ["--dataset_dir", str(phantoms)]
    )
    module = importlib.import_module(program)
    module = importlib.import_module(f"{program}.__main__") if hasattr(module, "__path__") else module
    assert module.main([*words, "--trainig::num_epochs", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    name = program.removeprefix("eval.")
    assert line.startswith(f"{name}: unknown section 'trainig' in --trainig::num_epochs; did you mean --training::")
