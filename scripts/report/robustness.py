"""What the figures are elsewhere: the page's sections on subgroups and probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.robustness import measure_probes
from ..evaluation.subgroups import FIXED
from ..utils.screen import plural
from .page import arm_name, as_interval, as_number, as_table, as_text

NO_PROBES = "No probes were measured; python -m eval.robustness measures them."
PROBES_NOTE = """<p class="note">A probe changes one thing of each image, and the result should stay. The change of Dice
is per image, with the 95 % interval over patients. Failures (Dice below 0.5) and misses (Dice below 0.05) are counted
over images and seeds, before → after. Moves are of centered lesions alone.</p>"""


def render_subgroups(subgroups: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row a group; the columns fixed beforehand come first."""
    arms = list(dict.fromkeys(arm for row in subgroups for arm in row.get("arms") or {}))
    groups: dict[str, list[list[str]]] = {}
    for row in sorted(subgroups, key=lambda row: not _is_fixed(row.get("column"))):
        means = [as_interval(row["arms"][arm]) if arm in (row.get("arms") or {}) else "–" for arm in arms]
        groups.setdefault(str(row.get("column")), []).append(
            [as_text(row.get("group")), as_text(row.get("num_cases")), *means]
        )
    columns = ["Group", "Cases", *map(arm_name, arms)]
    return as_table("Dice by subgroup, mean [95 % interval]", columns, groups) + _subgroups_note(list(groups))


def _is_fixed(column: Any) -> bool:
    return str(column).lower() in FIXED


def _subgroups_note(columns: Sequence[str]) -> str:
    fixed, others = ([name for name in columns if _is_fixed(name) is kind] for kind in (True, False))
    sentences = [f"Groups fixed beforehand: {', '.join(fixed)}."] if fixed else []
    sentences += [f"Not fixed beforehand: {', '.join(others)}."] if others else []
    sentences.append(
        "Intervals are not corrected for the number of groups. Take differences as questions, not as results."
    )
    return f'<p class="note">{as_text(" ".join(sentences))}</p>'


def render_probes(probes: Mapping[str, Any]) -> str:
    """A table with a row a probe and a column an arm: the change of Dice with its interval, failures and misses.

    Args:
        probes: of `measure_probes`.
    """
    rows = probes.get("rows") or []
    arms = list(dict.fromkeys(arm for row in rows for arm in row.get("arms") or {}))
    lines = [
        [
            f"{as_text(row.get('probe'))}<small>{as_text(row.get('meaning'))}</small>",
            as_text(row.get("num_cases")),
            *(_effect((row.get("arms") or {}).get(arm)) for arm in arms),
        ]
        for row in rows
    ]
    table = as_table("Change of Dice by probe [95 % interval]", ["Probe", "Cases", *map(arm_name, arms)], {"": lines})
    return f"{table}{PROBES_NOTE}<p>{as_text(describe_cases(probes))}</p>"


def _effect(effect: Mapping[str, Mapping[str, float]] | None) -> str:
    if not effect:
        return "–"
    counts = (
        f"{name} {as_number(effect[name].get('before'), 0)} → {as_number(effect[name].get('after'), 0)}"
        for name in ("failures", "misses")
        if name in effect
    )
    return f"{as_interval(effect['dice'])}<small>{', '.join(counts)}</small>"


def describe_cases(probes: Mapping[str, Any]) -> str:
    """On which cases the probes were measured, as a sentence or two."""
    number, centered, without = (probes.get(key) or 0 for key in ("num_cases", "num_centered", "without_lesion"))
    sentence = f"Measured on {plural(number, 'image')} with a lesion, {centered} of them centered."
    return f"{sentence} {plural(without, 'image')} without a lesion left out." if without else sentence


def probe_arms(notes: list[str], *arguments: Any, **options: Any) -> dict[str, Any] | None:
    """What `measure_probes` returns for the arguments; where the list has no lesion, a note and None.

    Other results of an evaluation are not lost by it.
    """
    try:
        return measure_probes(*arguments, **options)
    except ValueError as error:
        notes.append(f"Probes: {error}")
        return None
