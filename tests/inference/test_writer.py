"""Outputs written in a thread: their order, what waits, and what its errors end."""

import errno
import threading
import time

import pytest

from scripts.inference.writer import MOST_BYTES, MOST_JOBS, OutputWriter
from scripts.utils.files import WriteError


class Told(list):
    """The failures that a writer tells."""

    def __call__(self, file: str, error: Exception) -> None:
        self.append((file, str(error)))


def fail(error: BaseException):
    def job():
        raise error

    return job


def test_jobs_are_done_in_their_order_in_another_thread(tmp_path):
    writer, done = OutputWriter(), []
    with writer.opened(tmp_path, Told()):
        for number in range(50):
            writer.submit(lambda number=number: done.append((number, threading.current_thread().name)))
    assert done == [(number, "outputs") for number in range(50)]
    assert list(tmp_path.iterdir()) == []


def test_without_a_thread_each_job_is_done_at_once():
    writer, done = OutputWriter(), []
    writer.submit(lambda: done.append(threading.current_thread()))
    assert done == [threading.current_thread()]
    with pytest.raises(KeyError):
        writer.submit(fail(KeyError("a")))


def test_failed_job_ends_the_output_of_its_file_alone(tmp_path):
    writer, told, done = OutputWriter(), Told(), []
    with writer.opened(tmp_path, told):
        for file in "abc":
            writer.begin(file)
            writer.submit(fail(RuntimeError("no memory")) if file == "b" else lambda: None)
            writer.submit(lambda file=file: done.append(file))
    assert told == [("b", "no memory")]
    assert done == ["a", "c"]


@pytest.mark.parametrize("stop", [WriteError("b_mask.png", errno.ENOSPC), KeyboardInterrupt()])
def test_disk_that_is_full_stops_the_run_with_the_name_of_the_file(tmp_path, stop):
    writer, told, done = OutputWriter(), Told(), []
    with pytest.raises(type(stop)) as raised, writer.opened(tmp_path, told):
        writer.begin("b")
        writer.submit(fail(stop))
        writer.submit(lambda: done.append("row"))
        writer.flush()
    assert raised.value is stop
    assert (told, done) == ([], [])
    with writer.opened(tmp_path, told):  # it can be used again
        writer.submit(lambda: done.append("again"))
    assert done == ["again"]


def test_next_file_meets_what_stopped_the_thread(tmp_path):
    writer = OutputWriter()
    with pytest.raises(WriteError, match="a_mask.png cannot be written"), writer.opened(tmp_path, Told()):
        writer.submit(fail(WriteError("a_mask.png", errno.ENOSPC)))
        while True:
            writer.begin("b")


def test_path_that_is_too_long_is_the_fault_of_its_file(tmp_path):
    writer, told = OutputWriter(), Told()
    with writer.opened(tmp_path, told):
        writer.begin("a")
        writer.submit(fail(WriteError("a_mask.png", errno.ENAMETOOLONG)))
    assert [file for file, _ in told] == ["a"]


@pytest.mark.parametrize(("number", "num_bytes"), [(MOST_JOBS, 0), (1, MOST_BYTES)])
def test_what_waits_is_bounded(tmp_path, number, num_bytes):
    writer, go_on, done = OutputWriter(), threading.Event(), []
    with writer.opened(tmp_path, Told()):
        for _ in range(number):
            writer.submit(go_on.wait, num_bytes)
        one_more = threading.Thread(target=lambda: (writer.submit(lambda: None, 1), done.append(1)))
        one_more.start()
        one_more.join(0.1)
        assert done == []
        go_on.set()
        one_more.join()
    assert done == [1]


def test_after_an_error_jobs_that_wait_are_left_out_and_the_first_is_finished(tmp_path):
    writer, started, done = OutputWriter(), threading.Event(), []

    def first():
        started.set()
        while not writer._dropping:
            time.sleep(0.001)
        done.append("first")

    with pytest.raises(KeyboardInterrupt), writer.opened(tmp_path, Told()):
        writer.submit(first)
        writer.submit(lambda: done.append("second"))
        started.wait()
        raise KeyboardInterrupt
    assert done == ["first"]


def test_files_of_a_run_are_begun_in_one_folder_and_are_whole_or_not_there(tmp_path):
    writer, seen = OutputWriter(), []

    def write(name: str, error: Exception | None = None):
        with writer.draft(tmp_path / "sub" / name) as draft:
            draft.write_text("half")
            seen.append(draft.parent)
            if error:
                raise error
            draft.write_text(name)

    with writer.opened(tmp_path, Told()):
        for file in "ab":
            writer.begin(file)
            writer.submit(lambda file=file: write(f"{file}.txt", ValueError() if file == "b" else None))
    assert len(set(seen)) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["sub", "a.txt"]
    assert (tmp_path / "sub" / "a.txt").read_text() == "a.txt"
    write("c.txt")  # and without a thread
    assert seen[-1] != seen[0]
