"""TensorBoard's files, read back."""

import pytest
from handler_stand_ins import make_evaluator, make_trainer
from ignite.engine import Engine, Events
from PIL import Image
from torch import nn

from scripts.handlers import Checkpoints, TensorBoard


def test_event_file_holds_the_three_terms_the_rate_and_the_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine, evaluator = make_trainer([(1.0, 1), (4.0, 2)]), make_evaluator(0.5, 2)
    TensorBoard(tmp_path / "tensorboard", evaluator).attach(engine)
    assert not (tmp_path / "tensorboard").exists()
    engine.run(engine.losses, max_epochs=2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/task",
        "train/distill",
        "train/feature",
        "train/lr",
        "val/val_mean_dice",
    }
    assert [(event.step, event.value) for event in events.Scalars("train/distill")] == [
        (1, 2.0),
        (2, 8.0),
        (3, 2.0),
        (4, 8.0),
    ]
    assert [(event.step, event.value) for event in events.Scalars("val/val_mean_dice")] == [(2, 0.5)]


def test_event_file_holds_the_panels_of_their_epochs_made_smaller(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    engine, panels = make_trainer([(1.0, 1)]), tmp_path / "visualizations"
    panels.mkdir()

    def draw(engine: Engine) -> None:
        if engine.state.epoch == 2:
            Image.new("RGB", (1200, 600), "red").save(panels / "epoch_002.png")

    engine.add_event_handler(Events.EPOCH_COMPLETED, draw)
    TensorBoard(tmp_path / "tensorboard", panels=panels).attach(engine)
    engine.run(engine.losses, max_epochs=3)
    (event,) = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Images("panels")
    assert (event.step, event.width, event.height) == (2, 960, 480)


def test_event_files_of_a_resumed_run_hold_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    network, folder, boards = nn.Linear(1, 1), tmp_path / "tensorboard", []

    def start(losses: list, **options) -> Engine:
        engine, evaluator = make_trainer(losses), make_evaluator(0.5, 1)
        engine.state.max_epochs = 3
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: setattr(evaluator.state, "epoch", engine.state.epoch))
        Checkpoints(tmp_path / "models", network, evaluator, {"network": network}, **options).attach(engine)
        boards.append(TensorBoard(folder, evaluator))
        boards[-1].attach(engine)
        return engine

    def fail():
        raise KeyboardInterrupt

    engine = start([(1.0, 1), (2.0, 1), (3.0, 1)])
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), fail)  # 4 and 5 are logged, and in no checkpoint
    with pytest.raises(KeyboardInterrupt):
        engine.run(engine.losses)
    boards[-1].writer.flush()  # what the writer's thread does by itself every two minutes
    engine = start([(7.0, 1), (8.0, 1), (9.0, 1)], resume=tmp_path / "models" / "last.pt")
    engine.run(engine.losses)
    events = EventAccumulator(str(folder)).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert logged == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 7.0), (5, 8.0), (6, 9.0), (7, 7.0), (8, 8.0), (9, 9.0)]
    assert [event.step for event in events.Scalars("val/val_mean_dice")] == [1, 2, 3]
