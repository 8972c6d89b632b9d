"""Outputs written beside the computing: PNG, GIF and the disk take as long as a fast network.

One thread does the jobs in the order in which they came: the mask of a file, its overlay, its rows in lesions.csv. So
an interrupted run leaves what one without the thread leaves: the rows of a file are there only after its mask and its
overlay, and after those of the files before it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..utils.files import atomic_path, naming_path, own_folder
from .failures import write_error

MOST_JOBS = 12  # that wait: four stills
MOST_BYTES = 2**26  # that they hold; a job that holds more waits until it is alone


class _Job(NamedTuple):
    file: str
    run: Callable[[], None]
    num_bytes: int


class OutputWriter:
    """Does jobs in a thread while it is `opened`; otherwise, as in other programs, each at once.

    A job that fails ends the output of its file: the jobs of this file that follow are left out. An output that cannot
    be written, such as on a full disk, ends all of them: the next `begin`, `submit` or `flush` raises the error.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._drafts: Path | None = None
        self._reset()

    def _reset(self) -> None:
        self._jobs: deque[_Job] = deque()  # the first is being done
        self._file, self._failed, self._closing, self._dropping = "", set(), False, False
        self._stop: BaseException | None = None

    @contextmanager
    def opened(self, folder: Path, on_failure: Callable[[str, Exception], None]) -> Iterator[None]:
        """A block whose jobs a thread does. They are done at its end; after an error those that wait are left out.

        Args:
            folder: of the outputs.
            on_failure: told the file and the error of a job, in the thread.

        Raises:
            WriteError: an output could not be written.
        """
        self._reset()
        self._folder, self._on_failure = folder, on_failure
        self._thread = threading.Thread(target=self._work, name="outputs", daemon=True)
        self._thread.start()
        try:
            yield
            self.flush()
        finally:
            with self._changed:
                self._closing = self._dropping = True
                self._changed.notify_all()
            self._thread.join()
            self._thread = self._drafts = None

    def draft(self, path: Path) -> AbstractContextManager[Path]:
        """An `atomic_path` for a job; in the thread in one folder for all files: making one takes as long as a PNG.

        Args:
            path: of the file.
        """
        if self._thread is not None and self._drafts is None:
            with naming_path(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._drafts = self._of_thread.enter_context(own_folder(self._folder / "outputs"))
        return atomic_path(path, drafts=self._drafts)

    def begin(self, file: str) -> None:
        """Name the file whose jobs follow. Raises what stopped the thread."""
        self._raise_stop()
        self._file = file

    def submit(self, run: Callable[[], None], num_bytes: int = 0) -> None:
        """Do a job of the file that was begun; waits while too much is waiting. Raises what stopped the thread.

        Args:
            run: the job.
            num_bytes: of the arrays that it holds.
        """
        if self._thread is None:
            run()
            return
        with self._changed:
            self._changed.wait_for(lambda: self._stop or not self._jobs or self._has_room(num_bytes))
            self._raise_stop()
            self._jobs.append(_Job(self._file, run, num_bytes))
            self._changed.notify_all()

    def _has_room(self, num_bytes: int) -> bool:
        return len(self._jobs) < MOST_JOBS and sum(job.num_bytes for job in self._jobs) + num_bytes <= MOST_BYTES

    def flush(self) -> None:
        """Wait until every job is done. Raises what stopped the thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs)
        self._raise_stop()

    def _raise_stop(self) -> None:
        if self._stop is not None:
            raise self._stop

    def _work(self) -> None:
        with ExitStack() as self._of_thread:
            while self._next_job():
                with self._changed:
                    self._jobs.popleft()
                    self._changed.notify_all()

    def _next_job(self) -> bool:
        """Wait for a job, and do it unless it is left out; False where there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            job = self._jobs[0] if self._jobs else None
        if job and not (self._dropping or self._stop or job.file in self._failed):
            self._do(job)
        return job is not None

    def _do(self, job: _Job) -> None:
        """Do a job; whatever it raises is kept for the other thread, or told of its file."""
        try:
            try:
                job.run()
            except Exception as error:
                if stop := write_error(error):
                    raise stop from None
                self._failed.add(job.file)
                self._on_failure(job.file, error)
        except BaseException as error:
            self._stop = error
