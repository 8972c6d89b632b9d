"""How a program ends that does not end well: messages, exit codes, and the command that goes on."""

import errno
import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from conftest import ROOT

from scripts.run import errors
from scripts.run.errors import (
    _brief_excepthook,
    find_user_error,
    handle_signals,
    is_command_line,
    is_user_error,
    prepare_command_line,
    run_program,
    stopping,
    this_command,
)
from scripts.utils.files import WriteError
from scripts.utils.options import check_num_classes

SIGNALS = (signal.SIGINT, signal.SIGTERM)


# whose error it is


def caught(function, *arguments) -> Exception:
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def chained() -> Exception:
    """A user's mistake as MONAI hands it on."""
    try:
        try:
            check_num_classes(1)
        except ValueError as error:
            raise RuntimeError("Failed to instantiate") from error
    except RuntimeError as error:
        return error


def test_error_of_the_bundles_own_code_is_the_users():
    assert is_user_error(caught(check_num_classes, 1))
    assert not is_user_error(caught(int, "x"))  # raised here
    assert not is_user_error(ValueError("never raised"))


def test_error_that_is_no_mistake_of_a_user_is_not():
    def fail(value: object) -> None:
        raise TypeError("a fault in the code")

    error = caught(fail, 1)
    assert not is_user_error(error)
    assert find_user_error(error) is None


def test_users_error_is_found_behind_those_of_monai():
    error = chained()
    assert not is_user_error(error)
    assert str(find_user_error(error)).startswith("data::num_classes must be an integer of at least 2")
    assert find_user_error(None) is None


