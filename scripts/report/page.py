"""The pieces of the report's page: texts, numbers, tables, plots and names as HTML.

Cells and notes are HTML already, everything else is text and escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

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


def as_plots(plots: Sequence[str], kind: str = "") -> str:
    """Plots in rows of three, or four where that fills the row; of two where they are `large`."""
    kind = kind or ("four" if len(plots) == 4 else "")
    return f'<div class="plots {kind}">{"".join(plots)}</div>'


def arm_name(arm: Any) -> str:
    """The arm's name with its color."""
    style = arm_style(str(arm))
    return f'<span class="arm"><i style="border-top:3px {style.line} {style.color}"></i>{as_text(style.name)}</span>'


def arm_legend(arms: Iterable[str]) -> str:
    """A line with the name and color of each arm."""
    return f'<p class="legend">{" ".join(map(arm_name, arms))}</p>'


def metric_name(metric: Any) -> str:
    """The metric's name with its unit and an arrow to where it is better."""
    from ..metrics import lower_is_better, metric_title  # with torch, which the pages of other programs do without

    title = metric_title(str(metric))
    arrow, word = ("↓", "lower") if lower_is_better(str(metric)) else ("↑", "higher")
    label = f'title="{word} is better" role="img" aria-label="{word} is better"'
    return f'{as_text(title[:1].upper() + title[1:])}&nbsp;<span class="arrow" {label}>{arrow}</span>'


def decimals_of(metric: Any) -> int:
    """Digits after the point: two for a length, three for a share."""
    return DECIMALS.get(str(metric).partition("_class")[0], 3)
