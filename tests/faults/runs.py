"""Runs that are stopped, killed, started twice, or that cannot write."""

from __future__ import annotations

import signal

import torch
from faults.place import RUN, Command
from faults.table import fault

SMALL_DISK = 1_600_000  # bytes: for the first epoch, but not for a second last.pt beside the first
RESULTS = tuple(
    f"{RUN}/{name}" for name in ("test_results.txt", "metrics.csv", "summary.json", "report.html", "report.json")
)


def refuse_leftovers(outcome) -> None:
    """Nothing half written lies about; a lock is a file that stays, and holds nobody up."""
    hidden = [name for name in outcome.after if "/." in f"/{name}" and not name.endswith(".lock")]
    assert hidden == [], hidden


@fault("run", "a disk that is full", "training", r"logs/\S+.*(space|full)", writes=("cache/*", "logs.after/*"))
def disk_full(place):
    (place / "logs").mkdir()
    command = place.training("--teacher::cache_dir", "cache", "--training::num_epochs", "50")
    outcome = yield Command(command, {"folder": str(place / "logs"), "bytes": SMALL_DISK})
    refuse_leftovers(outcome)
    models = place / RUN.replace("logs", "logs.after") / "models"
    assert torch.load(models / "last.pt", weights_only=True)["progress"]["epoch"] >= 1
    (best,) = models.glob("best_epoch*.pt")
    torch.load(best, weights_only=True)


@fault("run", "a folder that cannot be written to", "training", r"logs\S*.*(read-only|writ)")
def read_only(place):
    (place / "logs").mkdir()
    yield Command(place.training(), {"folder": str(place / "logs")})


@fault("run", "a resume of a run that another process is training", "training, resumed", rf"{RUN}")
def resumed_twice(place):
    place.begun_run()
    resume = place.training("--training::resume", RUN, "--training::num_epochs")
    first = place.start([*resume, "500"])
    try:
        first.wait_until_said("resumed after epoch 1")
        first.send(signal.SIGSTOP)  # it holds the run, and does not change it while it is looked at
        yield [*resume, "3"]
    finally:
        first.send(signal.SIGKILL)


@fault(
    "run",
    "a history.csv that is damaged",
    "training, resumed",
    r"history\.csv",
    changes=(f"{RUN}/config.json", f"{RUN}/distill.log"),
)
def spoilt_history(place):
    place.begun_run()
    log = place / RUN / "distill.log"
    before = log.read_bytes()
    (place / RUN / "history.csv").write_bytes(b"epoch,loss\n1,0.5\n\x00\xff,,nonsense\n")
    yield place.training("--training::resume", RUN, "--training::num_epochs", "3")
    assert log.read_bytes().startswith(before)


@fault(
    "run",
    "a run that was killed in its final evaluation",
    "training, resumed",
    r"resumed after epoch 1",
    code=0,
    writes=(f"{RUN}/*",),
    changes=(f"{RUN}/*",),
)
def killed_in_evaluation(place):
    place.begun_run()
    outcome = yield place.training("--training::resume", RUN, "--training::num_epochs", "1")
    assert set(RESULTS) <= outcome.after.keys()
    assert [name for name in outcome.lost if name.endswith((".pt", "history.csv"))] == []
    refuse_leftovers(outcome)


@fault("run", "a mistyped key", "training", r"temperatur; did you mean distillation::temperature")
def mistyped_key(place):
    yield place.training("--distillation::temperatur", "3")


@fault(
    "run", "the folder of the images as the folder of the masks", "inference", r"output_dir images|images.*output_dir"
)
def masks_beside_images(place):
    place.images("a.png")
    yield [word if word != "masks" else "images" for word in place.inference()]


@fault(
    "run",
    "SIGTERM in the middle of a training",
    "training",
    rf"stopped: .*--training::resume {RUN}",
    code=143,
    writes=("logs/", "logs/*"),
)
def sigterm(place):
    command = place.training("--training::num_epochs", "500")
    outcome = yield Command(command, stop=(signal.SIGTERM, f"{RUN}/models/last.pt"))
    assert "model.pt" not in outcome.after
    refuse_leftovers(outcome)
    assert torch.load(place / RUN / "models" / "last.pt", weights_only=True)["progress"]["epoch"] >= 1
