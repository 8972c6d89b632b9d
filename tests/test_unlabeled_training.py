"""Images without labels in the loss, in whole runs of every mode, and in the backbone's pretraining."""

import json
import shutil

import pytest
import torch
from conftest import root_cause, run, workflow
from torch.nn import functional as F

from scripts.data.phantoms import write_phantom_dataset
from scripts.loss_terms import Batch, Task
from scripts.losses import distillation_loss
from scripts.networks.frozen_encoder import FrozenEncoder
from scripts.networks.student import TEST_SIZE, Student, build_student
from scripts.run.history import read_history
from scripts.utils.options import NO_LABEL

EVERY_TERM = {
    "alpha": 0.5,
    "beta": 0.5,
    "gamma": 0.3,
    "boundary": 0.2,
    "cwd": 0.1,
    "dist_intra": 0.4,
    "dist_inter": 0.6,
    "mgd": 0.2,
    "gate": "both",
    "gate_confidence": 0.4,
    "student_channels": 4,
    "teacher_channels": 6,
}


def tensors(num_classes=3, size=6, seed=0):
    """Arguments of the loss for six images of 8 pixels, whose classes are squares of 4 pixels."""
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if num_classes == 2 else num_classes
    student, teacher = (torch.randn(size, channels, 2, 2, generator=generator) for _ in range(2))
    student, teacher = (F.interpolate(logits, size=(8, 8), mode="nearest") for logits in (student, teacher))
    label = torch.randint(0, num_classes, (size, 1, 2, 2), generator=generator).float()
    label = F.interpolate(label, size=(8, 8), mode="nearest")
    features = torch.randn(size, 4, 2, 2, generator=generator), torch.randn(size, 6, 2, 2, generator=generator)
    return [student, label, teacher, *features]


def without_labels(label, *indices):
    label = label.clone()
    label[list(indices)] = NO_LABEL
    return label


def values(loss, arguments):
    torch.manual_seed(0)  # the mask of mgd
    return loss(*arguments)


# the loss


def test_task_is_that_of_the_labeled_images_alone():
    student, label, teacher, *_ = tensors(2)
    loss = distillation_loss(beta=0.5)
    mixed = loss(student, without_labels(label, 1, 4), teacher)
    kept = [0, 2, 3, 5]
    torch.testing.assert_close(mixed["task"], Task(1.0, 2)(Batch(student[kept], label[kept])))
    assert mixed["task"] != loss(student, label, teacher)["task"]


def test_unlabeled_logits_get_no_gradient_of_the_task():
    student, label, teacher, *_ = tensors(2)
    student.requires_grad_()
    distillation_loss(beta=0.5)(student, without_labels(label, 1), teacher)["task"].backward()
    assert student.grad[0].abs().sum() > 0
    assert student.grad[1].abs().sum() == 0


def test_teachers_terms_are_means_over_all_images():
    arguments = tensors()
    loss = distillation_loss(num_classes=3, **{**EVERY_TERM, "gate": "none", "boundary": 0})
    whole = values(loss, arguments)
    arguments[1] = without_labels(arguments[1], 0, 5)
    mixed = values(loss, arguments)
    for name in whole.keys() - {"loss", "task"}:
        assert torch.equal(mixed[name], whole[name]), name


def test_teachers_mask_stands_for_a_missing_label_in_gates_and_boundary():
    arguments = tensors()
    loss = distillation_loss(num_classes=3, **EVERY_TERM)
    arguments[1][[1, 2]] = arguments[2][[1, 2]].argmax(1, keepdim=True).float()
    whole = values(loss, arguments)
    arguments[1] = without_labels(arguments[1], 1, 2)
    mixed = values(loss, arguments)
    for name in whole.keys() - {"loss", "task"}:
        assert torch.equal(mixed[name], whole[name]), name


@pytest.mark.parametrize("gating", [{}, {"gate": "none", "boundary": 0}, {"boundary": 0}])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_weight_counts_unlabeled_images_as_often(num_classes, gating):
    """With weight 3 an image without a label is worth as much as three copies of it."""
    options = {**EVERY_TERM, "dist_inter": 0.6 if num_classes > 2 else 0, "mgd": 0, "gate_confidence": 0.6, **gating}
    loss = distillation_loss(num_classes=num_classes, unlabeled_weight=3.0, **options).eval()
    arguments = tensors(num_classes)
    arguments[1] = without_labels(arguments[1], 4, 5)
    weighted = loss(*arguments)
    copies = distillation_loss(num_classes=num_classes, **options).eval()
    copies.load_state_dict(loss.state_dict())
    order = [0, 1, 2, 3, 4, 4, 4, 5, 5, 5]
    repeated = copies(*(part[order] for part in arguments))
    for name in weighted:
        torch.testing.assert_close(weighted[name], repeated[name], msg=name)
    assert all(weighted[name] != copies(*arguments)[name] for name in weighted.keys() - {"task"})


