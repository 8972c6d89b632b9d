"""How a program ends that does not end well: one line that says what happened and what to do, and an exit code.

A mistake that a user can mend ends a program with its message alone, without MONAI's chain of tracebacks. Ctrl-C and
SIGTERM end it with what is kept and the command that goes on.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType

from ..utils.files import BUNDLE_ROOT, FULL, WriteError
from ..utils.screen import keep_early_records, printable, show_messages

logger = logging.getLogger(__name__)

SOON = 0.05  # seconds

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTHING_KEPT = "nothing is kept yet"
_advice: list[Callable[[], str]] = []  # of the blocks that are running, the outermost first


def is_command_line() -> bool:
    """Whether this process is `python -m monai.bundle`."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def prepare_command_line() -> None:
    """Let `python -m monai.bundle` end with one line, on a user's mistake and on Ctrl-C; nothing in other programs."""
    if not is_command_line():
        return
    keep_early_records()
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _brief_excepthook
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _brief_thread_excepthook
    handle_signals()


def _brief_excepthook(kind: type, error: BaseException, traceback: TracebackType | None) -> None:
    cause = find_user_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, traceback)
        return
    logger.debug("the run ended", exc_info=(kind, error, traceback))
    print(f"error: {printable(describe(cause))}", file=sys.stderr)


def _brief_thread_excepthook(arguments: threading.ExceptHookArgs) -> None:
    """Of a library's thread, such as TensorBoard's, whose full disk the main thread tells of."""
    if find_user_error(arguments.exc_value) is None:
        threading.__excepthook__(arguments)


def find_user_error(error: BaseException | None) -> BaseException | None:
    """The first in MONAI's chain of causes that a user can mend, see `is_user_error`; None where there is none."""
    while error is not None and not is_user_error(error):
        error = error.__cause__ or error.__context__
    return error


def describe(error: BaseException) -> str:
    """A user's error as one line; where a file could not be written, with what is kept and how to go on."""
    kept = getattr(error, "kept", "")
    if isinstance(error, OSError) and error.errno in FULL and not isinstance(error, WriteError):  # of any library
        error = WriteError(error.filename or "a file", error.errno)
    # str() would put [Errno 30] before a message of our own
    has_text = isinstance(error, OSError) and error.strerror and error.filename is None
    return " ".join([error.strerror if has_text else str(error), *([kept] if kept else [])])


def is_user_error(error: BaseException) -> bool:
    """Whether this bundle's own code raised it about something that a user can change, or a disk is full."""
    if isinstance(error, WriteError) or (isinstance(error, OSError) and error.errno in FULL):
        return True
    if not isinstance(error, (ValueError, OSError, FloatingPointError)):
        return False
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    parents = Path(traceback.tb_frame.f_code.co_filename).resolve().parents
    return BUNDLE_ROOT / "scripts" in parents or BUNDLE_ROOT / "eval" in parents


def run_program(name: str, work: Callable[[], int], kept: str = "", advice: Callable[[], str] | None = None) -> int:
    """Run one of the bundle's programs; its exit code, 1 after a message on stderr.

    Args:
        name: of the program, for the message.
        work: does it all and returns the exit code.
        kept: what Ctrl-C leaves behind, where the same command goes on from it; "" where there is nothing.
        advice: instead of `kept`, where another command goes on, see `stopping`.
    """

    def same_command() -> str:
        return f"{kept or NOTHING_KEPT}; {'go on' if kept else 'start again'} with: {this_command()}"

    show_messages()
    keep_early_records()
    former = handle_signals()
    try:
        with stopping(advice or same_command):
            return work()
    except Exception as error:
        cause = find_user_error(error)
        if cause is None:
            raise
        print(f"{name}: {printable(describe(cause))}", file=sys.stderr)
        return 1
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def stopping(advice: Callable[[], str]) -> Iterator[None]:
    """A block in which Ctrl-C and SIGTERM print this advice, and an error about a file that cannot be written gets it;
    of blocks in each other the outermost speaks.

    Args:
        advice: what is kept and how to go on, asked when the signal comes.
    """
    _advice.append(advice)
    try:
        yield
    except OSError as error:
        if isinstance(error, WriteError) or error.errno in FULL:
            told = _current_advice()
            error.kept = told[:1].upper() + told[1:]
        raise
    finally:
        _advice.remove(advice)


def handle_signals() -> dict[signal.Signals, signal._HANDLER]:
    """Let Ctrl-C and SIGTERM end this process with one line and exit code 130 or 143; the handlers that were there.

    A process that torchrun has started keeps its own: torchrun stops all of them, and says so.
    """
    if "LOCAL_RANK" in os.environ:
        return {}
    try:
        numbers = [number for number in SIGNALS if signal.getsignal(number) not in (None, signal.SIG_IGN)]
        return {number: signal.signal(number, partial(_stop, os.getpid())) for number in numbers}
    except ValueError:  # not in the main thread, which alone gets signals
        return {}


def _stop(owner: int, number: int, frame: FrameType | None) -> None:
    if os.getpid() != owner:  # a forked worker: its parent speaks, and torch takes another code for a crash
        os._exit(0)
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when the workers end, as they do now
    signal.signal(number, signal.SIG_DFL)
    advice = _current_advice()
    logger.info("stopped by %s", signal.Signals(number).name)
    logging.disable(logging.ERROR)  # what libraries say on the way out
    # print could be interrupted in itself
    os.write(sys.__stderr__.fileno(), f"\nstopped: {printable(advice)}\n".encode())
    sys.unraisablehook = partial(_stop_anew, number, sys.unraisablehook)
    _exit(number, frame)


def _exit(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second Ctrl-C ends at once
    raise SystemExit(128 + number)


def _stop_anew(number: int, former: Callable[[sys.UnraisableHookArgs], None], lost: sys.UnraisableHookArgs) -> None:
    """A signal that meets a destructor is lost, since Python lets nothing out of one: send it once more."""
    if lost.exc_type is SystemExit:
        signal.signal(number, _exit)
        threading.Timer(SOON, os.kill, (os.getpid(), number)).start()  # at once, it would meet this function
    else:
        former(lost)


def _current_advice() -> str:
    try:
        return _advice[0]() if _advice else f"{NOTHING_KEPT}; start again with: {this_command()}"
    except Exception as error:  # such as a checkpoint that cannot be read: the process ends all the same
        return f"what is kept is not known: {error}"


def this_command(**changes: str) -> str:
    """The command line that started this process, such as python -m monai.bundle run training ...

    Args:
        changes: options to set, with "__" for "::", such as training__resume="logs/...".
    """
    names = {f"--{name.replace('__', '::')}": value for name, value in changes.items()}
    words, arguments = [], list(sys.argv[1:])
    while arguments:
        word = arguments.pop(0)
        if word.partition("=")[0].replace("#", "::") not in names:
            words.append(word)
        elif "=" not in word and arguments:
            arguments.pop(0)
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [sys.argv[0]]
    return " ".join(map(shell_word, [_python(), *program, *words, *(word for pair in names.items() for word in pair)]))


def shell_word(word: str) -> str:
    """For a shell, in double quotes where that is easier to read."""
    quoted = shlex.quote(word)
    return f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else quoted


def _python() -> str:
    """What a user has to type to start this Python."""
    return "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)
