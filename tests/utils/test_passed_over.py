"""What a listing says of the files that it leaves out."""

from pathlib import Path

from scripts.utils.passed_over import describe_passed_over, why_passed_over


def test_files_are_counted_by_reason_the_most_frequent_first():
    folder = Path("images")
    files = [*(folder / "more" / f"{i}.png" for i in range(9)), *(folder / f"{i}.WEBP" for i in range(3))]
    files += [folder / ".DS_Store", folder / "README"]
    told = describe_passed_over(why_passed_over(file, folder) for file in files)
    assert told == "14 passed over: 9 in subfolders, 3 .webp, 1 hidden, 1 without a suffix"


def test_nothing_is_told_of_nothing():
    assert describe_passed_over([]) == ""
