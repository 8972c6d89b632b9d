"""The three trainings, run whole on phantoms with tiny networks."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY_STUDENT, root_cause, run, workflow
from ignite.engine import Events
from PIL import Image

from scripts.cache.cached_teacher import teacher_key
from scripts.networks.teacher import build_teacher, store_in_bf16
from scripts.networks.weights import fingerprint


def read_history(run_folder) -> list[dict]:
    with open(run_folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def distilled(request, tmp_path_factory):
    """One distillation of 20 epochs, which several tests look at."""
    path = tmp_path_factory.mktemp("distilled")
    phantoms, sam, lora = (request.getfixturevalue(name) for name in ("phantoms", "sam_checkpoint", "lora_checkpoint"))
    flow = run(
        {
            "bundle_root": str(ROOT),
            "run_folder::root": str(path / "logs"),
            "run_folder::timestamp": "run",
            "model_file": str(path / "model.pt"),
            "data::dataset_dir": str(phantoms),
            "data::img_size": 64,
            "teacher::model_name": "vit_test",
            "teacher::img_size": 64,
            "teacher::sam_checkpoint": str(sam),
            "teacher::lora_checkpoint": str(lora),
            "network_def": TINY_STUDENT,
            "training::num_epochs": 20,
            "training::warmup_epochs": 1,
            "training::batch_size": 3,
            "training::num_workers": 0,
            "training::lr": 5e-3,
            "distillation::gamma": 0.1,
            "distillation::student_channels": 6,
            "distillation::mode": "replay",
            "distillation::views": 3,
            "teacher::cache_dir": str(path / "cache"),
            "hardware::gpu_ids": [],
        }
    )
    return flow, path / "logs" / "phantoms" / "run", path


def test_run_folder_holds_what_the_readme_says(distilled):
    _, folder, path = distilled
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"config.json", "distill.log", "history.csv", "models/last.pt", "models/checkpoint_epoch020.pt"} <= names
    assert {
        "visualizations/epoch_010.png",
        "visualizations/epoch_020.png",
        "visualizations/test_sample_000.png",
    } <= names
    assert {"test_results.txt", "metrics.csv"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert sum(name.startswith("models/best_epoch") for name in names) == 1


def test_loss_falls_and_terms_are_logged_apart(distilled):
    history = read_history(distilled[1])
    assert len(history) == 20
    assert {"task", "distill", "feature", "val_mean_dice", "lr"} <= set(history[0])
    for term in ("loss", "task", "feature"):
        assert float(history[-1][term]) < 0.9 * float(history[0][term])
    assert all(float(row["distill"]) > 0 for row in history)


def test_from_scratch_learns_the_embedding_with_the_backbone_and_asks_the_teacher_once_an_image(overrides, run_folder):
    flow = run(
        {
            **overrides,
            "distillation::student_channels": TINY_STUDENT["embed_dim"],
            "training::num_epochs": 15,
            "training::lr": 5e-3,
            "final_evaluation": None,
        },
        "from_scratch.json",
    )
    history = read_history(run_folder)
    assert float(history[-1]["feature"]) < 0.9 * float(history[0]["feature"])
    assert len(flow.parser.get_parsed_content("frozen_teacher").views) == len(
        flow.parser.get_parsed_content("data").training
    )
    loss = flow.parser.get_parsed_content("loss")
    assert loss.student_features == "backbone"
    assert loss.adapter[0].in_channels == TINY_STUDENT["embed_dim"]
    assert loss.whiten


def test_control_takes_from_scratch_below_its_own_overlay(overrides):
    flow = workflow({**overrides, "distillation::student_channels": 24}, "from_scratch.json", "train_student.json")
    flow.initialize()
    assert flow.trainer.teacher is None
    assert flow.parser.get_parsed_content("loss").student_features is None
    assert flow.parser.get_parsed_content("optimizer").param_groups[0]["initial_lr"] == 1e-3
    assert flow.parser.get_parsed_content("augmentation").transforms[0].rotate_degrees == 20


def test_further_training_shifts_the_views_and_has_channel_wise_distillation(overrides, run_folder):
    own = {
        "distillation::student_channels": TINY_STUDENT["embed_dim"],
        "training::num_epochs": 1,
        "final_evaluation": None,
    }
    flow = run({**overrides, **own}, "from_scratch.json", "train_further.json")
    assert flow.parser.get_parsed_content("augmentation").transforms[0].shift_fraction == 0.1
    assert float(read_history(run_folder)[0]["cwd"]) > 0
    assert float(read_history(run_folder)[0]["feature"]) > 0


def test_published_model_is_the_best_student_without_teacher_or_adapter(distilled):
    flow, folder, path = distilled
    state = torch.load(path / "model.pt", weights_only=True)
    assert set(state) == set(flow.parser.get_parsed_content("network").state_dict())
    assert fingerprint(state) == fingerprint(torch.load(next((folder / "models").glob("best_*")), weights_only=True))


def test_teacher_is_bit_identical_after_training(distilled, sam_checkpoint, lora_checkpoint):
    used = distilled[0].parser.get_parsed_content("teacher")
    fresh = build_teacher(
        "vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint), lora_checkpoint=str(lora_checkpoint)
    )
    if used.resolved_precision == "bf16":
        store_in_bf16(fresh)
    assert fingerprint(used.members[0].state_dict()) == fingerprint(fresh.state_dict())
    assert not any(p.requires_grad for p in used.parameters())
    assert not used.training


def test_optimizer_holds_student_and_adapter_and_not_the_teacher(distilled):
    parser = distilled[0].parser
    optimized = {id(p) for group in parser.get_parsed_content("optimizer").param_groups for p in group["params"]}
    wanted = [*parser.get_parsed_content("network").parameters(), *parser.get_parsed_content("loss").parameters()]
    assert optimized == {id(p) for p in wanted if p.requires_grad}


def test_config_snapshot_has_the_overrides(distilled):
    config = json.loads((distilled[1] / "config.json").read_text())
    assert config["training"]["num_epochs"] == 20
    assert config["distillation"]["gamma"] == 0.1


def test_panels_are_pictures(distilled):
    with Image.open(distilled[1] / "visualizations" / "epoch_010.png") as picture:
        assert picture.width > 600
        assert len(np.unique(np.asarray(picture.convert("L")))) > 50


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_resumed_run_equals_the_whole_run(overrides, run_folder, ema_decay):
    overrides |= {"training::num_epochs": 3, "training::ema_decay": ema_decay}
    run(overrides)
    whole = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    overrides["run_folder::timestamp"] = "stopped"
    flow = workflow(overrides)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: engine.terminate() if engine.state.epoch == 2 else None
    )
    trainer.run()
    stopped = run_folder.parent / "stopped"
    assert len(read_history(stopped)) == 2
    run({**overrides, "training::resume": str(stopped)})
    resumed = torch.load(stopped / "models" / "last.pt", weights_only=True)
    for name in ("network", "average") if ema_decay else ("network",):
        assert fingerprint(resumed[name]) == fingerprint(whole[name])
    assert resumed["progress"] == whole["progress"]
    assert ("average" in whole) == (ema_decay > 0)
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "data_wait")} for row in read_history(stopped)]
    assert rows == [
        {k: v for k, v in row.items() if k not in ("seconds", "data_wait")} for row in read_history(run_folder)
    ]


def test_averaged_weights_are_validated_kept_and_evaluated(overrides, run_folder):
    flow = run({**overrides, "training::num_epochs": 1, "training::ema_decay": 0.9})
    last = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    best = torch.load(next((run_folder / "models").glob("best_*")), weights_only=True)
    assert fingerprint(best) == fingerprint(last["average"]) != fingerprint(last["network"])
    evaluator, average = (
        flow.parser.get_parsed_content("validate::evaluator"),
        flow.parser.get_parsed_content("average"),
    )
    assert evaluator.network is average.network is not flow.parser.get_parsed_content("network")
    # the final evaluation's
    assert fingerprint(flow.parser.get_parsed_content("network").state_dict()) == fingerprint(best)


def test_finished_run_cannot_be_resumed_without_more_epochs(overrides, run_folder):
    run(overrides)
    with pytest.raises(Exception) as error:
        run({**overrides, "training::resume": str(run_folder)})
    assert "has completed 2 epochs of 2; pass a higher --training::num_epochs" in str(root_cause(error.value))


def test_run_resumed_with_other_values_is_refused_and_nothing_is_written(overrides, run_folder):
    run({**overrides, "training::num_epochs": 1}, "train_student.json")
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    content = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    assert content["progress"]["settings"]["training::lr"] == 1e-4
    assert "optimizer::layer_decay" in content["progress"]["settings"]
    resumed = {**overrides, "training::resume": str(run_folder)}
    refused = {
        "training::lr was 0.0001 and is 0.01": {"training::lr": 0.01},
        r"the network in .*last.pt does not fit": {"network_def::channels": 8},
    }
    for message, changes in refused.items():
        with pytest.raises(Exception) as error:
            run({**resumed, **changes}, "train_student.json")
        assert isinstance(root_cause(error.value), ValueError)
        assert re.search(message, str(root_cause(error.value)))
    assert {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")} == before


@pytest.fixture(scope="module")
def one_epoch(request, tmp_path_factory):
    """A distillation stopped after one epoch of two, and the overrides that go on from it."""
    path = tmp_path_factory.mktemp("resumed")
    phantoms, sam, lora = (request.getfixturevalue(name) for name in ("phantoms", "sam_checkpoint", "lora_checkpoint"))
    overrides = {
        "bundle_root": str(ROOT),
        "run_folder::root": str(path / "logs"),
        "run_folder::timestamp": "run",
        "model_file": None,
        "data::dataset_dir": str(phantoms),
        "data::img_size": 64,
        "teacher::model_name": "vit_test",
        "teacher::img_size": 64,
        "teacher::sam_checkpoint": str(sam),
        "teacher::lora_checkpoint": str(lora),
        "teacher::cache_dir": str(path / "cache"),
        "network_def": TINY_STUDENT,
        "training::num_epochs": 1,
        "training::warmup_epochs": 0,
        "training::batch_size": 3,
        "training::num_workers": 0,
        "hardware::gpu_ids": [],
        "hardware::precision": "fp32",
        "final_evaluation": None,
    }
    run(overrides)
    folder = path / "logs" / "phantoms" / "run"
    return {**overrides, "training::num_epochs": 2, "training::resume": str(folder)}


RESUMED_WITH = {
    "teacher::flips": ("teacher was '[0-9a-f]{40}' and is", {"teacher::flips": True}),
    "no teacher": ("teacher was '[0-9a-f]{40}' and is 'none'", {"frozen_teacher": None}),
    "average": ("average::ema_decay was 'not recorded' and is 0.9", {"training::ema_decay": 0.9}),
    "online": ("distillation::mode was 'warp' and is 'online'", {"distillation::mode": "online"}),
    "augmentation": ("augmentation was .*rotate_degrees.* 15.0.* and is .* 0.0", {"augmentation::rotate_degrees": 0.0}),
    "preprocessing": (
        "train::dataset::transform was .*true.* and is .*false",
        {"preprocessing::transforms::5::anti_aliasing": [False, False]},
    ),
    "views": ("train::dataset::views was None and is 2", {"train::dataset::views": 2}),
    "precision": ("hardware::precision was 'fp32' and is 'bf16'", {"hardware::precision": "bf16"}),
}


@pytest.mark.parametrize("name", RESUMED_WITH)
def test_run_resumed_with_another_teacher_or_other_views_is_refused(one_epoch, name):
    message, changes = RESUMED_WITH[name]
    flow = workflow({**one_epoch, **changes}, *(["train_student.json"] if name == "no teacher" else []))
    with pytest.raises(Exception) as error:
        flow.initialize()
        flow.parser.get_parsed_content("train::trainer")
    assert isinstance(root_cause(error.value), ValueError)
    assert re.search(message, str(root_cause(error.value)))


def test_run_resumed_with_other_lists_is_refused_and_another_spelling_of_its_folder_is_not(
    one_epoch, monkeypatch, tmp_path
):
    dataset_dir = Path(one_epoch["data::dataset_dir"])
    content = json.loads((dataset_dir / "dataset.json").read_text())
    content["training"] = content["training"][::-1]
    (tmp_path / "reversed.json").write_text(json.dumps(content))
    with pytest.raises(Exception) as error:
        flow = workflow({**one_epoch, "data::datalist": str(tmp_path / "reversed.json")})
        flow.parser.get_parsed_content("train::trainer")
    assert re.search("data::lists was '[0-9a-f]{16}' and is", str(root_cause(error.value)))
    monkeypatch.chdir(dataset_dir.parent)
    workflow({**one_epoch, "data::dataset_dir": dataset_dir.name}).parser.get_parsed_content("train::trainer")


def test_online_and_cached_teacher_have_the_same_key(one_epoch):
    found = []
    for mode in ("online", "warp"):
        parser = workflow({**one_epoch, "distillation::mode": mode, "training::resume": None}).parser
        found.append(teacher_key(parser.get_parsed_content("frozen_teacher")))
    assert found[0] == found[1]
    assert teacher_key(None) == "none"


def test_control_trains_the_same_student_without_a_teacher(overrides, run_folder):
    flow = run(overrides, "train_student.json")
    assert flow.parser.get_parsed_content("frozen_teacher") is None
    history = read_history(run_folder)
    assert all(float(row["distill"]) == 0 and float(row["loss"]) == float(row["task"]) for row in history)


def test_fine_tuned_teacher_is_what_distillation_reads(overrides, run_folder):
    overrides.pop("network_def")
    overrides["teacher::lora_checkpoint"] = overrides["teacher::cache_dir"] = None
    # the last weights are the best; another size than the teacher's
    overrides |= {"training::num_epochs": 1, "data::img_size": 96}
    flow = run(overrides, "train_teacher.json")
    (best,) = (run_folder / "models").glob("best_epoch*_dice*.pth")
    teacher = build_teacher(
        "vit_test", img_size=64, sam_checkpoint=overrides["teacher::sam_checkpoint"], lora_checkpoint=str(best)
    )
    tuned = flow.parser.get_parsed_content("network").eval()
    content = torch.load(best, weights_only=True)
    image = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(teacher(image).logits, tuned(image), atol=1e-4, rtol=1e-4)
    assert content["adaptation_mode"] == "sam_lora_image_encoder"
    assert "w_a_000" in content


def test_multiclass_needs_overrides_only(overrides, tmp_path, sam_checkpoint):
    import shutil

    from scripts.networks.teacher import build_trainable_teacher, export_adapter

    folder = tmp_path / "three"
    shutil.copytree(overrides["data::dataset_dir"], folder)
    for path in (folder / "labels").glob("*.png"):
        mask = np.array(Image.open(path)) > 0
        mask = mask.astype(np.uint8)
        mask[:, 32:] *= 2
        Image.fromarray(mask).save(path)
    content = json.loads((folder / "dataset.json").read_text())
    content["labels"] = {"0": "background", "1": "left", "2": "right"}
    (folder / "dataset.json").write_text(json.dumps(content))
    teacher = build_trainable_teacher("vit_test", img_size=64, num_classes=3, sam_checkpoint=str(sam_checkpoint))
    torch.save(export_adapter(teacher), tmp_path / "lora3.pth")
    flow = run(
        {
            **overrides,
            "data::dataset_dir": str(folder),
            "data::num_classes": 3,
            "teacher::lora_checkpoint": str(tmp_path / "lora3.pth"),
        }
    )
    image = torch.rand(2, 1, 64, 64)
    assert flow.parser.get_parsed_content("network").eval()(image).shape == (2, 3, 64, 64)


def test_non_finite_loss_names_the_files_and_keeps_the_last_checkpoint(overrides, run_folder):
    flow = workflow(overrides)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train::trainer")

    def poison(engine):
        if engine.state.epoch == 2:
            engine.state.batch["image"][0] = float("nan")

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, poison)
    with pytest.raises(FloatingPointError, match=r"the loss is nan .*in epoch 2.*Files of the batch: .*\.png") as error:
        trainer.run()
    assert "last good checkpoint is kept" in str(error.value)
    assert torch.load(run_folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert "the run ends: the loss is nan" in (run_folder / "distill.log").read_text()


def test_plain_supervised_trainer_gives_the_same_control(overrides):
    """The trainer adds nothing of its own to SupervisedTrainer when there is no teacher."""
    from monai.engines import SupervisedTrainer

    states = []
    for plain in (False, True):
        changes = {"training::num_epochs": 1, "train::trainer::max_grad_norm": None, "hardware::precision": "fp32"}
        flow = workflow({**overrides, **changes}, "train_student.json")
        flow.initialize()
        parser = flow.parser
        if plain:
            network, task = parser.get_parsed_content("network"), parser.get_parsed_content("loss").task
            trainer = SupervisedTrainer(
                device=torch.device("cpu"),
                max_epochs=1,
                network=network,
                loss_function=task,
                train_data_loader=parser.get_parsed_content("train::dataloader"),
                optimizer=parser.get_parsed_content("optimizer"),
            )
            scheduler = parser.get_parsed_content("lr_scheduler")
            trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: scheduler.step())
            torch.manual_seed(1)
            trainer.run()
        else:
            parser.get_parsed_content("train::trainer").run()
            network = parser.get_parsed_content("network")
        states.append(fingerprint(network.state_dict()))
    assert states[0] == states[1]


def test_non_finite_gradient_stops_before_the_step(overrides, run_folder):
    flow = workflow(overrides)
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train::trainer")
    trainer.network.decode_head.conv_seg.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(
        FloatingPointError, match=r"the norm of the gradient is (nan|inf) in epoch 1.*Files of the batch"
    ):
        trainer.run()
    assert all(torch.isfinite(p).all() for p in trainer.network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train::trainer::amp": True}, "amp True is not supported.*hardware::precision bf16"),
        ({"train::trainer::accumulation_steps": 4}, "accumulation_steps 4 is not supported"),
        ({"train::trainer::compile": True}, "compile True is not supported"),
        ({"val_interval": 5}, r"val_interval must be from 1 to training::num_epochs \(2\), got 5"),
    ],
)
def test_options_that_would_be_misread_are_refused(overrides, run_folder, change, message):
    with pytest.raises(Exception) as error:
        run({**overrides, **change})
    assert re.search(message, str(root_cause(error.value)))
    assert not run_folder.exists()


def test_history_is_written_before_the_checkpoint(distilled):
    """Killed in between, a run that resumes repeats the epoch; with the checkpoint first its row would be missing."""
    config = json.loads((distilled[1] / "config.json").read_text())
    names = [handler["_target_"].rpartition(".")[2] for handler in config["train"]["handlers"]]
    assert names.index("ValidationHandler") < names.index("EpochSummary") < names.index("Checkpoints")
