"""Pictures of cases on the page: each image and outline once in a store, shown as often as it is needed.

A picture is an SVG that refers to the store, so that outlines stay sharp at any size. On an image the ground truth is
dashed; two classes have the color of the arm, more have a color each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..metrics import metric_title
from ..utils.colors import CLASS_COLORS, SOURCE_COLORS
from .cases import LABEL, LENGTHS, arms_in_order, short_name, worst_first
from .page import arm_name, as_number, as_table, as_text, decimals_of
from .plots import arm_style

MAX_ROWS = 2000  # cases of the page; report.json has them all
OTHER_LINE = "#C3CBD5"  # of an arm without a color of its own, on an image


class Album:
    """The cases of a report, numbered from the worst to the best, with their pictures.

    Args:
        report: of `compile_report`, as far as it has cases and pictures.
        most: pictures; the last ones are left out.
    """

    def __init__(self, report: Mapping[str, Any], most: int | None = None) -> None:
        ordered = worst_first(report.get("cases") or [])
        self.num_cases, self.cases = len(ordered), ordered[:MAX_ROWS]
        pictures = report.get("pictures") or {}
        self.pictures: dict[str, dict[str, Any]] = dict(list((pictures.get("cases") or {}).items())[:most])
        seeds = pictures.get("seeds") or {}
        self.seeds: dict[str, Any] = {arm: seeds[arm] for arm in arms_in_order(seeds)}
        self.class_names: list[str] = pictures.get("classes") or []
        self.by_name = {case["case"]: case for case in self.cases}
        self.numbers = {name: number for number, name in enumerate(dict.fromkeys([*self.by_name, *self.pictures]))}

    def link(self, name: Any, content: str, kind: str = "") -> str:
        """HTML that leads to a case: to its picture, or else its row; the content alone where it has neither."""
        target = self.target(name)
        attribute = f' class="{kind}"' if kind else ""
        return f'<a href="{target}"{attribute}>{content}</a>' if target else content

    def target(self, name: Any) -> str:
        """The address of `link`; "" where there is none."""
        number = self.numbers.get(name)
        if number is None:
            return ""
        return f"#case-{number}" if name in self.pictures else f"#row-{number}"

    def thumb(self, name: Any, arm: str, seed: Any) -> str:
        """A picture of an arm's mask; "" where there is none of this seed."""
        shown = name in self.pictures and arm in self.seeds and str(self.seeds[arm]) == str(seed)
        return self._picture(name, arm) if shown else ""

    def tiles(self, name: str) -> str:
        """The image alone, and with the masks of each arm."""
        case = self.by_name.get(name) or {}
        figures = [f'<figure class="tile">{self._picture(name, "")}<figcaption>Image</figcaption></figure>']
        for arm in self.seeds:
            dice = (case.get("dice") or {}).get(arm)
            caption = arm_name(arm) + ("" if dice is None else f" Dice <b>{as_number(dice)}</b>")
            picture = self._picture(name, arm)
            figures.append(f'<figure class="tile">{picture}<figcaption>{caption}</figcaption></figure>')
        return f'<div class="tiles">{"".join(figures)}</div>'

    def _picture(self, name: str, arm: str) -> str:
        number, picture = self.numbers[name], self.pictures[name]
        width, height = map(int, picture["size"])
        lines = [(source, c) for source in (arm, LABEL) if arm for c in self._classes(name, source)]
        # first the dark seams of all lines, so that one line hides no other
        uses = "".join(f'<use href="#{self._id(name, source, c)}" class="halo"/>' for source, c in lines)
        uses += "".join(
            f'<use href="#{self._id(name, source, c)}" class="line{" truth" if source == LABEL else ""}" '
            f'stroke="{self._color(name, source, c)}"/>'
            for source, c in lines
        )
        alt = f"{short_name(name)}, {f'ground truth and {arm_style(arm).name.lower()}' if arm else 'the image'}"
        return (
            f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="xMinYMin" role="img" '
            f'aria-label="{as_text(alt)}"><use href="#i{number}"/>'
            f"{uses}</svg>"
        )

    def _id(self, name: str, source: str, c: int) -> str:
        """Of an outline in the store."""
        return f"o{self.numbers[name]}-{list(self.pictures[name]['outlines']).index(source)}-{c}"

    def _classes(self, name: str, source: str) -> list[int]:
        """Classes that a mask shows."""
        lines: Sequence[str] = self.pictures[name]["outlines"].get(source) or []
        return [c for c, line in enumerate(lines, 1) if line]

    def _color(self, name: str, source: str, c: int) -> str:
        several = len(self.pictures[name]["outlines"][LABEL]) > 1
        return CLASS_COLORS[(c - 1) % len(CLASS_COLORS)] if several else SOURCE_COLORS.get(source, OTHER_LINE)

    def legend(self) -> str:
        """What the lines of the pictures are."""
        if not self.pictures:
            return ""
        outlines = next(iter(self.pictures.values()))["outlines"]
        num_classes = len(outlines[LABEL])
        names = [*self.class_names, *(f"class {c}" for c in range(len(self.class_names) + 1, num_classes + 1))]
        classes = [
            f'<span class="arm"><i style="border-top:3px solid {CLASS_COLORS[c % len(CLASS_COLORS)]}"></i>'
            f"{as_text(names[c])}</span>"
            for c in range(num_classes if num_classes > 1 else 0)
        ]
        lines = "Dashed line: ground truth. Solid line: the network's mask."
        return f'<p class="legend">{lines} {" ".join(classes)}</p>'

    def note(self) -> str:
        """How many cases are shown, where not all of them are; and of which training the masks are."""
        sentences = []
        if len(self.cases) < self.num_cases:
            sentences.append(f"The {len(self.cases):,} worst of {self.num_cases:,} cases; report.json has all of them.")
        if 0 < len(self.pictures) < self.num_cases:
            kinds = "those shown below, failures, and the worst of the others"
            sentences.append(f"{len(self.pictures):,} cases have a picture, as many as a page of 5 MB holds: {kinds}.")
        if any(str(seed) != "0" for seed in self.seeds.values()):
            seeds = ", ".join(f"{arm_style(arm).name.lower()} {seed}" for arm, seed in self.seeds.items())
            sentences.append(f"Masks are of the seeds {seeds}.")
        return f'<p class="note">{as_text(" ".join(sentences))}</p>' if sentences else ""

    def num_left(self, size: int) -> int:
        """How many pictures are left when the last ones, which take `size` bytes together, are left out."""
        left = len(self.pictures)
        for name in reversed(self.pictures):
            if size <= 0:
                break
            size, left = size - len(self._stored(name, self.pictures[name])), left - 1
        return left

    def store(self) -> str:
        """All images and outlines, not shown."""
        items = "".join(self._stored(name, picture) for name, picture in self.pictures.items())
        return f'<svg class="store" aria-hidden="true"><defs>{items}</defs></svg>' if items else ""

    def _stored(self, name: str, picture: Mapping[str, Any]) -> str:
        number, (width, height) = self.numbers[name], map(int, picture["size"])
        image = f'<image id="i{number}" width="{width}" height="{height}" href="{as_text(picture["image"])}"/>'
        return image + "".join(
            f'<path id="{self._id(name, source, c)}" fill="none" vector-effect="non-scaling-stroke" '
            f'd="{as_text(picture["outlines"][source][c - 1])}"/>'
            for source in picture["outlines"]
            for c in self._classes(name, source)
        )

    def cards(self) -> str:
        """A card a case with a picture, shown alone when a link leads to it."""
        names = [name for name in self.numbers if name in self.pictures]
        return "".join(self._card(name, names) for name in names)

    def _card(self, name: str, names: Sequence[str]) -> str:
        number, at = self.numbers[name], names.index(name)
        links = [("‹ Worse", names[at - 1 : at]), ("Better ›", names[at + 1 : at + 2])]
        moves = "".join(f'<a href="#case-{self.numbers[to[0]]}">{text}</a>' for text, to in links if to)
        back = f"#row-{number}" if name in self.by_name else "#failures"
        case = self.by_name.get(name)
        return (
            f'<article class="case" id="case-{number}" tabindex="-1" aria-labelledby="name-{number}">'
            f'<nav aria-label="Cases">{moves}<a href="{back}">✕ Close</a></nav>'
            f'<h3 id="name-{number}">{as_text(short_name(name))}</h3>{self.tiles(name)}'
            f"{case_figures(case) if case else ''}</article>\n"
        )


def case_figures(case: Mapping[str, Any]) -> str:
    """A line on the case, and a table of its metrics with an arm a column."""
    facts = [f"{name} {value}" for name, value in (case.get("columns") or {}).items()]
    facts = [f"patient {case['patient']}"] * (case.get("patient") not in (None, "")) + facts
    if case.get("label_area") is not None:
        facts.append(f"area of the ground truth {as_number(case['label_area'], 0)} pixels")
    names = [name for name in ("dice", *LENGTHS) if case.get(name)]
    rows = [
        [as_text(metric_title(name)), *(as_number(value, decimals_of(name)) for value in case[name].values())]
        for name in names
    ]
    table = as_table("Figures of this case", ["Metric", *map(arm_name, case["dice"])], {"": rows})
    return f'<p class="about">{as_text(" · ".join(map(str, facts)))}</p>{table}'
