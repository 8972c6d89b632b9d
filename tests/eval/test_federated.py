"""Federated averaging by MONAI's own client: the Dice rises, and nothing but the student leaves a client."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TINY
from monai.bundle import ConfigWorkflow
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from eval.federated.__main__ import _advice, main
from eval.federated.averaging import average, make_client, run_rounds
from scripts.cache.entry_store import read_cache
from scripts.data.phantoms import write_phantom_dataset
from scripts.networks.student import TEST_SIZE, load_student
from scripts.run.history import read_history

ROUNDS, LOCAL_EPOCHS = 3, 8
IMAGES = (16, 12)
PAGE = ROOT / "docs" / "many_machines.md"
STUDENT = {  # without dropout, so that few steps show
    "_target_": "scripts.networks.tinyusfm.TinyUSFMSeg",
    "_requires_": "$sys.path.insert(1, @bundle_root)",
    "num_classes": "@data::num_classes",
    "img_size": "@data::img_size",
    **TINY,
    "dropout": 0.0,
    "drop_path_rate": 0.0,
}


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two data sets of different size, no image in both."""
    folder = tmp_path_factory.mktemp("sites")
    for i, count in enumerate(IMAGES, 1):
        write_phantom_dataset(folder / f"site_{i}", num_training=count, num_validation=4, num_test=1, seed=i, size=64)
    return [folder / "site_1", folder / "site_2"]


@pytest.fixture(scope="module")
def settings(sam_checkpoint, lora_checkpoint):
    return {
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam_checkpoint),
        "teacher::lora_checkpoint": str(lora_checkpoint),
        "student::model_name": TEST_SIZE,  # what a server builds
        "network_def": STUDENT,
        "training::num_epochs": ROUNDS * LOCAL_EPOCHS,
        "training::warmup_epochs": 0,
        "training::batch_size": 4,
        "training::num_workers": 0,
        "training::lr": 5e-3,
        "optimizer::layer_decay": 1.0,
        "distillation::alpha": 1.0,
        "distillation::beta": 0.01,
        "train::dataset::augmentation": None,
        "hardware::gpu_ids": [],
        "hardware::precision": "fp32",
    }


@pytest.fixture(scope="module")
def federation(sites, settings, tmp_path_factory):
    """Some rounds by two clients, which several tests look at."""
    folder = tmp_path_factory.mktemp("federation")
    clients = [make_client(f"client_{i}", site, folder, LOCAL_EPOCHS, settings) for i, site in enumerate(sites, 1)]
    return clients, run_rounds(clients, ROUNDS, folder), folder


def test_dice_of_the_averaged_student_rises_on_every_client(federation):
    _, found, folder = federation
    for name in ("client_1", "client_2"):
        dice = found["dice"][name]
        assert len(dice) == ROUNDS + 1, dice
        assert dice[-1] > dice[0] + 0.2, dice
    assert json.loads((folder / "federated.json").read_text()) == found
    assert found["images"] == list(IMAGES)


def test_only_the_student_is_sent(federation):
    clients, found, folder = federation
    student = clients[0].train_workflow.network_def.state_dict()
    for client in clients:
        assert client.train_workflow.check_properties() == [] == client.eval_workflow.check_properties()
        sent = client.get_weights().weights
        assert set(sent) == set(student)
        assert not [key for key in sent if "teacher" in key or "adapter" in key or "lora" in key]
    assert found["sent_tensors"] == len(student)
    assert found["sent_bytes"] == sum(value.nbytes for value in student.values())
    teacher = clients[0].train_workflow.parser.get_parsed_content("teacher").load()[0]
    assert found["sent_bytes"] < sum(value.nbytes for value in teacher.state_dict().values())
    assert set(torch.load(folder / "global_model.pt", weights_only=True)) == set(student)


def test_each_client_keeps_its_own_folders(federation):
    clients, _, folder = federation
    for client, count in zip(clients, IMAGES):
        own = folder / client.client_name
        assert len(read_cache(own / "cache")) == count + 4  # and the images of the panels
        assert (own / "model.pt").is_file()
        (run_folder,) = (own / f"site_{client.client_name[-1]}").iterdir()
        assert run_folder.name.startswith(client.client_name)  # MonaiAlgo's run_name
        history = read_history(run_folder)
        assert [row["epoch"] for row in history] == list(range(1, ROUNDS * LOCAL_EPOCHS + 1))
        rates = [row["lr"] for row in history]
        assert rates == sorted(rates, reverse=True)
        assert rates[-2] > 0  # one schedule over all rounds
        assert (run_folder / "distill.log").read_text().count("teacher cache: complete") == 1


