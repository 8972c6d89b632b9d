"""Simulated labeling: who is labeled when, what is trained, measured and told, and what is refused."""

import json
import logging

import pytest
from comparing import no_training, settings_of
from conftest import ROOT

from eval.active_learning.__main__ import main
from eval.active_learning.figures import describe_left
from eval.active_learning.page import ARMS, BEGIN, LEAST_SURE, RANDOM, block
from eval.active_learning.pool import make_pool, read_set
from eval.active_learning.rounds import Round
from eval.organs.page import END
from scripts.data.phantoms import write_phantom_dataset

KEPT = ("student::", "hardware::", "training::warmup_epochs", "training::batch_size", "training::num_workers")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight training phantoms of four patients."""
    folder = tmp_path_factory.mktemp("labeling") / "phantoms"
    write_phantom_dataset(folder, num_training=8, num_validation=3, num_test=1, seed=5, size=64)
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    for split in ("training", "validation", "test"):
        content[split] = [{**item, "patient": f"{split}{n // 2}"} for n, item in enumerate(content[split])]
    path.write_text(json.dumps(content))
    return folder


@pytest.fixture
def arguments(overrides, dataset, tmp_path):
    own = {key: value for key, value in settings_of(overrides).items() if key.startswith(KEPT)}
    pairs = [text for key, value in own.items() for text in (f"--{key}", repr(value))]
    places = ["--output_dir", str(tmp_path / "out"), "--results", str(tmp_path / "results.json")]
    sizes = ["--first", "2", "--batch", "2", "--rounds", "2", "--epochs", "1", "--img_size", "64", "--seeds", "0"]
    return [*places, "--dataset_dir", str(dataset), *sizes, *pairs]


def labeled(folder):
    return [item["image"] for item in json.loads((folder / "dataset.json").read_text())["training"]]


def test_simulation_is_trained_measured_told_and_kept(arguments, tmp_path, monkeypatch, caplog):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    with caplog.at_level(logging.INFO):
        assert main([*arguments, "--write", str(page)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert str(tmp_path) not in json.dumps(results)
    assert [row["labels"] for row in results["rounds"]] == [2, 4]
    assert results["rounds"][0]["arms"][LEAST_SURE] == results["rounds"][0]["arms"][RANDOM]  # one training
    assert results["rounds"][0]["comparison"] is None
    assert (results["overall"]["arm"], results["overall"]["reference"]) == ARMS
    assert results["overall"]["num_patients"] == 2
    assert results["overall"]["by_seed"] == {"0": pytest.approx(results["overall"]["difference"])}
    assert [(row["labels"], row["images"]) for row in results["left"]] == [(2, 6), (4, 4)]
    assert {"machine", "versions", "command", "revision", "seeds"} <= {*results}

    seed = tmp_path / "out" / "seed0"
    assert sorted(path.name for path in seed.iterdir()) == ["least_sure", "random", "start"]
    first = labeled(seed / "start")
    measured = json.loads((seed / "start" / "measured.json").read_text())
    assert {row["image"] for row in measured["left"]}.isdisjoint(first)
    assert len(measured["left"]) == 6
    taken = {arm: {*labeled(seed / arm / "round1")} for arm in ("least_sure", "random")}
    assert all(len(images) == 4 and images >= {*first} for images in taken.values())
    assert page.read_text() == f"before\n{BEGIN}\n\n{block(results, 'page.png')}\n\n{END}\nafter\n"
    assert (tmp_path / "page.png").stat().st_size > 1000

    no_training(monkeypatch)
    assert main(arguments) == 0
    assert json.loads((tmp_path / "results.json").read_text())["rounds"] == results["rounds"]
    assert main(["--show", str(tmp_path / "results.json")]) == 0
    assert main([*arguments, "--first", "3"]) == 1  # another simulation in the same folder


def test_least_sure_images_are_those_of_the_students_confidence(arguments, tmp_path, monkeypatch):
    sure = {}

    def measure(options, plan, pool, one, checkpoint):
        left = [image for image in pool.images if image not in one.labeled]
        sure[one.arm] = {image: 0.5 + 0.01 * number for number, image in enumerate(reversed(left))}
        rows = [
            {"image": image, "case": image, "patient": 1, "dice": 0.5, "confidence": value, "predicted_area": 9}
            for image, value in sure[one.arm].items()
        ]
        return {"rows": [{"case": "a", "patient": 1, "seed": one.seed, "dice": 0.5, "hd95": 1.0}], "left": rows}

    monkeypatch.setattr("eval.active_learning.rounds._measure", measure)
    monkeypatch.setattr(
        "eval.active_learning.rounds.train_arm", lambda *args: {"checkpoint": "x", "seconds": 1.0, "epochs": 1}
    )
    assert main([*arguments, "--several_a_patient"]) == 0
    seed = tmp_path / "out" / "seed0"
    first, second = ({*labeled(seed / place)} for place in ("start", "least_sure/round1"))
    pool = json.loads((tmp_path / "out" / "lists" / "phantoms" / "dataset.json").read_text())["training"]
    left = [item["image"] for item in pool if item["image"] not in first]
    assert second - first == {*left[-2:]}


def test_batch_holds_one_image_of_a_patient(dataset, tmp_path):
    pool = make_pool(read_set(dataset), 8, tmp_path, one_a_patient=True)
    sure = {image: number for number, image in enumerate(pool.images)}
    assert pool.next_batch(sure, 4) == pool.images[::2]
    assert len(pool.patients(pool.next_batch(sure, 6))) == 4
    several = make_pool(read_set(dataset), 8, tmp_path, one_a_patient=False)
    assert several.next_batch(sure, 4) == pool.images[:4]


def test_random_order_is_that_of_its_seed(dataset, tmp_path):
    pool = make_pool(read_set(dataset), 8, tmp_path, one_a_patient=True)
    assert pool.random_sureness(0) == pool.random_sureness(0) != pool.random_sureness(1)


def test_all_rounds_take_as_many_steps(arguments, monkeypatch):
    seen = []

    def train(plan, arm, seed, teacher):
        parser = plan.workflow(arm, seed).parser
        seen.append((len(labeled(plan.output_dir)), parser.get_parsed_content("training::num_epochs")))
        return {"checkpoint": "x", "seconds": 1.0}

    def measure(options, plan, pool, one, checkpoint):
        left = [{"image": image, "confidence": 0.5, "dice": 0.5, "predicted_area": 9} for image in pool.images]
        kept = [row for row in left if row["image"] not in one.labeled]
        return {"rows": [{"case": "a", "patient": 1, "seed": one.seed, "dice": 0.5, "hd95": 1.0}], "left": kept}

    monkeypatch.setattr("eval.active_learning.rounds.train_arm", train)
    monkeypatch.setattr("eval.active_learning.rounds._measure", measure)
    assert main([*arguments, "--rounds", "3", "--epochs", "5"]) == 0
    assert seen == [(2, 15), (4, 8), (6, 5)] * 2  # about 6 images x 5 epochs


def test_what_is_left_tells_whether_unsure_images_are_bad_ones():
    left = [
        {"image": name, "confidence": sure, "dice": dice}
        for name, sure, dice in [("a", 0.5, 0.1), ("b", 0.7, 0.4), ("c", 0.9, 0.7)]
    ]
    rounds = [Round(LEAST_SURE, 0, number, list("xy" if number == 0 else "xya"), 1, 1.0, [], left) for number in (0, 1)]
    row = describe_left(rounds, 0)
    assert row["correlation"] == pytest.approx(1.0)
    assert row["dice"] == pytest.approx(0.4)
    assert row["dice_chosen"] == pytest.approx(0.1)
    assert describe_left(rounds, 1)["dice_chosen"] is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--first", "0"], "--first must be at least 1, got 0"),
        (["--rounds", "9"], "18 images are labeled in the last round, of a pool of 8: both arms"),
        (["--seeds", "0", "0"], "--seeds holds one twice: [0, 0]; each seed is one simulation"),
        (["--training::num_epochs", "3"], "--training::num_epochs cannot be given here: pass --epochs"),
        (["--training::lrr", "1"], "unknown key training::lrr; did you mean training::lr"),
        (["--arm", "student"], "--arm student needs a teacher; pass --teacher::lora_checkpoint PATH, or --arm control"),
        (["--dataset_dir", "gone"], "--dataset_dir gone holds no dataset.json; build it with"),
        (["--student::checkpoint", "gone.pt"], "gone.pt"),
        (["--show", "gone.json"], "--show gone.json does not exist; run python -m eval.active_learning first"),
        (["--show", "README.md"], "holds no results of eval.active_learning"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(arguments, tmp_path, capsys, more, message):
    assert main([*arguments, *more]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("active_learning: ")
    assert message in line
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "out").exists()


def test_page_holds_the_figures_of_the_results():
    path = ROOT / "eval" / "results" / "active_learning.json"
    if not path.is_file():
        pytest.skip("the simulation is not measured yet")
    text = (ROOT / "docs" / "active_learning.md").read_text(encoding="utf-8")
    assert f"{BEGIN}\n\n{block(json.loads(path.read_text()), 'active_learning.png')}\n\n{END}" in text
    assert (ROOT / "docs" / "active_learning.png").is_file()
