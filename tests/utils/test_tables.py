"""CSV tables: what is written comes back, and no cell is a formula."""

import csv

import pytest

from scripts.utils.tables import append_rows, read_table, table_text, write_table

NAMES = [
    "a.png",
    "=1+1.png",
    "+a",
    "-a.png",
    "@a",
    "'=a",
    "''-a",
    "'a",
    "\ta",
    "\ra",
    "a\rb",
    "a\nb",
    'a"b,c',
    "Ü 像",
    "-",
    "＝a",
    "a;=1+1",
    "a; +1",
    "a;'=1",
]


@pytest.mark.parametrize("name", NAMES)
def test_text_comes_back_as_it_was(tmp_path, name):
    write_table(tmp_path / "t.csv", ["file", "area"], [{"file": name, "area": 1}])
    append_rows(tmp_path / "t.csv", ["file", "area"], [{"file": name, "area": 2}])
    assert read_table(tmp_path / "t.csv") == [{"file": name, "area": "1"}, {"file": name, "area": "2"}]


@pytest.mark.parametrize("name", NAMES)
def test_no_cell_begins_like_a_formula(name):
    for row in csv.reader(table_text([name, "b"], [{name: name}]).splitlines(keepends=True)):
        for cell in row[0].split(";"):  # some spreadsheets begin a cell there
            assert cell.lstrip(" ")[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n", "＝")


@pytest.mark.parametrize("value", [-1, -0.5, "-1", "-0.5", "+3", "-1e-05", "-inf", "-.5", float("-inf")])
def test_number_stays_a_number(value):
    assert table_text(["x"], [{"x": value}], header=False) == f"{value}\r\n"


def test_what_is_no_number_is_guarded_though_it_begins_like_one():
    assert table_text(["x"], [{"x": "-1+cmd|' /C calc'!A0"}], header=False).startswith("'-1")


def test_name_that_is_no_utf8_is_written_escaped(tmp_path):
    write_table(tmp_path / "t.csv", ["file"], [{"file": "M\udcfc.png"}])
    assert read_table(tmp_path / "t.csv") == [{"file": "M\\udcfc.png"}]


def test_line_that_is_cut_off_has_none(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\r\n1,2,3\r\n4,5")
    assert read_table(tmp_path / "t.csv") == [{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": None}]


def test_table_that_a_spreadsheet_has_saved_is_read(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "t.csv") == [{"a": "1", "b": "2"}]


def test_what_is_no_table_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    with pytest.raises(ValueError, match="t.csv is no table in UTF-8 .*; remove it, or put back what it was"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(ValueError, match="row 1 of .*t.csv has more cells than there are columns"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "gone.csv")


def test_unknown_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="b"):
        write_table(tmp_path / "t.csv", ["a"], [{"a": 1, "b": 2}])
    assert not list(tmp_path.iterdir())