def test_command_line_shows_a_users_error_in_one_line_and_a_fault_with_its_traceback(capsys):
    error = chained()
    _brief_excepthook(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("error: data::num_classes must be")
    assert shown.count("\n") == 1
    error = caught(int, "x")
    _brief_excepthook(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "invalid literal for int()" in shown


def test_users_error_is_one_line_whatever_the_name_of_its_file(quiet, capsys):
    def work() -> int:
        check_num_classes("a\nb\x1b\udcfc")

    error = caught(work)
    error.args = ("file a\nb\x1b\udcfc is bad",)
    _brief_excepthook(type(error), error, error.__traceback__)
    assert capsys.readouterr().err == "error: file a\\nb\\x1b\\udcfc is bad\n"


def test_hook_is_set_for_monai_on_the_command_line_alone(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(errors, "handle_signals", dict)
    monkeypatch.setattr(errors, "keep_early_records", lambda: None)
    monkeypatch.setattr(sys, "argv", ["/some/program.py"])
    prepare_command_line()
    assert not is_command_line()
    assert sys.excepthook is sys.__excepthook__
    monkeypatch.setattr(sys, "argv", ["/env/site-packages/monai/bundle/__main__.py", "run"])
    prepare_command_line()
    assert is_command_line()
    assert sys.excepthook is _brief_excepthook


# the command


@pytest.fixture
def started_as(monkeypatch):
    """Pretend that this process was started by a command."""

    def pretend(module: str | None, *words: str, python: str = "python") -> None:
        spec = SimpleNamespace(name=module) if module else None
        monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=spec))
        monkeypatch.setattr(sys, "argv", list(words))
        monkeypatch.setattr(errors, "_python", lambda: python)

    return pretend


def test_command_is_what_a_user_has_typed(started_as):
    words = ["run", "training", "--config_file", "configs/train.json", "--data::dataset_dir", "/data/my images"]
    started_as("monai.bundle.__main__", "/env/monai/bundle/__main__.py", *words)
    assert this_command() == f"python -m monai.bundle {shlex.join(words)}"
    started_as("eval.compare", "/env/eval/compare.py", "--seeds", "0", "1")
    assert this_command() == "python -m eval.compare --seeds 0 1"
    started_as(None, "program.py", "x")
    assert this_command() == "python program.py x"


@pytest.mark.parametrize(
    "words",
    [
        ["--training::resume", "logs/old", "--training::lr", "1e-3"],
        ["--training::resume=logs/old", "--training::lr", "1e-3"],
        ["--training#resume", "logs/old", "--training::lr", "1e-3"],
        ["--training::lr", "1e-3", "--training::resume"],
        ["--training::lr", "1e-3"],
    ],
)
def test_option_that_changes_replaces_the_former_one(started_as, words):
    started_as("monai.bundle.__main__", "monai/bundle/__main__.py", "run", "training", *words)
    expected = "python -m monai.bundle run training --training::lr 1e-3 --training::resume logs/new"
    assert this_command(training__resume="logs/new") == expected


@pytest.mark.parametrize(
    "word", ["['configs/train.json','my overlay.json']", "it's $HOME", 'a "b"', "plain", "", "'`x`\\"]
)
def test_command_is_the_same_words_to_a_shell(started_as, word):
    started_as("monai.bundle.__main__", "monai/bundle/__main__.py", "run", "--config_file", word)
    assert shlex.split(this_command()) == ["python", "-m", "monai.bundle", "run", "--config_file", word]


def test_python_is_named_as_it_can_be_started_from_here(monkeypatch):
    monkeypatch.setattr(errors.shutil, "which", lambda name: sys.executable)
    assert errors._python() == "python"
    monkeypatch.setattr(errors.shutil, "which", lambda name: "/usr/bin/python")
    assert errors._python() == os.path.relpath(sys.executable)


# programs


@pytest.fixture
def quiet(monkeypatch):
    """`run_program` without handlers of messages, which would outlive the test."""
    for name in ("show_messages", "keep_early_records"):
        monkeypatch.setattr(errors, name, lambda: None)


def test_program_ends_with_the_code_of_its_work_and_its_handlers_are_taken_away(quiet):
    former, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work() -> int:
        seen.extend(signal.getsignal(number) for number in SIGNALS)
        return 3

    assert run_program("segment", work) == 3
    assert [signal.getsignal(number) for number in SIGNALS] == former
    assert not set(seen) & set(former)
    assert errors._advice == []


def test_program_ends_with_1_and_one_line_on_a_users_error(quiet, capsys):
    assert run_program("segment", lambda: check_num_classes(1)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("segment: data::num_classes must be an integer of at least 2")
    assert err.count("\n") == 1


def test_fault_in_a_program_is_raised(quiet):
    def work() -> int:
        raise KeyError("x")

    former = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError):
        run_program("segment", work)
    assert [signal.getsignal(number) for number in SIGNALS] == former


def test_process_of_torchrun_and_another_thread_keep_their_signals(monkeypatch):
    former, handlers = [signal.getsignal(number) for number in SIGNALS], []
    thread = threading.Thread(target=lambda: handlers.append(handle_signals()))
    thread.start()
    thread.join()
    monkeypatch.setenv("LOCAL_RANK", "0")
    handlers.append(handle_signals())
    assert handlers == [{}, {}]
    assert [signal.getsignal(number) for number in SIGNALS] == former


def test_advice_holds_within_its_block():
    with stopping(lambda: "outer"):
        with stopping(lambda: "inner"):
            assert [advice() for advice in errors._advice] == ["outer", "inner"]
        assert [advice() for advice in errors._advice] == ["outer"]
    assert errors._advice == []


def test_advice_that_cannot_be_given_does_not_keep_the_process_from_ending():
    def fail() -> str:
        raise OSError("last.pt cannot be read")

    with stopping(fail):
        assert errors._current_advice() == "what is kept is not known: last.pt cannot be read"


# signals, in a process of their own

PROGRAM = """
import os, sys, time
sys.path.insert(0, {root!r})
from scripts.run.errors import handle_signals, run_program, stopping

def wait():
    print("ready", flush=True)
    time.sleep(60)
    return 0

{body}
"""
WITH_KEPT = 'sys.exit(run_program("segment", wait, kept="the masks are kept"))'
WITHOUT = 'sys.exit(run_program("segment", wait))'
NESTED = """
def work():
    with stopping(lambda: "the inner block's"):
        return wait()

sys.exit(run_program("compare", work, kept="the arms are kept"))
"""
FORKED = """
def work():
    child = os.fork()
    if child == 0:
        print("ready", os.getpid(), sep="\\n", flush=True)
        time.sleep(60)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return 0

sys.exit(run_program("segment", work))
"""
GROUP = """
def work():
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, b"x")  # from here on a signal is not lost in the fork
        time.sleep(60)
    os.read(reading, 1)
    return wait()

sys.exit(run_program("segment", work))
"""
DESTRUCTOR = """
class Held:
    def __del__(self):
        print("ready", flush=True)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            pass

def work():
    Held()
    time.sleep(60)
    return 0

sys.exit(run_program("segment", work))
"""
SLOW_ADVICE = """
def slow():
    print("asked", flush=True)
    time.sleep(60)

handle_signals()
with stopping(slow):
    wait()
"""


@pytest.fixture
def program(tmp_path):
    """Starts a program in a process group of its own, and waits until it does; all that is left of it is killed."""
    processes = []

    def start(body: str, *words: str) -> subprocess.Popen:
        (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT), body=body))
        process = subprocess.Popen(
            [sys.executable, "program.py", *words],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def end_of(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str]:
    """Exit code of a program that gets a signal, and what it says on stderr."""
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("body", "advice"),
    [
        (WITHOUT, "nothing is kept yet; start again with: {command}"),
        (WITH_KEPT, "the masks are kept; go on with: {command}"),
    ],
    ids=["nothing kept", "masks kept"],
)
def test_stopped_program_says_in_one_line_what_is_kept_and_how_to_go_on(program, body, advice, number, code):
    words = ["--dataset_dir", "my images"]
    process = program(body, *words)
    returncode, shown = end_of(process, number)
    blank, line, end = shown.split("\n")
    assert returncode == code
    assert (blank, end) == ("", "")
    text, _, command = line.partition(" with: ")
    assert f"{text} with: " == "stopped: " + advice.format(command="")
    assert shlex.split(command)[1:] == ["program.py", *words]