def test_labeled_batches_do_not_know_of_the_weight():
    arguments = tensors()
    plain, weighted = (distillation_loss(num_classes=3, unlabeled_weight=w, **EVERY_TERM) for w in (1.0, 5.0))
    weighted.load_state_dict(plain.state_dict())
    expected, found = values(plain, arguments), values(weighted, arguments)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_batch_without_any_label_has_no_task_and_a_gradient():
    student, label, teacher, *_ = tensors(2)
    student.requires_grad_()
    terms = distillation_loss(beta=0.5)(student, torch.full_like(label, NO_LABEL), teacher)
    assert terms["task"] == 0
    terms["loss"].backward()
    assert student.grad.isfinite().all()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("weight", [0, -1.0, float("inf"), float("nan")])
def test_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match=r"unlabeled_weight must be positive, .*--distillation::unlabeled_weight 1.0"):
        distillation_loss(unlabeled_weight=weight)


def test_settings_name_the_weight_where_it_is_used():
    assert "unlabeled_weight" not in distillation_loss().settings
    assert distillation_loss(unlabeled_weight=0.5).settings["unlabeled_weight"] == 0.5


# whole runs


@pytest.fixture
def mixed(overrides, tmp_path):
    """What makes a run of six labeled and four unlabeled phantoms."""
    folder = tmp_path / "phantoms"
    shutil.copytree(overrides["data::dataset_dir"], folder)
    write_phantom_dataset(tmp_path / "more", num_training=2, num_validation=1, num_test=1, size=64, seed=9)
    content = json.loads((folder / "dataset.json").read_text())
    shutil.copytree(tmp_path / "more" / "images", folder / "unlabeled")
    content["unlabeled"] = [{"image": f"unlabeled/{path.name}"} for path in sorted((folder / "unlabeled").iterdir())]
    (folder / "dataset.json").write_text(json.dumps(content))
    return {**overrides, "data::dataset_dir": str(folder), "data::unlabeled_share": 0.34}


@pytest.mark.parametrize("mode", ["online", "replay", "warp"])
def test_run_learns_from_both(mixed, run_folder, tmp_path, mode):
    options = {"distillation::mode": mode, "distillation::gamma": 0.1, "distillation::student_channels": 6}
    flow = run({**mixed, **options})
    dataset = flow.parser.get_parsed_content("train::dataset")
    assert (len(dataset), dataset.num_labeled) == (10, 6)
    rows = read_history(run_folder)
    assert len(rows) == 2
    assert all(row["task"] > 0 and row["distill"] > 0 for row in rows)
    assert flow.parser.get_parsed_content("train::trainer").state.epoch_length == 3  # two labeled images a batch
    note = "Trained with images without labels too, drawn from a list of 4 (data::unlabeled_share 0.34)."
    assert note in (run_folder / "test_results.txt").read_text()
    if mode != "online":
        teacher = flow.parser.get_parsed_content("cached_teacher")
        assert len(teacher.filling.views) == {"warp": 10, "replay": 6 * 2 + 4 * 8}[mode]
        assert not teacher.filling.missing


def test_share_of_0_is_the_run_without_the_list(mixed, overrides, run_folder, tmp_path):
    run({**mixed, "data::unlabeled_share": 0, "training::num_epochs": 1})
    off = read_history(run_folder)[0]
    shutil.rmtree(run_folder.parent)
    run({**overrides, "training::num_epochs": 1})
    plain = read_history(run_folder)[0]
    assert [off[key] for key in ("loss", "task", "distill")] == [plain[key] for key in ("loss", "task", "distill")]


def test_resumed_run_ends_as_the_whole_one(mixed, run_folder):
    def weights():
        return torch.load(run_folder / "models" / "last.pt", weights_only=True)["network"]

    steady = {"lr_scheduler::num_epochs": 3}
    run({**mixed, **steady, "training::num_epochs": 3})
    whole = weights()
    shutil.rmtree(run_folder)
    run({**mixed, **steady, "training::num_epochs": 2})
    run({**mixed, **steady, "training::num_epochs": 3, "training::resume": str(run_folder)})
    assert all(torch.equal(whole[name], weight) for name, weight in weights().items())


