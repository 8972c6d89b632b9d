"""history.csv: rows that are added in one step, and a file that something has spoilt."""

import pytest

from scripts.run.history import append_row, read_curves, read_history

ROW = {"loss": 0.5, "lr": 1e-4, "seconds": 2.0}
HEAD = "epoch,loss,val_mean_dice\n"


def test_row_of_an_epoch_replaces_what_a_killed_run_has_left(tmp_path):
    for epoch in (1, 2, 3):
        append_row(tmp_path, {"epoch": epoch, **ROW})
    append_row(tmp_path, {"epoch": 2, **ROW, "val_mean_dice": 0.75})
    assert read_history(tmp_path) == [{"epoch": 1, **ROW}, {"epoch": 2, **ROW, "val_mean_dice": 0.75}]
    assert read_curves(tmp_path)["val_mean_dice"] == [None, 0.75]


def test_rows_stay_as_they_were_written(tmp_path):
    append_row(tmp_path, {"epoch": 1, "loss": 1 / 3, "lr": 1e-05, "nan": float("nan")})
    before = (tmp_path / "history.csv").read_text()
    append_row(tmp_path, {"epoch": 2, "loss": 0.25, "lr": 1e-05, "nan": 1.0})
    assert (tmp_path / "history.csv").read_text().startswith(before)


def test_file_that_a_spreadsheet_has_saved_is_read(tmp_path):
    (tmp_path / "history.csv").write_bytes(b"\xef\xbb\xbf" + f"{HEAD}1,0.5,0.25\n".encode())
    assert read_history(tmp_path) == [{"epoch": 1, "loss": 0.5, "val_mean_dice": 0.25}]


def test_run_without_a_history_has_no_rows(tmp_path):
    assert read_history(tmp_path) == []
    assert read_curves(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it has no rows"),
        (HEAD.encode(), "it has no rows"),
        (f"{HEAD}1,0.5,0.6\n2,0.4,0.".encode(), "it is cut off"),
        (f"{HEAD}1,0.5,0.6\n2,0.4\n".encode(), "line 3 has not as many cells as the head"),
        (f"{HEAD}1,0.5,0.6,7\n".encode(), "line 2 has not as many cells as the head"),
        (f"{HEAD}1,0.5,ugh\n".encode(), "line 2 has 'ugh' in the column val_mean_dice, expected a number"),
        (f"{HEAD}x,0.5,0.6\n".encode(), "line 2 has 'x' in the column epoch"),
        (f"{HEAD}1.5,0.5,0.6\n".encode(), "line 2 has no whole number in the column epoch"),
        (b"loss,lr\n0.5,0.1\n", "line 2 has no whole number in the column epoch"),
        (f"{HEAD}2,0.5,0.6\n1,0.5,0.6\n".encode(), "its epochs do not rise"),
        (b"\xff\xfe\x00\x80\n", "it is no CSV"),
        (f"{HEAD}1,\0,0.6\n".encode(), "in the column loss|it is no CSV"),
    ],
)
@pytest.mark.parametrize("use", [read_history, lambda folder: append_row(folder, {"epoch": 3, **ROW})])
def test_spoilt_file_is_named_with_its_line_and_kept(tmp_path, content, what, use):
    (tmp_path / "history.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"history.csv is damaged: .*({what}).*or move the file away"):
        use(tmp_path)
    assert (tmp_path / "history.csv").read_bytes() == content