def test_client_works_with_monais_defaults_and_sends_differences(sites, settings, tmp_path):
    """One config file for the training, train.json and evaluate.json for the evaluation, initialized twice."""
    from monai.fl.client import MonaiAlgo

    torch.manual_seed(0)
    parser = ConfigWorkflow(
        str(ROOT / "configs" / "train.json"), logging_file=False, workflow_type="train", **settings
    ).parser
    start = parser.get_parsed_content("network_def").state_dict()
    torch.save(start, tmp_path / "student.pt")
    own = {
        **settings,
        "bundle_root": str(ROOT),
        "data::dataset_dir": str(sites[0]),
        "run_folder::root": str(tmp_path / "logs"),
        "teacher::cache_dir": str(tmp_path / "cache"),
        "model_file": str(tmp_path / "model.pt"),
        "final_evaluation": None,
    }
    client = MonaiAlgo(
        str(ROOT), train_kwargs=dict(own), eval_kwargs={**own, "student::checkpoint": str(tmp_path / "student.pt")}
    )
    client.initialize()
    client.initialize()
    client.train(ExchangeObject(weights={key: value.clone() for key, value in start.items()}))
    sent = client.get_weights()
    assert sent.weight_type == WeightType.WEIGHT_DIFF
    assert set(sent.weights) == set(start)
    moved = max(float(value.abs().max()) for key, value in sent.weights.items() if value.is_floating_point())
    assert 0 < moved < 1
    assert 0 <= client.evaluate(ExchangeObject(weights=start)).metrics["val_mean_dice"] <= 1
    client.finalize()


