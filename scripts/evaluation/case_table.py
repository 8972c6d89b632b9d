"""Rows of cases that several arms and seeds were evaluated on: checked, put in order, and their warnings.

A row is a dict, one a case, arm and seed. It holds case, patient, arm, seed, metrics, areas, counts and columns of the
datalist. All arms and seeds hold the same cases. A case without a patient counts as a patient of its own.

Legend: S seeds of an arm, N cases.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..metrics import COUNTS
from ..utils.screen import plural

Row = Mapping[str, Any]
FEW_PATIENTS = 10
OFFSET = "label_offset"  # of the lesion from the vertical middle line, a share of the width; blank without a lesion
PRESENCE = "presence"  # probability that the image shows any foreground, of a student that tells it
CONFIDENCE = "confidence"  # of the mask, see detection.mask_confidence
FAILED_DICE = 0.5  # below it a case counts as failed
MISSED_DICE = 0.05  # below it the mask is elsewhere, or there is none: the lesion is not detected
NUM_NAMED = 5


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that cannot be compared case by case.

    Raises:
        ValueError: no rows, a row without case, arm or seed, a case twice in an arm and seed, an arm or seed with other
            cases than the first, or a case with two patients.
    """
    if not rows:
        raise ValueError(
            "there are no rows, expected at least one case; check that the list of test cases is not empty."
        )
    for i, row in enumerate(rows):
        for key in ("case", "arm", "seed"):
            if key not in row:
                raise ValueError(
                    f"row {i} has no {key}, only {', '.join(map(str, row))}; a row needs case, arm and seed."
                )
    case, count = Counter((row["case"], row["arm"], row["seed"]) for row in rows).most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"case {case[0]} is there {count} times for arm {case[1]}, seed {case[2]}; list each case once."
        )
    _check_cases(_group(rows))
    _check_patients(rows)


def _group(rows: Iterable[Row]) -> dict[str, dict[Any, dict[str, Row]]]:
    """Rows by arm, seed and case, in the order that they come in."""
    runs: dict[str, dict[Any, dict[str, Row]]] = {}
    for row in rows:
        runs.setdefault(row["arm"], {}).setdefault(row["seed"], {})[row["case"]] = row
    return runs


def _check_cases(runs: Mapping[str, Mapping[Any, Mapping[str, Row]]]) -> None:
    """Every arm and seed has the cases of the first."""
    named = [(f"arm {arm}, seed {seed}", cases) for arm, seeds in runs.items() for seed, cases in seeds.items()]
    first, expected = named[0]
    for name, cases in named[1:]:
        lacking, others = [c for c in expected if c not in cases], [c for c in cases if c not in expected]
        if lacking or others:
            faults = [f"lacks {len(lacking)} of {len(expected)} ({_some(lacking)})"] if lacking else []
            faults += [f"has {len(others)} more ({_some(others)})"] if others else []
            raise ValueError(
                f"{name} does not have the cases of {first}: it {' and '.join(faults)}; evaluate all arms on the same "
                "list."
            )


def _check_patients(rows: Sequence[Row]) -> None:
    """A case has the same patient in every arm and seed."""
    patients: dict[str, tuple[str, str]] = {}
    for row in rows:
        patient = patient_key(row)
        other = patients.setdefault(row["case"], patient)
        if patient != other:
            names = [name if kind == "patient" else "none" for kind, name in (other, patient)]
            raise ValueError(
                f"case {row['case']} has the patient {names[0]} in one row and {names[1]} in arm {row['arm']}, "
                f"seed {row['seed']}; evaluate all arms on the same list."
            )


def patient_key(row: Row) -> tuple[str, str]:
    """The cluster of a row: its patient, or the case where the patient is unknown."""
    patient = row.get("patient")
    return ("case", str(row["case"])) if is_missing(patient) else ("patient", str(patient).strip())


