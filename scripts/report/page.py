"""The pieces of the report's page: texts, numbers, tables, plots and names as HTML, the style and the frame.

Cells and notes are HTML already, everything else is text and escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..metrics import lower_is_better, metric_title
from .plots import arm_style

DECIMALS = {"hd95": 2, "hd95_mm": 2, "hd95_with_lesion": 2, "hd95_mm_with_lesion": 2}


def as_text(value: Any) -> str:
    """Escaped; a dash where there is nothing."""
    return "–" if value is None or value == "" else escape(str(value))


def as_number(value: float | None, decimals: int = 3) -> str:
    """With a minus sign, and thousands apart; a dash for None."""
    return "–" if value is None else f"{value:,.{decimals}f}".replace("-", "−")


def as_percent(value: float | None) -> str:
    """A share in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def as_interval(summary: Mapping[str, Any], decimals: int = 3, key: str = "mean") -> str:
    """0.850 [0.840, 0.860]; without an interval the number alone."""
    low, high = summary.get("low"), summary.get("high")
    ends = ""
    if low is not None and high is not None:
        ends = f' <span class="ci">[{as_number(low, decimals)}, {as_number(high, decimals)}]</span>'
    return f"<b>{as_number(summary.get(key), decimals)}</b>{ends}"


def as_table(
    caption: str, columns: Sequence[str], groups: Mapping[str, Sequence[Sequence[str]]], kind: str = "numbers"
) -> str:
    """A table that scrolls in itself.

    Args:
        caption: text, also the name of the scrolling region.
        columns: cells of the head.
        groups: rows by the title of their group; "" has no title. The first cell of a row is its heading.
        kind: numbers (to the right) or texts (to the left).
    """
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(_table_group(title, rows, len(columns)) for title, rows in groups.items() if rows)
    table = f'<table class="{kind}"><caption>{as_text(caption)}</caption><thead><tr>{head}</tr></thead>{body}</table>'
    return scrolling(table, caption)


