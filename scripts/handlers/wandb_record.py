"""A run in Weights & Biases: parameters, origin, metrics, panels and files.

Offline unless asked: everything stays in a folder of this machine, and `wandb sync` sends it when somebody wants that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..run.tracking import Record, TrackedRun, small_picture

MODES = ("offline", "online")


class WandbRecord(Record):
    """Records a run in W&B.

    Args:
        run: what is recorded.
        store: folder that gets wandb/offline-run-*.
        project: that the run belongs to.
        mode: `offline` keeps the run in `store` and sends nothing; `online` sends it to W&B's server as it goes.

    Raises:
        ValueError: wandb is not installed, or an unknown mode.
    """

    package = "wandb"

    def __init__(self, run: TrackedRun, store: str | Path, project: str, mode: str = "offline") -> None:
        if mode not in MODES:
            raise ValueError(f"wandb_record::mode must be one of {', '.join(MODES)}, got {mode!r}.")
        super().__init__(run)
        self.store, self.project, self.mode = Path(store).absolute(), project, mode

    def _open(self, id: str | None) -> str:
        self.store.mkdir(parents=True, exist_ok=True)
        online = self.mode == "online"
        self.tracked = self.module.init(
            project=self.project,
            name=self.run.name,
            id=id,
            # offline, `wandb sync` joins the parts of a resumed run by their id
            resume="allow" if online and id else None,
            dir=str(self.store),
            mode=self.mode,
            config={**self.run.params(), **self.run.origin()},
            settings=self.module.Settings(
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=not online,
                x_disable_stats=not online,
            ),
        )
        return self.tracked.id

    def _log_epoch(self, values: Mapping[str, float], epoch: int) -> None:
        self.tracked.log(dict(values), step=epoch)

    def _log_results(self, figures: Mapping[str, float], panels: Sequence[Path], files: Sequence[Path]) -> None:
        pictures = {f"panels/{path.stem}": self.module.Image(small_picture(path)) for path in panels}
        if pictures:
            self.tracked.log(pictures, step=self.last_epoch)
        self.tracked.summary.update(dict(figures))
        for path in files:
            self.tracked.save(str(path), base_path=str(path.parent), policy="now")

    def _close(self) -> None:
        self.tracked.finish()
