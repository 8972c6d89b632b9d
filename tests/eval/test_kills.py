"""Runs that are killed at random moments: what counts as a kill, and what is found to differ."""

import json
import time
from pathlib import Path

import pytest
from conftest import ROOT

from eval.kills import __main__ as program
from eval.kills import kinds
from eval.kills.kinds import Kind
from eval.kills.processes import Forked, wait
from scripts.utils.files import atomic_path


class Counting(Kind):
    """Writes ten numbers, one after the other; goes on after the last."""

    name = "counting"

    def work(self, folder: Path) -> int:
        for number in range(10):
            if not (folder / f"{number}.txt").is_file():
                time.sleep(0.02)
                with atomic_path(folder / f"{number}.txt") as partial:
                    partial.write_text(str(number))
        return 0

    def is_done(self, folder: Path) -> bool:
        return (folder / "9.txt").is_file()

    def outcome(self, folder: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in folder.glob("*.txt")}


class Forgetful(Counting):
    """Begins anew with another text where it was killed."""

    name = "forgetful"

    def work(self, folder: Path) -> int:
        begun = any(folder.glob("*.txt"))
        super().work(folder)
        if begun:
            (folder / "0.txt").write_text("other")
        return 0


class Failing(Counting):
    """Cannot go on."""

    name = "failing"

    def work(self, folder: Path) -> int:
        if any(folder.iterdir()):
            raise ValueError("it is begun already")
        return super().work(folder)


class Unable(Counting):
    name = "unable"

    def refusal(self) -> str:
        return "there is nothing to go on with"


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """Runs the program with other kinds; exit code and report."""
    monkeypatch.setattr(kinds, "make_materials", lambda folder: 0)

    def run(*others: type[Kind], kills: int = 6) -> tuple[int, dict]:
        monkeypatch.setattr(kinds, "all_kinds", lambda materials: [kind(materials) for kind in others])
        results = tmp_path / "kills.json"
        code = program.main([str(kills), "--work_dir", str(tmp_path / "work"), "--results", str(results)])
        return code, json.loads(results.read_text())

    return run


def test_run_that_goes_on_where_it_was_killed_is_equal(tried):
    code, report = tried(Counting, Unable)
    assert code == 0
    assert report["kills"] == 6
    assert report["differ"] == 0
    assert {"seed", "machine", "versions", "command"} <= report.keys()
    assert "/tmp" not in json.dumps(report)
    skipped, row = sorted(report["kinds"], key=len)
    assert skipped == {"kind": "unable", "skipped": "there is nothing to go on with"}
    assert row["kills"] == 6
    assert row["runs"] >= 1


def test_run_that_ends_otherwise_is_found(tried):
    code, report = tried(Forgetful)
    assert code == 1
    assert any("0.txt" in text for text in report["kinds"][0]["differ"])


def test_run_that_cannot_go_on_is_found(tried):
    code, report = tried(Failing)
    assert code == 1
    assert any("ends with code 1, see trial" in text for text in report["kinds"][0]["differ"])


def test_folder_that_is_there_is_refused(tmp_path, capsys):
    assert program.main(["3", "--work_dir", str(tmp_path)]) == 1
    assert f"--work_dir {tmp_path} is there already" in capsys.readouterr().err


def test_killed_process_is_gone_and_its_words_are_kept(tmp_path):
    process = Forked(lambda: print("begun", flush=True) or time.sleep(60) or 0, tmp_path / "log")
    assert wait(process, 0.5) is None
    process.kill(0.5)
    assert process.poll() == -9
    assert (tmp_path / "log").read_text() == "begun\n"


def test_every_kind_is_told_from_the_others(tmp_path):
    names = [kind.name for kind in kinds.all_kinds(tmp_path)]
    assert len(set(names)) == len(names) == 6


def test_page_says_what_was_measured():
    results = json.loads((ROOT / "eval" / "results" / "kills.json").read_text())
    runs = sum(row["runs"] for row in results["kinds"])
    equal = runs - results["differ"]
    sentence = f"{equal} of {runs} runs that were killed {results['kills']} times in all were equal to it"
    assert sentence in (ROOT / "docs" / "reliability.md").read_text().replace("\n", " ")