def test_average_is_weighted_by_images_and_keeps_counters_whole():
    received = [
        {"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(4)},
        {"w": torch.tensor([3.0, 1.0]), "n": torch.tensor(2)},
    ]
    found = average(received, [2, 1])
    torch.testing.assert_close(found["w"], torch.tensor([1.0, 3.0]))
    assert found["n"] == 3
    assert found["n"].dtype == torch.int64
    with pytest.raises(ValueError, match=r"the clients have different networks: \['m'\] is not in all"):
        average([received[0], {**received[1], "m": torch.zeros(1)}], [1, 1])


@pytest.fixture
def documented(sites, settings, tmp_path):
    """Words of the page's command of a program, made a run of seconds."""
    left_out = ("training::num_epochs", "teacher::lora_checkpoint")
    tiny = {key: value for key, value in settings.items() if key not in left_out}
    (tmp_path / "tiny.json").write_text(json.dumps({**tiny, "teacher::model_name": "vit_test"}))
    replace = {"data/site_1": str(sites[0]), "data/site_2": str(sites[1]), "lite_medsam": "vit_test"}
    replace |= {"logs/federated": str(tmp_path / "out"), "logs/nvflare": str(tmp_path / "out")}
    replace |= {"mask_decoder": "sam_lora_image_encoder", "PATH": settings["teacher::lora_checkpoint"]}

    def command(program: str, rounds: int) -> list[str]:
        (line,) = re.findall(rf"^python -m {re.escape(program)} (.*)", PAGE.read_text().replace("\\\n", " "), re.M)
        words = [replace.get(word, word) for word in shlex.split(line)]
        rounds_place, epochs_place = (words.index(option) + 1 for option in ("--rounds", "--local_epochs"))
        warmup_epochs = json.loads((ROOT / "configs" / "train.json").read_text())["training"]["warmup_epochs"]
        assert int(words[rounds_place]) * int(words[epochs_place]) > warmup_epochs  # else the reader is refused
        words[rounds_place] = str(rounds)
        return [*words, "--config_file", str(tmp_path / "tiny.json")]

    return command


def test_documented_command_runs(documented, tmp_path, caplog):
    assert main(documented("eval.federated", rounds=1)) == 0
    assert (tmp_path / "out" / "global_model.pt").is_file()
    assert '"dice"' in caplog.text


@pytest.mark.nvflare
@pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="nvflare is installed in an environment of its own"
)
def test_documented_job_runs_in_nvflares_simulator(documented, tmp_path):
    words = documented("eval.federated.nvflare_job", rounds=2)
    environment = {**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "eval.federated.nvflare_job", *words]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    output = result.stdout + result.stderr
    assert result.returncode == 0, output[-4000:]
    averaged = torch.load(re.search("global model: (.*)", output)[1], weights_only=True)["model"]
    last = [
        torch.load(path, weights_only=True)["network"] for path in sorted((tmp_path / "out" / "sites").rglob("last.pt"))
    ]
    steps = [2 * (count // 4) for count in IMAGES]  # of a round, by which the server weighs
    expected = average(last, steps)
    for key, value in expected.items():
        if value.is_floating_point():
            torch.testing.assert_close(averaged[key], value, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(last[0][key], last[1][key]) for key in expected)
    assert "Empty result" not in output
    assert len(last) == 2


@pytest.mark.nvflare
@pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="nvflare is installed in an environment of its own"
)
def test_exported_job_has_an_app_for_each_site(documented, tmp_path, monkeypatch):
    from eval.federated.nvflare_job import main as nvflare_main

    monkeypatch.chdir(ROOT)
    assert nvflare_main([*documented("eval.federated.nvflare_job", rounds=2), "--export"]) == 0
    configs = sorted((tmp_path / "out" / "job").rglob("config_fed_client.json"))
    assert len(configs) == 2
    assert [f"site_{i}" in path.read_text() for i, path in enumerate(configs, 1)] == [True, True]


def test_job_needs_nvflare_two_clients_and_no_braces(monkeypatch, capsys):
    from eval.federated.nvflare_job import main as nvflare_main

    monkeypatch.setitem(sys.modules, "nvflare.app_opt.pt.recipes.fedavg", None)
    one = ["--output_dir", "logs", "--dataset_dirs", "data/site_1"]
    two = [*one, "data/site_2"]
    for words, message in (
        (two, "install NVFlare: python -m pip install nvflare"),
        (one, "nvflare_job: a federation needs at least two clients, got --dataset_dirs data/site_1"),
        (
            [*two, "--network_def", "{}"],
            "NVFlare takes '{}' for a variable of its own; write it to a file and pass it by --config",
        ),
    ):
        assert nvflare_main(words) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "federated: a federation needs at least two clients, got --dataset_dirs a"),
        (["a", "b", "--rounds", "0"], "federated: --rounds must be at least 1, got 0"),
        (["a", "b", "--local_epochs", "0"], "federated: --local_epochs must be at least 1, got 0"),
        (
            ["a", "b", "--training::resume", "logs/run"],
            "a client cannot go on from a checkpoint; pass --student::checkpoint",
        ),
    ],
)
def test_what_makes_no_federation_is_refused(words, message, capsys):
    assert main(["--output_dir", "logs", "--dataset_dirs", *words]) == 1
    assert message in capsys.readouterr().err


def test_results_of_completed_rounds_survive_a_failure(sites, settings, tmp_path, monkeypatch):
    """And the averaged student is what another federation can start from."""
    changes = {**settings, "training::num_epochs": 2}
    clients = [make_client(f"client_{i}", site, tmp_path, 1, changes) for i, site in enumerate(sites, 1)]
    train, calls = clients[1].train, []

    def fail_later(weights):
        calls.append(weights)
        return train(weights) if len(calls) == 1 else 1 / 0

    monkeypatch.setattr(clients[1], "train", fail_later)
    with pytest.raises(ZeroDivisionError):
        run_rounds(clients, 2, tmp_path)
    found = json.loads((tmp_path / "federated.json").read_text())
    assert [len(dice) for dice in found["dice"].values()] == [2, 2]
    student = clients[0].train_workflow.network_def
    load_student(student, tmp_path / "global_model.pt")
    averaged = torch.load(tmp_path / "global_model.pt", weights_only=True)
    assert all(torch.equal(value, averaged[key]) for key, value in student.state_dict().items())


def test_federation_that_is_stopped_says_what_it_keeps(tmp_path):
    assert _advice(tmp_path).startswith("nothing is kept yet; start again with: ")
    (tmp_path / "global_model.pt").touch()
    kept, _, command = _advice(tmp_path).partition("; ")
    assert kept == f"the average of the last whole round is kept in {tmp_path / 'global_model.pt'}"
    assert command.endswith(f"--student::checkpoint {tmp_path / 'global_model.pt'}")
