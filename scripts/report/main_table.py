"""The main table of a report for a paper or a spreadsheet: a row a metric, a column an arm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics import metric_title
from ..utils.tables import table_text
from .page import decimals_of

ESCAPES = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}"}


def main_table(report: Mapping[str, Any], kind: str) -> str:
    """The table as text that ends with a line break.

    Args:
        report: of `compile_report`.
        kind: latex (a tabular for the package booktabs) or csv (arm, metric, mean, low, high, num_cases, num_patients,
            num_seeds).

    Raises:
        ValueError: the report has no arm with metrics.
    """
    arms = {arm: one for arm, one in (report.get("arms") or {}).items() if one.get("metrics")}
    if not arms:
        raise ValueError("the report has no arm with metrics: there is no table.")
    return _latex(arms) if kind == "latex" else _csv(arms)


def _csv(arms: Mapping[str, Mapping[str, Any]]) -> str:
    sizes = ("num_cases", "num_patients", "num_seeds")
    rows = [
        {"arm": arm, "metric": metric}
        | {key: figures.get(key) for key in ("mean", "low", "high")}
        | {key: one.get(key) for key in sizes}
        for arm, one in arms.items()
        for metric, figures in one["metrics"].items()
    ]
    return table_text(["arm", "metric", "mean", "low", "high", *sizes], rows).replace("\r\n", "\n")


def _latex(arms: Mapping[str, Mapping[str, Any]]) -> str:
    metrics = dict.fromkeys(metric for one in arms.values() for metric in one["metrics"])
    lines = [
        [_escaped(metric_title(metric)), *(_cell(one["metrics"].get(metric), metric) for one in arms.values())]
        for metric in metrics
    ]
    body = "\n".join(f"{' & '.join(line)} \\\\" for line in lines)
    head = " & ".join(["", *(_escaped(arm.capitalize()) for arm in arms)])
    return f"""% mean [95 % interval over patients]; needs \\usepackage{{booktabs}}
\\begin{{tabular}}{{l{"r" * len(arms)}}}
\\toprule
{head} \\\\
\\midrule
{body}
\\bottomrule
\\end{{tabular}}
"""


def _cell(figures: Mapping[str, Any] | None, metric: str) -> str:
    """Such as "0.860 [0.839, 0.878]"."""
    if not figures or figures.get("mean") is None:
        return "--"
    mean, *ends = (figures.get(key) for key in ("mean", "low", "high"))
    decimals = decimals_of(metric)
    interval = "" if None in ends else f" [{', '.join(f'{end:.{decimals}f}' for end in ends)}]"
    return f"{mean:.{decimals}f}{interval}"


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(sign, sign) for sign in text)
