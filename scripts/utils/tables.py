"""CSV tables: one way to write them, and to read them back as they were.

A spreadsheet runs a cell that begins like a formula, also where it is the name of a file. Such a text gets an
apostrophe in front (OWASP, "CSV Injection"). Reading takes it away again. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import atomic_path

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four are full-width
# where a spreadsheet's separator is the semicolon, a cell begins after one
_INNER = re.compile("(;\\s*)('*[=+\\-@])")
_GUARDED_INNER = re.compile("(;\\s*)'('*[=+\\-@])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?inf", re.IGNORECASE)


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table in one step: a line of names, and a line for each row.

    Args:
        path: of the file.
        columns: names, in their order.
        rows: values by column; one that a row lacks is an empty cell.

    Raises:
        ValueError: a row has another column.
    """
    with atomic_path(path) as partial:
        partial.write_bytes(table_text(columns, rows).encode())


def append_rows(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a table of these columns at once; see `write_table`.

    A kill can leave a part of them. Whoever goes on has to look for it.
    """
    text = table_text(columns, rows, header=False).encode()
    with open(path, "ab", buffering=0) as file:
        while text:  # one write takes it all, unless the disk is full
            text = text[os.write(file.fileno(), text) :]


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], header: bool = True) -> str:
    """The content of a table, see `write_table`; without its first line where header is false."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns)
    if header:
        writer.writerow({name: _guarded(name) for name in columns})
    writer.writerows({name: _guarded(value) for name, value in row.items()} for row in rows)
    return file.getvalue().encode("utf-8", "backslashreplace").decode()  # a name may be no text, see os.fsdecode


def read_table(path: str | Path) -> list[dict[str, str | None]]:
    """The rows of a table, texts by column; None where the last line is cut off.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table in UTF-8, or a row has more cells than there are columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # a spreadsheet may have saved it
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeError) as error:
        raise ValueError(f"{path} is no table in UTF-8 ({error}); remove it, or put back what it was.") from None
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"row {number} of {path} has more cells than there are columns; put back what it was.")
    return [{_plain(name): _plain(text) for name, text in row.items()} for row in rows]


def _guarded(value: Any) -> Any:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    value = _INNER.sub(r"\1'\2", value)
    return f"'{value}" if _FORMULA.match(value) else value


def _plain(text: str | None) -> str | None:
    if not text:
        return text
    text = text[1:] if text[0] == "'" and _FORMULA.match(text) else text
    return _GUARDED_INNER.sub(r"\1\2", text)
