"""Cases of a BUS-BRA download: images, masks and the table of its patients.

Needs neither torch nor MONAI, so that `scripts.make_datalist` starts at once.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from ..utils.files import read_text
from .folders import Names, Pairs, find_pairs

_NAMES = Names("Images", "Masks", "bus_{}", "mask_{}")
_COLUMNS = {"Pathology": "pathology", "BIRADS": "birads", "Device": "device", "Side": "side"}


def busbra_cases(dataset_dir: Path) -> tuple[list[dict], Pairs]:
    """Cases of a BUS-BRA download with patient, pathology, birads, device and side from bus_data.csv, without labels.

    Raises:
        FileNotFoundError: when Images/, Masks/ or bus_data.csv is missing.
        ValueError: when the table lacks a column or an image, or an image has no mask.
    """
    table = dataset_dir / "bus_data.csv"
    if not table.is_file():
        raise FileNotFoundError(f"{table} does not exist; expected a BUS-BRA download, or pass --format folders.")
    text = read_text(table)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # a spreadsheet may have written it anew
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = {row["ID"]: row for row in reader} if "ID" in (reader.fieldnames or []) else {}
    missing = sorted({"ID", "Case"} - set(reader.fieldnames or []))
    if missing:
        raise ValueError(f"{table} has no column {', '.join(missing)}; expected BUS-BRA's ID and Case.")
    pairs = find_pairs(dataset_dir, _NAMES)
    stems = {case: _NAMES.image.format(case) for case in pairs.images}
    unlisted = [stem for stem in stems.values() if stem not in rows]
    if unlisted:
        raise ValueError(f"image {unlisted[0]} has no row in {table} ({len(unlisted)} images have none); add its row.")
    return [_case(pairs.images[case], rows[stem]) for case, stem in stems.items()], pairs


def _case(image: Path, row: dict) -> dict:
    if not row["Case"]:
        raise ValueError(f"bus_data.csv has no Case (patient) for {row['ID']}; add it.")
    metadata = {name: row[column] for column, name in _COLUMNS.items() if row.get(column)}
    if metadata.get("birads", "").isdecimal():
        metadata["birads"] = int(metadata["birads"])
    patient = int(row["Case"]) if row["Case"].isdecimal() else row["Case"]
    return {"image": image, "patient": patient, **metadata}
