"""The three trainings, run whole on phantoms with tiny networks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS, ROOT, TINY, root_cause, run, workflow
from ignite.engine import Events
from monai.engines import IterationEvents, SupervisedTrainer
from PIL import Image
from torch import nn

from scripts.loss_terms import Batch
from scripts.losses import task_loss
from scripts.networks.frozen_teacher import FrozenTeacher
from scripts.networks.student import TEST_SIZE
from scripts.networks.tuning import tunable_teacher
from scripts.run.errors import find_user_error
from scripts.run.history import read_history
from scripts.trainer import DistillationTrainer
from scripts.utils.digests import weights_digest

STUDENT = {  # a network_def that single arguments of the tiny student can be changed in
    "_target_": "scripts.networks.tinyusfm.TinyUSFMSeg",
    "num_classes": "@data::num_classes",
    "img_size": "@data::img_size",
    **TINY,
}


def overrides_in(path: Path, request) -> dict:
    """The overrides of conftest.py for a run below `path` that several tests share."""
    phantoms, sam, lora = (request.getfixturevalue(name) for name in ("phantoms", "sam_checkpoint", "lora_checkpoint"))
    return {
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
        "teacher::cache_dir": str(path / "cache"),
        "student::model_name": TEST_SIZE,
        "training::num_epochs": 1,
        "training::warmup_epochs": 0,
        "training::batch_size": 3,
        "training::num_workers": 0,
        "hardware::gpu_ids": [],
    }


@pytest.fixture(scope="module")
def distilled(request, tmp_path_factory):
    """One distillation of 20 epochs, which several tests look at."""
    path = tmp_path_factory.mktemp("distilled")
    changes = {
        "training::num_epochs": 20,
        "training::warmup_epochs": 1,
        "training::lr": 5e-3,
        "distillation::gamma": 0.1,
        "distillation::student_channels": 6,
        "distillation::mode": "replay",
        "distillation::views": 3,
    }
    flow = run({**overrides_in(path, request), **changes})
    return flow, path / "logs" / "phantoms" / "run", path


def test_run_folder_holds_what_the_readme_says(distilled):
    _, folder, path = distilled
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"config.json", "distill.log", "history.csv", "progress.png", "models/last.pt"} <= names
    assert "models/checkpoint_epoch020.pt" in names
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
        assert history[-1][term] < 0.9 * history[0][term]
    assert all(row["distill"] > 0 for row in history)


def test_from_scratch_learns_the_embedding_with_the_backbone_and_asks_the_teacher_once_an_image(overrides, run_folder):
    changes = {
        "distillation::student_channels": TINY["embed_dim"],
        "training::num_epochs": 15,
        "training::lr": 5e-3,
        "final_evaluation": None,
    }
    parser = run({**overrides, **changes}, "from_scratch.json").parser
    history = read_history(run_folder)
    assert history[-1]["feature"] < 0.9 * history[0]["feature"]
    assert all(row["cwd"] > 0 for row in history)
    views, data = parser.get_parsed_content("cached_teacher").filling.views, parser.get_parsed_content("data")
    assert len(views) == len(data.training)
    loss = parser.get_parsed_content("loss")
    assert loss.student_features == "backbone"
    assert loss.terms["feature"].adapter[0].in_channels == TINY["embed_dim"]
    assert loss.whiten


@pytest.mark.parametrize(
    "overlays", [("from_scratch.json", "train_student.json"), ("train_student.json", "from_scratch.json")]
)
def test_control_takes_from_scratch_below_or_above_its_own_overlay(overrides, overlays):
    flow = workflow(overrides, *overlays)
    flow.initialize()
    assert flow.trainer.teacher is None
    assert flow.parser.get_parsed_content("loss").student_features is None
    assert flow.parser.get_parsed_content("optimizer").param_groups[0]["initial_lr"] == 1e-3
    assert flow.parser.get_parsed_content("augmentation").transforms[0].rotate_degrees == 20


def test_further_training_shifts_the_views_and_has_channel_wise_distillation(overrides, run_folder):
    changes = {"distillation::student_channels": TINY["embed_dim"], "training::num_epochs": 1, "final_evaluation": None}
    flow = run({**overrides, **changes}, "train_further.json")
    assert flow.parser.get_parsed_content("augmentation").transforms[0].shift_fraction == 0.1
    (row,) = read_history(run_folder)
    assert row["cwd"] > 0
    assert row["feature"] > 0


def test_further_training_has_the_loss_of_from_scratch():
    overlays = [json.loads((CONFIGS / name).read_text()) for name in ("from_scratch.json", "train_further.json")]
    losses = [{key: value for key, value in overlay.items() if "distillation" in key} for overlay in overlays]
    assert losses[0] == losses[1]


def test_published_model_is_the_best_student_without_teacher_or_adapter(distilled):
    flow, folder, path = distilled
    state = torch.load(path / "model.pt", weights_only=True)
    assert set(state) == set(flow.parser.get_parsed_content("network").state_dict())
    assert weights_digest(state) == weights_digest(
        torch.load(next((folder / "models").glob("best_*")), weights_only=True)
    )


def test_teacher_is_bit_identical_after_training(distilled, sam_checkpoint, lora_checkpoint):
    used = distilled[0].parser.get_parsed_content("teacher")
    fresh = FrozenTeacher(
        "vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint), lora_checkpoint=str(lora_checkpoint)
    )
    assert weights_digest(used.members[0].state_dict()) == weights_digest(fresh.load()[0].state_dict())
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


def without_times(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in ("seconds", "data_wait")} for row in rows]


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
        assert weights_digest(resumed[name]) == weights_digest(whole[name])
    assert resumed["progress"] == whole["progress"]
    assert ("average" in whole) == (ema_decay > 0)
    assert without_times(read_history(stopped)) == without_times(read_history(run_folder))


def test_averaged_weights_are_validated_kept_and_evaluated(overrides, run_folder):
    flow = run({**overrides, "training::num_epochs": 1, "training::ema_decay": 0.9})
    last = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    best = torch.load(next((run_folder / "models").glob("best_*")), weights_only=True)
    assert weights_digest(best) == weights_digest(last["average"]) != weights_digest(last["network"])
    names = ("validate::evaluator", "train::average")
    evaluator, average = (flow.parser.get_parsed_content(name) for name in names)
    assert evaluator.network is average.network is not flow.parser.get_parsed_content("network")
    # the final evaluation's
    assert weights_digest(flow.parser.get_parsed_content("network").state_dict()) == weights_digest(best)


def test_finished_run_cannot_be_resumed_without_more_epochs(overrides, run_folder):
    run(overrides)
    with pytest.raises(Exception) as error:
        run({**overrides, "training::resume": str(run_folder)})
    assert "has completed 2 epochs of 2; pass a higher --training::num_epochs" in str(root_cause(error.value))


@pytest.mark.parametrize(("num_epochs", "patience"), [(2, 0), (4, 1)])
def test_finished_run_without_its_final_evaluation_is_resumed_to_evaluate_alone(
    overrides, run_folder, num_epochs, patience
):
    """Its machine was switched off during the evaluation, after the last epoch or after it had stopped early."""
    overrides |= {"training::num_epochs": num_epochs, "training::patience": patience, "training::lr": 1e-9}
    run(overrides)
    results = (run_folder / "test_results.txt").read_text()
    last = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    rows = read_history(run_folder)
    for name in ("test_results.txt", "metrics.csv"):
        (run_folder / name).unlink()
    flow = run({**overrides, "training::resume": str(run_folder)})
    assert flow.trainer.state.epoch == 2
    assert read_history(run_folder) == rows
    again = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    assert weights_digest(again["network"]) == weights_digest(last["network"])
    assert (run_folder / "metrics.csv").is_file()
    assert (run_folder / "test_results.txt").read_text() == results


def test_finished_run_that_has_no_evaluation_cannot_be_resumed(overrides, run_folder):
    run({**overrides, "final_evaluation": None}, "train_student.json")
    with pytest.raises(Exception) as error:
        run({**overrides, "final_evaluation": None, "training::resume": str(run_folder)}, "train_student.json")
    assert "has completed 2 epochs of 2" in str(root_cause(error.value))


def test_run_that_version_0_5_0_began_goes_on(overrides, run_folder):
    overrides |= {"distillation::gamma": 0.1, "distillation::student_channels": 6, "final_evaluation": None}
    run({**overrides, "training::num_epochs": 1})
    last = run_folder / "models" / "last.pt"
    content = torch.load(last, weights_only=True)
    assert all(name.startswith("terms.feature.adapter.") for name in content["loss"])
    content["loss"] = {name.removeprefix("terms.feature."): tensor for name, tensor in content["loss"].items()}
    torch.save(content, last)
    run({**overrides, "training::resume": str(run_folder)})
    assert [row["epoch"] for row in read_history(run_folder)] == [1, 2]


def test_run_resumed_with_other_values_is_refused_and_nothing_is_written(overrides, run_folder):
    run({**overrides, "training::num_epochs": 1}, "train_student.json")
    before = {path: path.stat().st_mtime_ns for path in run_folder.rglob("*")}
    content = torch.load(run_folder / "models" / "last.pt", weights_only=True)
    assert content["progress"]["settings"]["training::lr"] == 1e-4
    assert "optimizer::layer_decay" in content["progress"]["settings"]
    resumed = {**overrides, "training::resume": str(run_folder)}
    refused = {
        "training::lr was 0.0001 and is 0.01": {"training::lr": 0.01},
        r"the network in .*last.pt does not fit": {"network_def": {**STUDENT, "channels": 8}},
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
    overrides = {**overrides_in(path, request), "hardware::precision": "fp32", "final_evaluation": None}
    run(overrides)
    folder = path / "logs" / "phantoms" / "run"
    return {**overrides, "training::num_epochs": 2, "training::resume": str(folder)}


RESUMED_WITH = {
    "teacher::flips": ("teacher was '[0-9a-f]{40}' and is", {"teacher::flips": True}),
    "no teacher": ("teacher was '[0-9a-f]{40}' and is 'none'", {}),
    "average": ("average::ema_decay was 'not recorded' and is 0.9", {"training::ema_decay": 0.9}),
    "online": ("distillation::mode was 'warp' and is 'online'", {"distillation::mode": "online"}),
    "augmentation": ("augmentation was .*rotate_degrees.* 15.0.* and is .* 0.0", {"augmentation::rotate_degrees": 0.0}),
    "preprocessing": (
        "train::dataset::transform was .*true.* and is .*false",
        {"preprocessing::resizing::anti_aliasing": [False, False]},
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
    keys = []
    for mode in ("online", "warp"):
        parser = workflow({**one_epoch, "distillation::mode": mode, "training::resume": None}).parser
        keys.append(parser.get_parsed_content("cached_teacher").key)
    assert keys[0] == keys[1]


def test_control_trains_the_same_student_without_a_teacher(overrides, run_folder):
    flow = run(overrides, "train_student.json")
    assert flow.parser.get_parsed_content("cached_teacher") is None
    for row in read_history(run_folder):
        assert "distill" not in row
        assert row["loss"] == row["task"]


def test_fine_tuned_teacher_is_what_distillation_reads(overrides, run_folder):
    overrides["teacher::lora_checkpoint"] = overrides["teacher::cache_dir"] = None
    # the last weights are the best; another size than the teacher's
    overrides |= {"training::num_epochs": 1, "data::img_size": 96}
    flow = run(overrides, "train_teacher.json")
    (best,) = (run_folder / "models").glob("best_epoch*_dice*.pth")
    base = overrides["teacher::sam_checkpoint"]
    teacher = FrozenTeacher("vit_test", img_size=64, sam_checkpoint=base, lora_checkpoint=str(best), precision="fp32")
    tuned = flow.parser.get_parsed_content("network").eval()
    content = torch.load(best, weights_only=True)
    image = torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(teacher(image).logits, tuned(image), atol=1e-4, rtol=1e-4)
    assert content["adaptation_mode"] == "sam_lora_image_encoder"
    assert "w_a_000" in content


def test_multiclass_needs_overrides_only(overrides, tmp_path, sam_checkpoint):
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
    section = FrozenTeacher("vit_test", img_size=64, num_classes=3, sam_checkpoint=str(sam_checkpoint))
    torch.save(tunable_teacher(section).best_state(), tmp_path / "lora3.pth")
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
    with pytest.raises(Exception) as error:
        flow.run()
    told = str(find_user_error(error.value))
    assert re.match(r"the loss is nan .*in epoch 2.*Files of the batch: .*\.png", told)
    assert told.endswith(f"The first epoch is kept in {run_folder}.")
    assert torch.load(run_folder / "models" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert "the run ends: the loss is nan" in (run_folder / "distill.log").read_text()


def test_plain_supervised_trainer_gives_the_same_control(overrides):
    """The trainer adds nothing of its own to SupervisedTrainer when there is no teacher."""
    states = []
    for plain in (False, True):
        changes = {"training::num_epochs": 1, "train::trainer::max_grad_norm": None, "hardware::precision": "fp32"}
        flow = workflow({**overrides, **changes}, "train_student.json")
        flow.initialize()
        parser = flow.parser
        if plain:
            network, task = parser.get_parsed_content("network"), parser.get_parsed_content("loss").terms["task"]
            trainer = SupervisedTrainer(
                device=torch.device("cpu"),
                max_epochs=1,
                network=network,
                loss_function=lambda logits, label: task(Batch(logits, label)),
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
        states.append(weights_digest(network.state_dict()))
    assert states[0] == states[1]


def test_iteration_fires_the_events_of_monai_in_order_and_keeps_its_terms_as_numbers():
    network = nn.Conv2d(1, 1, kernel_size=1)
    batch = {"image": torch.rand(2, 1, 8, 8), "label": torch.ones(2, 1, 8, 8)}
    trainer = DistillationTrainer(
        loss_function=task_loss(),
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        decollate=False,
    )
    before, seen = network.weight.detach().clone(), []
    events = (
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    )
    for event in events:
        trainer.add_event_handler(
            event, lambda engine, event=event: seen.append((event, torch.equal(network.weight, before)))
        )
    trainer.run()
    assert seen == [(event, event != IterationEvents.MODEL_COMPLETED) for event in events]
    assert trainer.state.loss_terms == {"task": pytest.approx(trainer.state.output["loss"].item())}
    assert trainer.state.output["pred"].shape == (2, 1, 8, 8)


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
