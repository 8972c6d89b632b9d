"""Runs the commands of a page of docs/ one after the other, as a reader would: python walk.py PAGE [HEADING]
[MORE.json].

The working directory is the reader's. Programs run in this process, which saves importing torch for each; blocks
without any run in bash. MORE.json holds arguments to append by the beginning of a command, such as {"eval.compare":
["--seeds", "0"]}.
"""

from __future__ import annotations

import glob
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

FINDING = re.compile(r"(\w+)=\$\(ls (?:-t )?(\S+)(?: \| head -1)?\)")
NO_GO = 2  # of the preflight, an answer and no failure


def blocks(page: Path, heading: str = "") -> list[tuple[str, str]]:
    """(language, text) of the code blocks of a page, or of what stands under one heading."""
    text = page.read_text(encoding="utf-8")
    if heading:
        (text,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S)


def commands(page: Path, heading: str = "") -> list[list[str]]:
    """Words of every command that starts with python."""
    found = []
    for language, block in blocks(page, heading):
        lines = block.replace("\\\n", " ").splitlines() if language == "bash" else []
        found += [shlex.split(line, comments=True) for line in lines if line.startswith("python ")]
    return found


def run_block(language: str, block: str, more: dict[str, list[str]], names: dict) -> None:
    if language == "python":
        exec(compile(block, "<page>", "exec"), names)
    elif not re.search(r"^python ", block, re.M):
        subprocess.run(["bash", "-euo", "pipefail", "-c", block], check=True)
    else:
        for line in block.replace("\\\n", " ").splitlines():
            run_line(line, more)


def run_line(line: str, more: dict[str, list[str]]) -> None:
    """An assignment of what `ls` finds, or a program."""
    finding = FINDING.fullmatch(line)
    if finding:
        os.environ[finding[1]] = max(glob.glob(finding[2]), key=os.path.getmtime)
        return
    words = shlex.split(os.path.expandvars(line), comments=True)
    if words:
        name, *arguments = [word for word in words[1:] if word not in ("-I", "-m")]
        line = " ".join([name, *arguments, ""])
        appended = [argument for start, extra in more.items() if line.startswith(f"{start} ") for argument in extra]
        run_program(name, arguments + appended, "-m" in words)


def run_program(name: str, arguments: list[str], is_module: bool) -> None:
    print("+", name, *arguments, flush=True)
    sys.argv = [name, *arguments]
    try:
        if is_module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except SystemExit as end:
        if end.code not in (0, None) and (name, end.code) != ("eval.preflight", NO_GO):
            raise


def main(page: str, heading: str = "", more: str = "") -> dict:
    """Runs a page; what its Python blocks have defined."""
    os.environ["PWD"] = os.getcwd()
    extra, names = json.loads(Path(more).read_text()) if more else {}, {"__name__": "__main__"}
    for language, block in blocks(Path(page), heading):
        run_block(language, block, extra, names)
    return names


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as python -m has it
    main(*sys.argv[1:])
