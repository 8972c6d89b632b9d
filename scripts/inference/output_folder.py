"""The folder of a run's outputs: one run at a time, and a killed one goes on where it was.

`run.json` says what the outputs were made with. An image is done when its mask, its overlay and all its rows in
lesions.csv are there. Every mask and overlay is whole, since `atomic_path` writes them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from monai.utils import CommonKeys as Keys

from ..utils.digests import file_digest
from ..utils.files import atomic_path, clear_leftovers, naming_path
from ..utils.screen import tell
from ..utils.tables import read_table, write_table
from .exports import TORCH
from .failures import FAILURE
from .inputs import check_path
from .lesion_table import name_in_table
from .lesions import COLUMNS, FORMER_COLUMNS
from .masks import count_frames
from .outputs import AUTO_FORMAT, LESIONS_FILE, RUN_FILE, possible_outputs, refuse_existing

LOCK_FILE = ".lock"
FORMER = {"engine": TORCH}  # what run.json of version 0.7 and before does not say
PATIENCE = 15.0  # seconds: the processes of a data loader hold the lock some seconds longer than one that is killed
Item = Mapping[str, str]


class OutputFolder:
    """Decides what is still to be done, and keeps other runs out meanwhile.

    Args:
        output_dir: folder of the outputs.
        dataset_dir: folder of the images, or the one image.
        checkpoint: file of the student's weights.
        class_names: of the foreground.
        output_format: of the masks.
        settings: what else the outputs depend on, by its id in the config.
        overwrite: replace outputs that are already there. [true, false]
        resume: go on with the run that wrote the outputs: segment what it has not. It goes before overwrite.
            [true, false]
    """

    def __init__(
        self,
        output_dir: str | Path,
        dataset_dir: str | Path,
        checkpoint: str | Path,
        class_names: Sequence[str],
        output_format: str = AUTO_FORMAT,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        for name, path in (("dataset_dir", dataset_dir), ("output_dir", output_dir)):
            check_path(name, path)
        self.path, self.dataset_dir = Path(output_dir), Path(dataset_dir)
        self.checkpoint = checkpoint
        self.class_names = list(class_names)
        self.output_format = output_format
        self.settings = dict(settings or {})
        self.overwrite, self.resume = overwrite, resume
        self._outputs: dict[str, list[Path]] = {}  # by image
        self.table, self.record = self.path / LESIONS_FILE, self.path / RUN_FILE

    @contextmanager
    def opened(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """A block in which no other run writes here; gives the items that are still to be segmented.

        Where every item has a failure, nothing is written.

        Args:
            items: of `list_images`.

        Raises:
            FileExistsError: an output is already there.
            ValueError: another run writes here, or the outputs are not those of this run.
            WriteError: the folder cannot be written to.
        """
        images = [item[Keys.IMAGE] for item in items if FAILURE not in item]
        if not images:
            yield list(items)
            return
        self._check(images)  # before the folder is made
        with self._locked():
            self._check(images)
            for folder in {self.path, *(output.parent for image in images for output in self.outputs_of(image))}:
                clear_leftovers(folder)
            done = self._go_on(images) if self.resume and self.record.is_file() else self._begin()
            yield [item for item in items if item[Keys.IMAGE] not in done]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.path / LOCK_FILE)
        try:
            with naming_path(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=PATIENCE)  # the system gives it back when this process ends, however it does
                except Timeout:
                    raise ValueError(
                        f"another run writes into output_dir {self.path}; wait for its end, or choose another one."
                    ) from None
            yield
        finally:
            lock.release()

    def _check(self, images: Sequence[str]) -> None:
        """Refuse outputs that are there, or that belong to another run."""
        outputs = {output for image in images for output in self.outputs_of(image)} | {self.table}
        for folder in {output.parent for output in outputs}:
            if not folder.resolve().is_relative_to(self.path.resolve()):
                raise ValueError(f"folder {folder} leads out of output_dir {self.path}; remove the link.")
        if self.resume and self.record.is_file():
            self._compare(self._read_record())
        elif not self.overwrite:
            for output in sorted(outputs):
                if self.resume and output.exists():
                    raise ValueError(
                        f"output_dir {self.path} holds {output.name} but no {RUN_FILE}, so what it was made with is "
                        "not known; pass --resume False --overwrite True, or choose another output_dir."
                    )
                refuse_existing(output)

    def outputs_of(self, image: str) -> list[Path]:
        """Every file that an image may give, masks first."""
        if image not in self._outputs:
            place = {"output_format": self.output_format, "dataset_dir": self.dataset_dir}
            self._outputs[image] = possible_outputs(image, self.path, **place)
        return self._outputs[image]

    def discard(self, image: str) -> None:
        """Remove the outputs of an image that has failed, those of an earlier run too."""
        for output in self.outputs_of(image):
            with naming_path(output):
                output.unlink(missing_ok=True)

    @cached_property
    def _description(self) -> dict[str, Any]:
        """What the outputs of this run are made with."""
        return {
            "dataset_dir": str(self.dataset_dir.resolve()),
            "checkpoint": file_digest(self.checkpoint),
            "class_names": self.class_names,
            "output_format": self.output_format,
            **self.settings,
        }

    def _read_record(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.record.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.record} cannot be read ({error}), so what its masks were made with is not known; pass "
                "--resume False --overwrite True, or choose another output_dir."
            ) from None

    def _compare(self, record: Mapping[str, Any]) -> None:
        record = {**FORMER, **record}
        for name, value in self._description.items():
            if record.get(name) != value:
                raise ValueError(
                    f"the outputs in {self.path} were made with another {name} ({record.get(name)}, now {value}), see "
                    f"{RUN_FILE}; choose another output_dir, or pass --resume False --overwrite True."
                )

    def _begin(self) -> set[str]:
        """Begin a new table before anything else: rows of an earlier run would count as those of this one."""
        with naming_path(self.table):
            write_table(self.table, COLUMNS, [])
        with atomic_path(self.record) as partial:
            partial.write_text(json.dumps(self._description, indent=4) + "\n", encoding="utf-8")
        return set()

    def _go_on(self, images: Sequence[str]) -> set[str]:
        """Images that are done. Only their rows stay in the table."""
        rows_of = defaultdict(list)
        for row in self._read_table():
            rows_of[row["file"]].append(row)
        names = {image: name_in_table(image, self.dataset_dir) for image in images}
        done = {image for image, name in names.items() if self._is_done(image, rows_of.get(name, []))}
        with naming_path(self.table):
            write_table(
                self.table, COLUMNS, [row for image in images if image in done for row in rows_of[names[image]]]
            )
        tell(f"{len(done)} of {len(images)} files are segmented already; {len(images) - len(done)} are left")
        return done

    def _read_table(self) -> list[dict[str, str | None]]:
        """The rows; a last line that a kill has cut off is taken away."""
        if not self.table.is_file():
            return []
        with naming_path(self.table), open(self.table, "rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        rows = read_table(self.table)
        if rows and set(rows[0]) not in (set(COLUMNS), set(FORMER_COLUMNS)):
            raise ValueError(
                f"{self.table} has other columns than a run writes, as when a spreadsheet saves it; remove it, and "
                "its images are segmented anew."
            )
        return rows

    def _is_done(self, image: str, rows: Sequence[Mapping[str, str | None]]) -> bool:
        """Whether all outputs of an image are there, none older than it, and all its rows."""
        *outputs, still, loop = self.outputs_of(image)
        mask = next((output for output in outputs if output.is_file()), None)
        if mask is None or not (still.is_file() or loop.is_file()):
            return False
        try:
            frames = count_frames(mask, len(self.class_names))
            is_newer = mask.stat().st_mtime_ns >= _changed(Path(image))
        except Exception:  # whatever keeps it from being read: it is made again
            return False
        return is_newer and len(rows) == frames * len(self.class_names)


def _changed(image: Path) -> int:
    """When a file was last written, or put in its place, in ns: what `cp -p` and rsync copy keeps its older time."""
    return max(time for stat in (image.stat(), image.lstat()) for time in (stat.st_mtime_ns, stat.st_ctime_ns))
