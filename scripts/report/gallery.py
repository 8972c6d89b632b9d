"""The page's sections on single cases: all of them, the best and worst, and failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import metric_title
from ..utils.options import ARMS
from ..utils.screen import plural
from .album import Album
from .case_plots import dice_histogram, scatter_plot
from .cases import LENGTHS, judged_arm, short_name
from .page import arm_legend, arm_name, as_number, as_plot, as_plots, as_table, as_text, decimals_of
from .plots import arm_style

GROUPS = ("best", "median", "worst")
MAX_FAILURES = 200  # rows; report.json has them all
FILTERS = """<form class="filters" hidden><label>Name, patient or group <input type="search"></label>
<label>Dice from <input type="number" min="0" max="1" step="any"></label>
<label>to <input type="number" min="0" max="1" step="any"></label>
<label><input type="checkbox">failures only</label>
<button type="reset">Show all</button> <output class="count" aria-live="polite"></output></form>"""
PRINTED = '<p class="note printed">Printed: the first 40 cases.</p>'


def render_cases(cases: Sequence[Mapping[str, Any]], album: Album) -> str:
    """Two plots and the table of all cases, the worst first."""
    arms = list(album.cases[0]["dice"])
    judged = judged_arm(arms)
    plots, hint = [as_plot("Dice", dice_histogram(album))], "A bar leads to its first row"
    reference = next((arm for arm in (*ARMS, *arms) if arm in arms and arm != judged), None)
    if reference:
        title = f"{arm_name(judged)} against {arm_name(reference)}"
        plots.insert(0, as_plot(title, scatter_plot(album, judged, reference)))
        hint = "A point leads to its case, a bar to its first row"
    note = f'<p class="note">{hint} of the table. Values are means over the seeds.</p>'
    return f"{arm_legend(arms)}{as_plots(plots, 'large')}{note}{album.note()}{FILTERS}{PRINTED}{_case_table(album)}"


def _case_table(album: Album) -> str:
    first = album.cases[0]
    arms, judged = list(first["dice"]), judged_arm(first["dice"])
    reference = next((arm for arm in arms if arm != judged), None)
    length = next((name for name in LENGTHS if first.get(name)), None)
    texts = list(dict.fromkeys(name for case in album.cases for name in case.get("columns") or {}))
    heads = ["Case", *(f"{arm_name(arm)} <small>Dice</small>" for arm in arms)]
    heads += [as_text(f"{arm_style(judged).name} less {arm_style(reference).name.lower()}")] if reference else []
    heads += [f"{arm_name(judged)} <small>{as_text(metric_title(length))}</small>"] if length else []
    heads += ["Lesion area, pixels"]
    rows = "".join(_case_row(case, album, (judged, reference, length), texts) for case in album.cases)
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    head += "".join(f'<th scope="col" class="text">{as_text(text)}</th>' for text in ("Patient", *texts))
    name = "All cases, the worst first"
    return (
        f'<div class="scroll many" role="region" tabindex="0" aria-label="{name}"><table class="numbers">'
        f"<caption>{name}</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _case_row(
    case: Mapping[str, Any], album: Album, chosen: tuple[str, str | None, str | None], texts: Sequence[str]
) -> str:
    judged, reference, length = chosen
    number, failed = album.numbers[case["case"]], case.get("failed") or []
    cells = [_value(value, 3, "failed" if arm in failed else "") for arm, value in case["dice"].items()]
    cells += [_value(case["dice"][judged] - case["dice"][reference], 3)] if reference else []
    cells += [_value(case[length][judged], decimals_of(length))] if length else []
    cells += [_value(case.get("label_area"), 0)]
    cells += [
        f'<td class="text">{as_text(value)}</td>'
        for value in (case.get("patient"), *map((case.get("columns") or {}).get, texts))
    ]
    failed_mark = ' data-failed="1"' if failed else ""
    name = album.link(case["case"], as_text(short_name(case["case"])))
    return (
        f'<tr id="row-{number}" data-dice="{case["dice"][judged]}"{failed_mark}><th scope="row">{name}</th>'
        f"{''.join(cells)}</tr>\n"
    )


def _value(value: float | None, decimals: int, kind: str = "") -> str:
    """A cell that sorts by its number."""
    attribute = f' class="{kind}"' if kind else ""
    return f'<td{attribute} data-value="{"" if value is None else value}">{as_number(value, decimals)}</td>'


def render_picked(picked: Sequence[Mapping[str, Any]], album: Album) -> str:
    """The best, median and worst cases with their pictures."""
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for one in picked:
        if one.get("case") in album.pictures:
            groups.setdefault(str(one.get("group")), []).append(one["case"])
    figures = {group: "".join(_panel(name, album) for name in names) for group, names in groups.items() if names}
    html = "".join(f"<h3>{as_text(group.capitalize())}</h3>{panels}" for group, panels in figures.items())
    return html and album.legend() + html


def _panel(name: str, album: Album) -> str:
    caption = album.link(name, as_text(short_name(name)))
    return f'<figure class="panel"><figcaption>{caption}</figcaption>{album.tiles(name)}</figure>'


def render_failures(failures: Sequence[Mapping[str, Any]], album: Album) -> str:
    """A row a failure, with the mask that failed."""
    rows = [_failure_row(failure, album) for failure in failures[:MAX_FAILURES]]
    left = len(failures) - len(rows)
    note = f'<p class="note">{left} more are in report.json.</p>' if left else ""
    columns = ["Image", "Arm", "Seed", "Reason"]
    return as_table(plural(len(failures), "failure"), columns, {"": rows}, "texts") + note


def _failure_row(failure: Mapping[str, Any], album: Album) -> list[str]:
    case, arm = failure.get("case"), str(failure.get("arm", ""))
    picture = album.thumb(case, arm, failure.get("seed"))
    name = album.link(case, f"{picture}<code>{as_text(case)}</code>", "thumb" if picture else "")
    seed, reason = (as_text(failure.get(key)) for key in ("seed", "reason"))
    return [name, arm_name(arm), seed, reason]