def test_another_share_does_not_resume(mixed, run_folder):
    run({**mixed, "training::num_epochs": 1})
    changed = {**mixed, "data::unlabeled_share": 0.6, "training::resume": str(run_folder)}
    with pytest.raises(Exception) as error:
        run(changed)
    assert "data::unlabeled_share was 0.34 and is 0.6" in str(root_cause(error.value))


@pytest.mark.parametrize(
    ("overlays", "change"),
    [
        (("train_student.json",), {}),
        (("train_teacher.json",), {"teacher::lora_checkpoint": None}),
        ((), {"distillation::beta": 0}),
    ],
)
def test_run_without_a_teachers_term_is_refused(mixed, run_folder, overlays, change):
    with pytest.raises(Exception) as error:
        run({**mixed, **change}, *overlays)
    assert "no term of the loss reads a teacher" in str(root_cause(error.value))
    assert not run_folder.exists()


# the backbone's pretraining


@pytest.fixture
def pretraining(overrides, phantoms):
    """What makes configs/pretrain.json a run of seconds on the phantoms' images, by the teacher as published."""
    unused = ("model_file", "teacher::lora_checkpoint")
    options = {key: value for key, value in overrides.items() if key not in unused}
    return {**options, "data::dataset_dir": str(phantoms / "images"), "distillation::student_channels": 24}


def test_backbone_learns_from_a_folder_and_starts_any_student(pretraining, tmp_path):
    flow = run(pretraining, "pretrain.json")
    folder = tmp_path / "logs" / "images" / "run"
    assert sorted(path.name for path in (folder / "models").iterdir()) == ["best_epoch002.pth", "last.pt"]
    rows = read_history(folder)
    assert [set(row) for row in rows] == [{"epoch", "loss", "feature", "lr", "seconds", "data_wait"}] * 2
    assert len(flow.parser.get_parsed_content("train::dataset")) == 10
    best = folder / "models" / "best_epoch002.pth"
    state = torch.load(best, weights_only=True)
    student = build_student(Student(TEST_SIZE, checkpoint=str(best)), num_classes=4, img_size=96)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(student.backbone.state_dict()[name], state[f"model.{name}"])


def test_last_epoch_is_kept_and_a_resume_goes_on(pretraining, tmp_path):
    run(pretraining, "pretrain.json")
    folder = tmp_path / "logs" / "images" / "run"
    run({**pretraining, "training::num_epochs": 3, "training::resume": str(folder)}, "pretrain.json")
    assert [path.name for path in (folder / "models").glob("best*")] == ["best_epoch003.pth"]


def test_tuned_teacher_teaches_too(pretraining, lora_checkpoint, tmp_path):
    tuned = {**pretraining, "teacher::lora_checkpoint": str(lora_checkpoint)}
    keys = [
        workflow(options, "pretrain.json").parser.get_parsed_content("teacher").key for options in (pretraining, tuned)
    ]
    assert keys[0] != keys[1]
    run({**tuned, "training::num_epochs": 1}, "pretrain.json")


def test_encoder_as_published_says_what_the_base_says(sam_checkpoint):
    teacher = FrozenEncoder("vit_test", img_size=64, sam_checkpoint=str(sam_checkpoint), precision="fp32")
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    sam = teacher.load()[0].sam
    state = torch.load(sam_checkpoint, weights_only=True)
    name = "image_encoder.neck.0.weight"
    assert torch.equal(sam.state_dict()[name], state[name])
    prepared = teacher.load()[0].prepare(image)
    torch.testing.assert_close(teacher(image).features, sam.image_encoder(prepared))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distillation::beta": 0.5}, "beta of the loss would train nothing"),
        ({"distillation::alpha": 0.5}, "alpha of the loss would train nothing"),
        ({"distillation::features": "neck"}, "features neck would train nothing"),
    ],
)
def test_terms_that_a_backbone_cannot_learn_by_are_refused(pretraining, tmp_path, change, message):
    with pytest.raises(Exception) as error:
        run({**pretraining, **change}, "pretrain.json")
    assert message in str(root_cause(error.value))
    assert not (tmp_path / "logs").exists()