def is_missing(value: Any) -> bool:
    """Whether a value is None, an empty text or nan."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _some(names: Sequence[Any]) -> str:
    """Up to 5 of the names."""
    return ", ".join([*map(str, names[:NUM_NAMED]), *(["..."] if len(names) > NUM_NAMED else [])])


class CaseTable:
    """Checked rows by arm, seed and case.

    `cases` (N) and `clusters` (N), their patients, are in the order of the first arm and seed, whose rows are `first`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        check_rows(rows)
        self.all_rows = list(rows)
        self.runs = _group(self.all_rows)
        self.first = next(iter(next(iter(self.runs.values())).values()))
        self.cases = list(self.first)
        self.clusters = [patient_key(row) for row in self.first.values()]
        self.num_patients = len(set(self.clusters))

    def rows(self, arm: str) -> list[Row]:
        """All rows of an arm, seed by seed, cases in the order of `cases`."""
        if arm not in self.runs:
            raise ValueError(f"arm {arm} is not in the rows, which have {', '.join(map(str, self.runs))}.")
        return [cases[case] for cases in self.runs[arm].values() for case in self.cases]

    def values(self, arm: str, name: str) -> np.ndarray:
        """A metric or area of an arm (S, N)."""
        if all(is_blank(row, name) for row in self.all_rows):
            raise ValueError(f"metric {name} is unknown: no row has it; rows have {', '.join(self._numbers())}.")
        return np.array([_number(row, name) for row in self.rows(arm)]).reshape(-1, len(self.cases))

    def _numbers(self) -> list[str]:
        """Columns that can be a metric."""
        row = self.first[self.cases[0]]
        others = {"case", "patient", "seed", *COUNTS}
        return [key for key, value in row.items() if isinstance(value, (int, float)) and key not in others]


def is_blank(row: Row, name: str) -> bool:
    """Whether a row has nothing in a column; nan is a value there, and a wrong one."""
    return row.get(name) is None or row[name] == ""


def _number(row: Row, name: str) -> float:
    """A finite number of a row."""
    where = f"case {row['case']} (arm {row['arm']}, seed {row['seed']})"
    if is_blank(row, name):
        raise ValueError(f"{where} has no {name}, which other cases have; take a metric that all cases have.")
    value = parse_number(row[name])
    if value is None:
        raise ValueError(f"{where}: {name} is {row[name]}, expected a finite number.")
    return value


def parse_number(value: Any) -> float | None:
    """The finite number that a value or its text is, else None, as of a truth value."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def warnings(rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures must know: missing patients, one seed, empty predictions, few patients.

    It raises nothing for rows that `check_rows` refuses, so that a report can still tell what it can.
    """
    if not rows:
        return ["There are no cases: nothing was measured."]
    runs = _group(rows)
    notes = [patients_note(rows), one_seed_note([arm for arm, seeds in runs.items() if len(seeds) == 1])]
    notes += [note for arm, seeds in runs.items() for note in _empty_notes(arm, seeds)]
    num_patients = len({patient_key(row) for row in rows})
    if num_patients < FEW_PATIENTS:
        notes.append(
            f"Only {plural(num_patients, 'patient')}, fewer than {FEW_PATIENTS}: the intervals are too narrow."
        )
    return [note for note in notes if note]


def patients_note(rows: Sequence[Row]) -> str:
    """A sentence on cases whose patient is not known; empty where all are."""
    cases = {row["case"]: row for row in rows}
    missing = [case for case, row in cases.items() if patient_key(row)[0] == "case"]
    if not missing:
        return ""
    told = f"{len(missing)} of {plural(len(cases), 'case')} without a patient ({_some(missing)})"
    if len(missing) == len(cases):
        told = f"Patients were not told apart: no case names its patient ({plural(len(cases), 'case')})"
    return (
        f"{told}, each counted as one of its own: if some share a patient, the intervals are too narrow; add patient "
        "to the datalist."
    )


def one_seed_note(arms: Sequence[str]) -> str:
    """A sentence on the arms that were trained with one seed; empty where there are none."""
    if not arms:
        return ""
    one = f"Arm {arms[0]} has one seed"
    several = f"Arms {', '.join(arms[:-1])} and {arms[-1]} have one seed each"
    return f"{one if len(arms) == 1 else several}: the spread between seeds is unknown."


def _empty_notes(arm: str, seeds: Mapping[Any, Mapping[str, Row]]) -> list[str]:
    first = next(iter(seeds.values())).values()
    if all(row.get("label_area") == 0 for row in first):  # nothing is to be found
        return []
    empty = [seed for seed, cases in seeds.items() if all(row.get("predicted_area") == 0 for row in cases.values())]
    if len(empty) == len(seeds):
        return [f"All predictions of arm {arm} are empty: the network finds nothing in any case."]
    return [f"All predictions of arm {arm}, seed {seed}, are empty." for seed in empty]
