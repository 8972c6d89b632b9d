"""The first screen of the page: the result in plain words, data, model, size and speed, verdicts and warnings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..utils.options import STUDENT, TEACHER
from ..utils.screen import plural
from .page import arm_name, as_number, as_percent, as_text, metric_name

DESCRIPTION = "How well each network segments the test cases, and how much they differ."
ROUNDING = 0.1  # of a share, by which one over a whole number may differ from it


def render_lead(report: Mapping[str, Any]) -> str:
    """What the report says, in a sentence; what it is about where that cannot be told in one."""
    about = report.get("about") or {}
    kept, description = kept_sentence(report), about.get("description")
    created = f"Created {report['created']}." if report.get("created") else ""
    below = " ".join(as_text(text) for text in (description if kept else "", created) if text)
    lead = f'<p class="lead">{kept or as_text(description or DESCRIPTION)}</p>'
    return lead + (f'<p class="about">{below}</p>' if below else "")


def kept_sentence(report: Mapping[str, Any]) -> str:
    """HTML such as "The student keeps 97.5 % of the teacher's Dice at 1/15 of its parameters.", or ""."""
    dice = [_mean_dice(report, arm) for arm in (STUDENT, TEACHER)]
    if None in dice or dice[1] <= 0:
        return ""
    sizes = [_network(report, arm).get("parameters") for arm in (STUDENT, TEACHER)]
    at = f" at <b>{_share(sizes[0] / sizes[1])}</b> of its parameters" if all(sizes) else ""
    return f"The student keeps <b>{as_percent(dice[0] / dice[1])}</b> of the teacher’s Dice{at}."


def _mean_dice(report: Mapping[str, Any], arm: str) -> float | None:
    metrics = ((report.get("arms") or {}).get(arm) or {}).get("metrics") or {}
    return (metrics.get("dice") or {}).get("mean")


def _network(report: Mapping[str, Any], arm: str) -> Mapping[str, Any]:
    return ((report.get("networks") or {}).get("arms") or {}).get(arm) or {}


def _share(share: float) -> str:
    """One over a whole number where that is nearly the share, such as 1/15; percent otherwise, such as 63 %."""
    parts = round(1 / share)
    return f"1/{parts}" if parts > 1 and abs(parts * share - 1) <= ROUNDING else f"{100 * share:.0f} %"


def render_facts(report: Mapping[str, Any]) -> str:
    """Tiles with the data set, the model, its size and its speed; what is not known is left out."""
    networks = {arm: one for arm, one in ((report.get("networks") or {}).get("arms") or {}).items() if one}
    tiles = {
        "Data set": _data(report),
        "Model": _by_arm(networks, "network", as_text) + _input_sizes(networks),
        "Size, parameters": _by_arm(networks, "parameters", _parameters),
        "Speed, an image": _by_arm(networks, "seconds", _seconds),
    }
    if tiles["Speed, an image"]:
        device = as_text(report["networks"].get("device"))
        tiles["Speed, an image"].append(f"<small>median, resizing included, on {device}</small>")
    cells = (
        f"<div><dt>{name}</dt>{''.join(f'<dd>{line}</dd>' for line in lines)}</div>"
        for name, lines in tiles.items()
        if lines
    )
    html = "".join(cells)
    return html and f'<dl class="facts">{html}</dl>'


def _data(report: Mapping[str, Any]) -> list[str]:
    data, arms = report.get("data") or {}, report.get("arms") or {}
    name, classes = as_text(data.get("name") or ""), data.get("classes") or []
    lines = ([f"<b>{name}</b>"] if data.get("name") else []) + [" · ".join(_sizes(arms))]
    return [line for line in [*lines, as_text(", ".join(map(str, classes))) if classes else ""] if line]


def _sizes(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Cases and patients, as many as the arms agree on."""
    sizes = []
    for key, noun in (("num_cases", "case"), ("num_patients", "patient")):
        numbers = {arm.get(key) for arm in arms.values()} - {None}
        sizes += [plural(number, noun) for number in numbers] if len(numbers) == 1 else []
    return sizes


def _input_sizes(networks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    sides = {one.get("img_size") for one in networks.values()} - {None}
    return (
        [f"<small>images of {' or '.join(f'{side} × {side}' for side in sorted(map(as_text, sides)))} pixels</small>"]
        if sides
        else []
    )


def _by_arm(networks: Mapping[str, Mapping[str, Any]], key: str, describe: Callable[[Any], str]) -> list[str]:
    """A line an arm that has the figure, the student's first."""
    ordered = sorted(networks, key=lambda arm: arm != STUDENT)
    return [f"{arm_name(arm)} <b>{describe(networks[arm][key])}</b>" for arm in ordered if networks[arm].get(key)]


def _parameters(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else as_number(number, 0)


def _seconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def render_warnings(warnings: Sequence[str] | None) -> str:
    """A box with a line a warning."""
    if not warnings:
        return '<p class="missing">No warnings.</p>'
    items = "".join(f"<li>{as_text(warning)}</li>" for warning in warnings)
    heading = f"<h2>⚠ {plural(len(warnings), 'warning')}</h2>"
    return f'<aside class="warnings" aria-label="Warnings">{heading}<ul>{items}</ul></aside>'


def render_verdicts(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """A card a pair of arms with a sentence a metric."""
    pairs: dict[str, list[str]] = {}
    for comparison in comparisons:
        pairs.setdefault(pair_name(comparison), []).append(_verdict(comparison))
    cards = "".join(f"<div><dt>{pair}</dt>{''.join(verdicts)}</div>" for pair, verdicts in pairs.items())
    return cards and f'<dl class="verdicts">{cards}</dl>'


def _verdict(comparison: Mapping[str, Any]) -> str:
    name, sentence = metric_name(comparison.get("metric", "")), comparison.get("verdict") or "No verdict."
    return f"<dd><span>{name}</span> {as_text(sentence)}</dd>"


def pair_name(comparison: Mapping[str, Any]) -> str:
    """HTML such as "Student against Teacher"."""
    return f"{arm_name(comparison.get('arm', ''))} against {arm_name(comparison.get('reference', ''))}"