def test_of_blocks_in_each_other_the_outermost_speaks(program):
    code, shown = end_of(program(NESTED), signal.SIGTERM)
    assert code == 143
    assert shown.startswith("\nstopped: the arms are kept; go on with: ")
    assert "inner" not in shown


def test_forked_child_ends_without_a_word_and_is_no_crash_to_torch(program):
    process = program(FORKED)
    os.kill(int(process.stdout.readline()), signal.SIGTERM)
    out, shown = process.communicate(timeout=60)
    assert out == "0\n"
    assert shown == ""
    assert process.returncode == 0


def test_signal_that_meets_a_destructor_is_not_lost(program):
    code, shown = end_of(program(DESTRUCTOR), signal.SIGTERM)
    assert code == 143
    assert shown.startswith("\nstopped: nothing is kept yet; start again with: ")
    assert shown.count("\n") == 2


def test_ctrl_c_reaches_all_processes_and_one_speaks(program):
    process = program(GROUP)
    os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert shown.count("stopped:") == 1


def test_second_ctrl_c_ends_at_once(program):
    process = program(SLOW_ADVICE)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    assert end_of(process, signal.SIGINT) == (-signal.SIGINT, "")


# a disk that is full


def full(*arguments):
    raise OSError(errno.ENOSPC, "No space left on device", "/logs/events")


def test_full_disk_of_any_library_is_one_line_with_the_remedy(quiet, capsys):
    assert run_program("compare", full) == 1
    told = "/logs/events cannot be written (No space left on device): free space on this disk."
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"compare: {told} Nothing is kept yet; start again with: ")


def test_file_that_cannot_be_written_comes_with_what_is_kept(quiet, started_as, capsys):
    started_as("eval.compare", "compare.py", "--seeds", "0")

    def work() -> int:
        with stopping(lambda: "of the training inside"):
            raise WriteError("/logs/last.pt", errno.EROFS)

    assert run_program("compare", work, kept="what is trained is kept") == 1
    told = "/logs/last.pt cannot be written (Read-only file system): make the folder writable, or choose another one."
    command = "What is trained is kept; go on with: python -m eval.compare --seeds 0"
    assert capsys.readouterr().err == f"compare: {told} {command}\n"