def _table_group(title: str, rows: Sequence[Sequence[str]], width: int) -> str:
    heading = f'<tr class="group"><th scope="rowgroup" colspan="{width}">{as_text(title)}</th></tr>' if title else ""
    lines = (
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return f"<tbody>{heading}{''.join(lines)}</tbody>"


def scrolling(content: str, name: str) -> str:
    """HTML that scrolls sideways in itself where it is wider than the page."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{as_text(name)}">{content}</div>'


def as_plot(title: str, svg: str, note: str = "") -> str:
    """A plot under its title (HTML), with a note (text)."""
    below = f"<p>{as_text(note)}</p>" if note else ""
    return f'<figure class="plot"><figcaption><b>{title}</b></figcaption>{svg}{below}</figure>'


def as_plots(plots: Sequence[str]) -> str:
    """Plots in rows of three, or four where that fills the row."""
    return f'<div class="plots{" four" if len(plots) == 4 else ""}">{"".join(plots)}</div>'


def arm_name(arm: Any) -> str:
    """The arm's name with its color."""
    style = arm_style(str(arm))
    return f'<span class="arm"><i style="border-top:3px {style.line} {style.color}"></i>{as_text(style.name)}</span>'


def arm_legend(arms: Iterable[str]) -> str:
    """A line with the name and color of each arm."""
    return f'<p class="legend">{" ".join(map(arm_name, arms))}</p>'


def metric_name(metric: Any) -> str:
    """The metric's name with its unit and an arrow to where it is better."""
    title = metric_title(str(metric))
    arrow, word = ("↓", "lower") if lower_is_better(str(metric)) else ("↑", "higher")
    label = f'title="{word} is better" role="img" aria-label="{word} is better"'
    return f'{as_text(title[:1].upper() + title[1:])}&nbsp;<span class="arrow" {label}>{arrow}</span>'


def decimals_of(metric: Any) -> int:
    """Digits after the point: two for a length, three for a share."""
    return DECIMALS.get(str(metric).partition("_class")[0], 3)


STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee4; --card: #f5f7f9;
  --accent: #0b63b5; --warn: #fff4d6; --warn-line: #d99a00; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --ink: #e6e9ed; --soft: #a3adb8; --line: #343b43;
  --card: #1c2126; --accent: #7cb8f2; --warn: #33290f; --warn-line: #c8920f; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
header, main, footer { max-width: 74rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
section { padding: 1.6rem 0; border-top: 1px solid var(--line); }
.lead { font-size: 1.1rem; margin: 0; }
.facts, .note, .missing, small, .plot p { color: var(--soft); }
.facts { margin: .3rem 0 1rem; }
.note, .plot p, small { font-size: .84rem; }
.missing { font-style: italic; }
small { display: block; font-weight: normal; }
thead small { white-space: normal; min-width: 8.5rem; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; padding: .9rem 0; font-size: .92rem; }
.warnings { background: var(--warn); border: 1px solid var(--warn-line); border-left-width: 6px; border-radius: 6px;
  padding: .8rem 1.1rem; margin: 1rem 0; }
.warnings h2 { font-size: 1rem; margin: 0 0 .3rem; }
.warnings ul { margin: 0; padding-left: 1.2rem; }
.verdicts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: .8rem;
  margin: 1rem 0; }
.verdicts div { background: var(--card); border-radius: 6px; border-left: 4px solid var(--accent);
  padding: .7rem 1rem; }
.verdicts dt { font-weight: 600; margin-bottom: .2rem; }
.verdicts dd { margin: .25rem 0 0; font-size: .9rem; }
.verdicts dd:first-of-type { font-size: 1rem; font-weight: 600; }
.verdicts dd span:first-child { color: var(--soft); font-weight: 400; margin-right: .2em; }
.arm { white-space: nowrap; }
.arm i { display: inline-block; width: 1.3em; margin: 0 .4em 0 .15em; vertical-align: .25em; }
.arrow { color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; margin: 0 0 .6rem; font-size: .92rem; }
.scroll { overflow-x: auto; }
.scroll:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .84rem; padding-bottom: .4rem; }
th, td { padding: .45rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
tbody th { font-weight: 500; min-width: 8.5rem; }
th[scope="row"], thead th:first-child { position: sticky; left: 0; background: var(--page); }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; white-space: nowrap; }
.group th { background: var(--card); font-size: .84rem; font-weight: 600; color: var(--soft); }
.ci { color: var(--soft); }
code { font-size: .86em; overflow-wrap: anywhere; }
figure { margin: 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr));
  gap: 1rem 1.6rem; margin: .4rem 0 .8rem; }
.plots.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.plot figcaption { font-size: .92rem; margin-bottom: .2rem; }
.plot p { margin: .2rem 0 0; }
.plot svg { display: block; width: 100%; max-width: 27rem; height: auto; font-family: inherit; }
.plot svg * { stroke-linejoin: round; }
.panel { margin: 0 0 1.2rem; }
.panel figcaption { font-size: .92rem; margin-bottom: .3rem; overflow-wrap: anywhere; }
.panel img { display: block; width: 100%; min-width: 52rem; height: auto; background: #fff; border-radius: 4px; }
footer { padding-top: 1.4rem; padding-bottom: 2.5rem; border-top: 1px solid var(--line); color: var(--soft); }
footer strong { color: var(--ink); }
@media print { :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --card: #f3f3f3;
  --warn: #fff4d6; }
  body { font-size: 10pt; } nav { display: none; } .scroll { overflow: visible; } .panel img { min-width: 0; }
  figure, tr, .warnings, .verdicts div { break-inside: avoid; } h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
$verdicts
$warnings
<nav aria-label="Sections">$links</nav>
</header>
<main>
$sections</main>
<footer><p><strong>Not for clinical use.</strong> These are results of a research evaluation on the cases named above.
All numbers are in report.json beside this file.</p></footer>
</body>
</html>
"""
