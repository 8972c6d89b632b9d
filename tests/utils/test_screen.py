"""What a user sees: lines, bars on a terminal, a line a minute elsewhere, and what is kept for a log file."""

import io
import logging
import sys
from functools import partial

import pytest
from tqdm import tqdm

from scripts.utils import screen
from scripts.utils.screen import (
    Progress,
    duration,
    keep_early_records,
    printable,
    show_messages,
    take_early_records,
    tell,
    track,
)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still: `clock.now` is in seconds."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(screen.time, "monotonic", lambda: Clock.now)
    return Clock


@pytest.fixture
def told(caplog):
    """The lines that were told so far."""
    caplog.set_level(logging.INFO, "scripts.screen")
    return lambda: [record.message for record in caplog.records if record.name == "scripts.screen"]


@pytest.fixture
def terminal(monkeypatch):
    """Puts a terminal in the place of stderr."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def open_one() -> Terminal:
        shown = Terminal()
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr(screen, "tqdm", partial(tqdm, mininterval=0))
        return shown

    return open_one


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (12 * 60, "12 min"),
        (99 * 60, "99 min"),
        (100 * 60, "1 h 40 min"),
        (3 * 3600 + 20 * 60, "3 h 20 min"),
        (5 * 3600, "5 h 00 min"),
        (100 * 3600 + 5 * 60, "100 h 05 min"),
    ],
)
def test_duration_is_told_as_people_do(seconds, text):
    assert duration(seconds) == text


# progress


def test_without_a_terminal_a_line_a_minute_says_what_is_left(clock, told):
    with Progress("Evaluating", 100) as progress:
        for _ in range(12):
            clock.now += 10  # seconds an image
            progress.update()
    assert told() == ["Evaluating: 6 of 100 images, 16 min left", "Evaluating: 12 of 100 images, 15 min left"]


def test_slow_steps_are_told_once_each(clock, told):
    progress = Progress("filling the teacher cache", 3, "views")
    for _ in range(3):
        clock.now += 200
        progress.update()
    assert told() == [
        "filling the teacher cache: 1 of 3 views, 7 min left",
        "filling the teacher cache: 2 of 3 views, 3 min left",
        "filling the teacher cache: 3 of 3 views, 0 s left",
    ]


def test_steps_are_counted_together(clock, told):
    progress = Progress("train 1/2", 40, "batches")
    progress.update(10)
    clock.now += 60
    progress.update(10, task="0.5")
    assert told() == ["train 1/2: 20 of 40 batches, 60 s left"]


def test_what_is_done_within_a_minute_says_nothing(clock, told, capsys):
    progress = Progress("Evaluating", 5)
    for _ in range(5):
        clock.now += 11.9
        progress.update()
    progress.close()
    assert told() == []
    assert capsys.readouterr() == ("", "")


def test_other_processes_than_the_first_show_nothing(clock, told, terminal):
    shown, progress = terminal(), Progress("Evaluating", 2, show=False)
    clock.now += 600
    progress.update()
    progress.close()
    assert told() == []
    assert shown.getvalue() == ""


def test_terminal_has_a_bar_that_is_taken_away(clock, told, terminal):
    shown = terminal()
    with Progress("train 1/2", 2, "batches") as progress:
        clock.now += 600
        progress.update(task="0.5")
        assert "train 1/2:  50%" in shown.getvalue()
        assert "task=0.5" in shown.getvalue()
        assert "batches" in shown.getvalue()
    assert told() == []
    assert shown.getvalue().endswith("\r")


def test_tracked_items_come_one_by_one_and_are_counted_when_they_are_done(clock, told):
    for number, item in enumerate(track(iter("abc"), "reading images", 3)):
        assert item == "abc"[number]
        assert len(told()) == number
        clock.now += 60
    assert told()[0] == "reading images: 1 of 3 images, 2 min left"
    assert len(told()) == 3


# messages


@pytest.fixture
def loggers(monkeypatch):
    """The loggers without handlers; what a test adds is taken away."""
    root, scripts = logging.getLogger(), logging.getLogger("scripts")
    former, level = list(root.handlers), scripts.level
    monkeypatch.setattr(screen.SCREEN, "handlers", [])
    yield root
    root.handlers[:] = former
    scripts.setLevel(level)


def test_program_prints_what_is_told_and_warnings_alone(loggers, capsys):
    show_messages()
    show_messages()  # as a program does that starts another one
    tell("3 cases")
    logging.getLogger("scripts.networks").info("a detail")
    logging.getLogger("scripts.networks").warning("a warning")
    assert capsys.readouterr() == ("3 cases\n", "warning: a warning\n")


def test_messages_go_where_stdout_is_now(loggers, monkeypatch):
    show_messages()
    other = io.StringIO()
    monkeypatch.setattr(sys, "stdout", other)
    tell("3 cases")
    assert other.getvalue() == "3 cases\n"


def test_early_records_are_kept_for_the_log_file_and_taken_once(loggers, monkeypatch):
    monkeypatch.setattr(screen, "EARLY_RECORDS", screen.EarlyRecords())
    logging.getLogger("scripts").setLevel(logging.DEBUG)
    logger = logging.getLogger("scripts.networks")
    logger.info("before")
    keep_early_records()
    keep_early_records()
    for message in ("first", "second"):
        logger.info(message)
    logger.debug("a detail")
    assert [record.getMessage() for record in take_early_records()] == ["first", "second"]
    assert take_early_records() == []


def test_early_records_of_a_long_program_are_the_latest_thousand():
    kept = screen.EarlyRecords()
    for number in range(1200):
        kept.emit(logging.makeLogRecord({"msg": str(number)}))
    assert [kept.records[0].msg, kept.records[-1].msg, len(kept.records)] == ["200", "1199", 1000]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ümläut 像.png", "Ümläut 像.png"),
        ("a\nb\r.png", "a\\nb\\r.png"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("M\udcfcller", "M\\udcfcller"),
        ("a\u2028b\u202egnp", "a\\u2028b\\u202egnp"),
    ],
)
def test_name_of_a_file_becomes_one_line_that_can_be_printed(text, shown):
    assert printable(text) == shown
    shown.encode()


def test_told_lines_stay_lines_and_can_be_printed(told):
    tell("two files:\nM\udcfcller\x07.png")
    assert told() == ["two files:\nM\\udcfcller\\x07.png"]
