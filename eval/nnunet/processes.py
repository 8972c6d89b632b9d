"""nnU-Net's commands as processes of the Python that has nnU-Net; what they print goes to one log file."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRIVER = Path(__file__).with_name("driver.py")
FOLDERS = {name: f"nnUNet_{name}" for name in ("raw", "preprocessed", "results")}  # names of variables too
LOG = "nnunet.log"
TRAIN = "nnUNetv2_train"
INSTALL = "pip install nnunetv2"


@dataclass(frozen=True)
class NnUnet:
    """An installation of nnU-Net that works in a folder.

    Args:
        python: of the environment that has it.
        folder: gets nnU-Net's folders and the log.
        settings: epochs, iterations, val_iterations and threads, see driver.py.
        workers: processes that prepare images and write masks beside the computation; with 0 it does that itself.
    """

    python: str
    folder: Path
    settings: Mapping[str, int | None]
    workers: int = 0

    def versions(self) -> dict[str, str]:
        """Of nnU-Net and what it needs, by package.

        Raises:
            FileNotFoundError: there is no such Python.
            ValueError: it does not run, or has no nnU-Net.
        """
        versions = self.ask("versions")
        if not versions.get("nnunetv2"):
            raise ValueError(
                f"--python {self.python} has no nnU-Net: {INSTALL} in an environment of its own (its timm is not this "
                "bundle's), and pass its Python as --python PATH."
            )
        return versions

    def ask(self, *words: str) -> Any:
        """What the driver answers to a question.

        Raises:
            FileNotFoundError: there is no such Python.
            ValueError: it does not run.
        """
        try:
            done = subprocess.run(self._command(*words), capture_output=True, text=True, check=True)
            return json.loads(done.stdout)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"--python {self.python} does not exist; pass the Python that has nnU-Net."
            ) from None
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            told = str(getattr(error, "stderr", None) or error).strip().splitlines()
            raise ValueError(f"--python {self.python} does not run: {told[-1]}") from None

    def run(self, command: str, *words: str) -> None:
        """Run one of nnU-Net's commands to its end.

        Args:
            command: its name.
            words: its arguments.

        Raises:
            ValueError: it failed.
        """
        path = self.folder / LOG
        with open(path, "ab") as log:
            process = subprocess.Popen(
                self._command(command, *words), stdout=log, stderr=log, env=self._environment(command)
            )
            try:
                code = process.wait()
            except BaseException:  # this program is stopped
                process.terminate()
                process.wait()
                raise
        if code:
            raise ValueError(f"{command} ended with exit code {code}: {_last_line(path)} ({path} has all of it).")

    def of(self, name: str) -> Path:
        """One of nnU-Net's folders: raw, preprocessed or results."""
        return self.folder / FOLDERS[name]

    def _command(self, *words: str) -> Sequence[str]:
        return [self.python, str(DRIVER), json.dumps(dict(self.settings)), *words]

    def _environment(self, command: str) -> dict[str, str]:
        places = {variable: str(self.of(name).resolve()) for name, variable in FOLDERS.items()}
        some = max(1, self.workers)
        # its planning takes the processes of the training for threads, of which torch needs one
        augmenting = self.workers if command == TRAIN else some
        counts = {"nnUNet_n_proc_DA": str(augmenting), "nnUNet_def_n_proc": str(some)}
        threads = self.settings.get("threads")
        return {**os.environ, **places, **counts, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it printed nothing"
