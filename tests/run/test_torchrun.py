"""docs/many_machines.md with torchrun itself, and its SLURM script."""

import ast
import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import CONFIGS, ROOT
from on_ranks import PAGE, TEST, comparable_history

from scripts.run import distributed

pytest_plugins = "ranks_fixtures"


def documented(start: str) -> list[str]:
    """Words of the command of the page that begins so."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S):
        found += [shlex.split(line) for line in block.replace("\\\n", " ").splitlines() if line.startswith(start)]
    assert len(found) == 1, f"{start} is there {len(found)} times"
    return found[0]


def torchrun_command(words: list[str], tiny: Path, replace: dict[str, str]) -> list[str]:
    """A documented command with this Python, a config file more, and other paths."""
    words = [replace.get(word, word) for word in words]
    place = words.index("--config_file") + 1
    words[place] = str([*ast.literal_eval(words[place]), str(tiny)])
    return [sys.executable, "-m", "torch.distributed.run", *words[words.index("torchrun") + 1 :]]


@pytest.fixture
def tiny(settings, tmp_path) -> Path:
    """A config file that makes a documented command a run of seconds."""
    ours = ("bundle_root", "data::dataset_dir", "teacher::lora_checkpoint")
    overlay = {key: value for key, value in settings.items() if key not in ours}
    overlay |= {
        "run_folder::root": str(tmp_path / "logs"),
        "model_file": str(tmp_path / "model.pt"),
        "teacher::cache_dir": str(tmp_path / "cache"),
        "teacher::module": "sam_lora_image_encoder",
        "distillation::gamma": 0.0,
        "distillation::mode": "warp",
        "hardware::gpu_ids": [],
    }
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    return tmp_path / "tiny.json"


def environment(words: list[str]) -> dict[str, str]:
    """With what the command sets before its first word."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **dict(word.split("=") for word in words[: words.index("torchrun")])}


def workers(agent: int) -> list[int]:
    """Processes that torchrun has started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [int(child) for child in children if b"monai.bundle" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found in /proc")
def test_documented_training_survives_the_kill_of_a_rank_and_is_evaluated(settings, tiny, tmp_path):
    words = documented(f"{distributed.OWN_STORE} torchrun --standalone --nproc_per_node=2 --max-restarts=3")
    paths = {
        "data/BUSBRA": settings["data::dataset_dir"],
        "PATH": settings["teacher::lora_checkpoint"],
        "lite_medsam": "vit_test",
    }
    paths["mask_decoder"] = "sam_lora_image_encoder"
    epochs = 12
    command = [
        *torchrun_command(words, tiny, paths),
        "--training::num_epochs",
        str(epochs),
        "--training::patience",
        "0",
    ]
    with open(tmp_path / "output.txt", "w") as output:
        agent = subprocess.Popen(command, cwd=ROOT, env=environment(words), stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 600
        while not list((tmp_path / "logs").rglob("last.pt")) and time.monotonic() < deadline and agent.poll() is None:
            time.sleep(0.2)
        assert list((tmp_path / "logs").rglob("last.pt")), (tmp_path / "output.txt").read_text()[-4000:]
        victim = workers(agent.pid)[1]
        os.kill(victim, signal.SIGKILL)
        assert agent.wait(timeout=600) == 0, (tmp_path / "output.txt").read_text()[-4000:]
    finally:
        agent.kill()
    (folder,) = (tmp_path / "logs" / "uneven").iterdir()
    log = (folder / "distill.log").read_text()
    assert log.count("resumed after epoch") == 1
    assert f"epoch {epochs}/{epochs} " in log
    assert [row["epoch"] for row in comparable_history(folder)] == list(range(1, epochs + 1))
    assert (folder / "test_results.txt").is_file()
    # torchrun says which process has ended
    assert f"failed (exitcode: -9) local_rank: 1 (pid: {victim})" in (tmp_path / "output.txt").read_text()

    paths["models/best.pt"] = str(next((folder / "models").glob("best_epoch*")))
    words = documented("torchrun --standalone --nproc_per_node=2 -m monai.bundle run evaluating")
    command = [*torchrun_command(words, tiny, paths), "--run_folder::root", str(tmp_path / "evaluation")]
    result = subprocess.run(command, cwd=ROOT, env=environment(words), capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    (evaluated,) = (tmp_path / "evaluation" / "uneven").iterdir()
    with open(evaluated / "metrics.csv", newline="") as file, open(folder / "metrics.csv", newline="") as other:
        pairs = [[row for row in csv.DictReader(one) if row["arm"] == "student"] for one in (file, other)]
    assert pairs[0] == pairs[1]
    assert len(pairs[0]) == TEST


def test_commands_with_and_without_restarts_are_the_same_but_for_them():
    with_restarts = documented(f"{distributed.OWN_STORE} torchrun")
    plain = documented("torchrun --standalone --nproc_per_node=2 -m monai.bundle run training")
    assert [word for word in with_restarts if word not in (distributed.OWN_STORE, "--max-restarts=3")] == plain


def test_slurm_script_is_valid_and_holds_the_documented_command():
    script = ROOT / "docs" / "slurm_train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "#SBATCH --requeue" in text
    assert "scontrol requeue" in text
    assert f"export {distributed.OWN_STORE}" in text
    blocks = re.findall(r"```bash\n(srun torchrun .*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 1
    assert blocks[0].strip() in text


def test_overrides_of_the_page_exist():
    config = json.loads((CONFIGS / "train.json").read_text())
    overlay = json.loads((CONFIGS / "multi_gpu_train.json").read_text())
    assert overlay["hardware::gpu_ids"] is None
    for keys in re.findall(r"--(\w+(?:::\w+)+)", PAGE.read_text()):
        content = config
        for key in keys.split("::"):
            assert key in content, keys
            content = content[key]
