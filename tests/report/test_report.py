"""A report is one page that opens without a network, tells what it has, and says what it has not."""

import base64
import hashlib
import io
import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from chromium import CHROMIUM, FLAGS
from PIL import Image

from scripts.report.plots import ARM_STYLES, OTHER_COLOR
from scripts.report.sections import SECTIONS
from scripts.report.write import MAX_BYTES, write_report

DICE = {"teacher": 0.87, "control": 0.82, "student": 0.85}
BETTER = "Better than the teacher by 0.021 Dice (95 % CI 0.008 to 0.034)."
CLOSE = "Difference to the teacher of 0.004 Dice is inside the spread of the seeds (0.006): noise."
GROUPS = [
    ("pathology", "benign"),
    ("pathology", "malignant"),
    ("birads", "2"),
    ("birads", "4"),
    ("lesion size", "small"),
]
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source"}


class Page(HTMLParser):
    """What a page holds: elements that are not closed in order, ids, addresses, texts by element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.ids, self.addresses, self.tags, self.images = [], [], [], [], [], []
        self.feed(text)
        self.wrong += self.open

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [
            value for key, value in attrs if key.split(":")[-1] in ("src", "href", "srcset", "action", "poster")
        ]
        if tag in ("img", "svg") and "aria-hidden" not in attributes:
            self.images.append(attributes.get("alt") or attributes.get("aria-label"))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def metric(mean, width=0.015):
    return {
        "mean": mean,
        "low": mean - width,
        "high": mean + width,
        "seed_means": {"0": mean - width / 4, "1": mean + width / 4},
        "seed_spread": width / 2,
    }


def arm_summary(dice):
    return {
        "num_cases": 292,
        "num_patients": 178,
        "num_seeds": 2,
        "metrics": {
            "dice": metric(dice),
            "hd95": metric(60 - 50 * dice, 2),
            "nsd": metric(dice - 0.3),
            "iou": metric(dice - 0.08),
            "sensitivity": metric(dice + 0.02),
            "specificity": metric(0.985, 0.002),
            "pixel_accuracy": metric(0.97, 0.003),
            "ece": metric(0.05 - 0.03 * dice, 0.004),
        },
        "counts": {"empty_label": 0, "empty_prediction": 7, "both_empty": 0, "one_empty": 7},
    }


def comparison(arm, reference, verdict, **values):
    return {
        "arm": arm,
        "reference": reference,
        "metric": "dice",
        "difference": 0.021,
        "low": 0.008,
        "high": 0.034,
        "p_value": 0.0004,
        "test": "Wilcoxon signed-rank on patients' mean differences",
        "num_patients": 178,
        "seed_spread": 0.006,
        "margin": None,
        "non_inferior": None,
        "verdict": verdict,
        **values,
    }


def reliability(rng):
    bins = [{"low": i / 15, "high": (i + 1) / 15, "count": 0, "confidence": None, "accuracy": None} for i in range(15)]
    for i in range(7, 15):
        center = (bins[i]["low"] + bins[i]["high"]) / 2
        bins[i].update(
            count=int(1000 * 3 ** (i - 7)), confidence=center, accuracy=min(1.0, center - 0.08 + 0.03 * rng.random())
        )
    return {"ece": 0.021, "accuracy": 0.968, "mean_confidence": 0.981, "confident_errors": 0.54, "bins": bins}


def areas(rng, bias):
    means = rng.lognormal(8, 0.7, 120)
    differences = rng.normal(bias, 0.12 * means)
    spread = 1.96 * differences.std()
    return {
        "unit": "pixels",
        "bias": bias,
        "low": bias - spread,
        "high": bias + spread,
        "points": np.stack([means, differences], axis=1),
        "cases": [f"bus_{i:04d}-l" for i in range(len(means))],
    }


def detection(rng):
    coverage = [(i + 1) / 40 for i in range(40)]
    risk = {"coverage": coverage, "risk": [0.2 * share for share in coverage], "failures": [0.0] * 40}
    point = {"coverage": 0.8, "risk": 0.1234, "failures": 0.02, "confidence": 0.91}
    images = {"with_lesion": 292, "without": 90, "num_seeds": 2, "detected": 560, "left_empty": 150}
    figures = {name: metric(0.9, 0.02) for name in ("sensitivity", "specificity")}
    return {"images": {**images, **figures, "auc": None}, "risk": {**risk, "points": [point]}}


def curves(rng, arm):
    epochs = np.arange(1, 61)
    starts = {"task": 0.6, "distill": 0.8, "loss": 1.2}
    fall = {name: start * np.exp(-epochs / 18) + 0.02 * rng.random(60) for name, start in starts.items()}
    if arm != "student":
        del fall["distill"]
    dice = [
        float(DICE[arm] * (1 - np.exp(-epoch / 9)) + 0.01 * rng.random()) if epoch % 2 else None for epoch in epochs
    ]
    return {"epoch": epochs, **fall, "feature": [0.0] * 60, "val_mean_dice": dice}


def probe(change):
    return {
        "dice": {"mean": change, "low": change - 0.05, "high": change + 0.05, "before": 0.85, "after": 0.85 + change},
        "failures": {"mean": 0.2, "low": 0.1, "high": 0.3, "before": 2.0, "after": 10.0},
        "misses": {"mean": 0.0, "low": 0.0, "high": 0.0, "before": 1.0, "after": 1.0},
    }


def full_report(arms=("teacher", "student")):
    rng = np.random.default_rng(0)
    return {
        "title": "BUS-BRA: student against its teacher",
        "created": "2026-11-25",
        "about": {
            "description": "292 test images that no training has seen.",
            "data": "busbra",
            "alpha": 0.5,
            "temperature": 4.0,
        },
        "warnings": ["3 of 292 cases without a patient (a, b, c), each counted as a patient of its own."],
        "arms": {arm: arm_summary(DICE[arm]) for arm in arms},
        "comparisons": [
            comparison("student", arms[-2:][0], BETTER),
            comparison("student", arms[-2:][0], CLOSE, metric="hd95", difference=-1.5, low=-2.5, high=-0.4),
            comparison(
                "student", "teacher", CLOSE, difference=-0.004, low=-0.01, high=0.0, margin=0.02, non_inferior=True
            ),
        ],
        "subgroups": [
            {
                "column": column,
                "group": group,
                "num_cases": 9,
                "arms": {arm: metric(DICE[arm] - rng.random()) for arm in arms},
            }
            for column, group in GROUPS
        ],
        "calibration": {arm: reliability(rng) for arm in arms},
        "areas": {arm: areas(rng, 40.0 * i - 60) for i, arm in enumerate(arms)},
        "detection": {arm: detection(rng) for arm in arms},
        "probes": {
            "num_cases": 40,
            "num_centered": 38,
            "without_lesion": 0,
            "rows": [
                {"probe": "left", "meaning": "moved", "num_cases": 38, "arms": {arm: probe(-0.1) for arm in arms}}
            ],
        },
        "failures": [
            {"case": name, "arm": "student", "seed": 0, "reason": "nothing predicted"}
            for name in ("bus_0001-r", "bus_0017-l", "bus_0480-l")
        ],
        "curves": {arm: {str(seed): curves(rng, arm) for seed in range(2)} for arm in arms},
        **case_parts(rng, arms),
    }


def case_parts(rng, arms, count=12):
    """What a report tells of its cases one by one; the last case has no picture."""
    names = ["bus_0001-r", "bus_0017-l", "bus_0480-l", *(f"bus_{i:04d}-s" for i in range(1000, 997 + count))]
    cases = [
        {
            "case": name,
            "patient": str(i),
            "columns": {"pathology": "benign" if i % 2 else "malignant"},
            "label_area": 100 + i,
            "failed": ["student"] if i < 3 else [],
            "dice": {arm: float(0.3 * (i > 2) + 0.05 * i + 0.01 * rng.random()) for arm in arms},
            "hd95": dict.fromkeys(arms, 20.0 - i),
        }
        for i, name in enumerate(names)
    ]
    pictures = {name: picture(60, 40, arms) for name in names[:-1]}
    return {
        "data": {"name": "busbra", "classes": ["lesion"]},
        "networks": {
            "device": "a processor, 2 threads",
            "arms": {
                arm: {"network": arm.upper(), "img_size": 224, "parameters": 93_700_000, "seconds": 1.25}
                for arm in arms
            }
            | {"student": {"network": "TinyUSFM", "img_size": 224, "parameters": 6_179_073, "seconds": 0.028}},
        },
        "cases": cases,
        "picked": [
            {"group": group, "case": names[i]} for group, i in (("worst", 0), ("best", count - 2), ("median", 5))
        ],
        "pictures": {"seeds": dict.fromkeys(arms, 0), "classes": ["lesion"], "cases": pictures},
    }


def picture(width, height, arms):
    """A case's picture with an outline of each arm and of the ground truth, as `draw_pictures` makes it."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)).save(file, "JPEG")
    data = base64.b64encode(file.getvalue()).decode()
    lines = {source: [f"M{i} 2 20 2 20 9 2 9Z"] for i, source in enumerate(("label", *arms))}
    return {"image": f"data:image/jpeg;base64,{data}", "size": [width, height], "outlines": lines}


def page_of(report, folder):
    return write_report(report, folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A full report of three arms with pictures."""
    return write_report(full_report(("teacher", "control", "student")), tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="module")
def page(written):
    return written.read_text(encoding="utf-8")


def test_page_and_json_are_written_and_nothing_else(written):
    assert written.name == "report.html"
    assert sorted(path.name for path in written.parent.iterdir()) == ["report.html", "report.json"]


def test_page_is_well_formed_with_unique_ids_and_described_images(page):
    parsed = Page(page)
    assert parsed.wrong == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert len(parsed.images) > 10
    assert all(parsed.images)
    assert parsed.tags.count("th") > 40
    assert not re.search(r"<th(?! scope=)", page.replace("<thead", ""))
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_nothing_is_fetched(page):
    parsed = Page(page)
    assert all(address.startswith(("#", "data:image/")) for address in parsed.addresses)
    assert not re.search(r"https?:|@import|url\((?!#)|<link|<iframe|<script ", page)
    assert "default-src 'none'" in page


def test_the_pages_own_script_is_the_only_one_that_may_run(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert not re.search(r"fetch\(|XMLHttp|import\(|eval\(|innerHTML| on[a-z]+=", page)
    assert len(script) < 5000


def test_links_lead_to_sections(page):
    parsed = Page(page)
    targets = {address[1:] for address in parsed.addresses if address.startswith("#")}
    assert {section.key for section in SECTIONS} <= targets <= set(parsed.ids)


def test_every_section_shows_its_data(page):
    assert not any(section.missing in page for section in SECTIONS)
    for text in (
        BETTER,
        "3 of 292 cases without a patient",
        "Not for clinical use",
        '<b>0.850</b> <span class="ci">[0.835, 0.865]</span><small>seeds 0.846 to 0.854</small>',
        "HD95 (pixels)",
        "NSD (2 pixels)",
        "&lt; 0.001",
        "54.0 %",
        "Bias −60.0 pixels",
        "bus_0001-r",
        "temperature",
        "malignant",
        "292 cases · 178 patients",
        "images of 224 × 224 pixels",
        "Metrics and empty masks of 292 cases, 178 patients, 2 seeds",
        "0 in all epochs, so not drawn: feature term.",
        "150 of 180",
        "<td>0.123</td>",
        "292 test images that no training has seen.",
    ):
        assert text in page, text
    assert page.index(BETTER) < page.index('id="arms"')


def test_arrows_tell_which_direction_is_better(page):
    arrows = dict(re.findall(r'<th scope="row">([\w, ()]+)&nbsp;<span class="arrow" title="(\w+) is better"', page))
    assert {name for name, word in arrows.items() if word == "lower"} == {"HD95 (pixels)", "ECE"}
    assert arrows["Dice"] == "higher"
    assert len(arrows) == 8


def test_empty_masks_stand_in_the_table_of_the_metrics(page):
    table = re.search(r"<table.*?</table>", page, re.DOTALL)[0]
    assert "Dice" in table
    assert '<th scope="row">Exactly one empty</th><td>7</td><td>7</td><td>7</td>' in table


def test_distances_in_millimeters_are_rows_of_their_own(tmp_path):
    report = full_report()
    report["arms"]["student"]["metrics"].update(hd95_mm=metric(2.5, 0.2), nsd_mm=metric(0.7), dice_class2=metric(0.5))
    text = page_of(report, tmp_path)
    assert '"row">HD95 (mm)&nbsp;<' in text
    assert "NSD (1 mm)" in text
    assert "Dice, class 2" in text
    assert "<td>–</td>" in text


def test_texts_are_escaped(tmp_path):
    evil = "<script>alert('&')</script>"
    report = {
        "title": evil,
        "created": evil,
        "about": {evil: evil, "description": evil},
        "warnings": [evil],
        "arms": {evil: arm_summary(0.8)},
        "comparisons": [comparison(evil, evil, evil, test=evil, metric=evil)],
        "calibration": {evil: reliability(np.random.default_rng(0))},
        "subgroups": [{"column": evil, "group": evil, "num_cases": 1, "arms": {evil: metric(0.8)}}],
        "probes": {"rows": [{"probe": evil, "meaning": evil, "num_cases": evil, "arms": {evil: probe(0.0)}}]},
        "areas": {evil: {"unit": evil, "bias": 0.0, "low": -1.0, "high": 1.0, "points": [[1.0, 0.0]], "cases": [evil]}},
        "failures": [{"case": evil, "arm": evil, "seed": evil, "reason": evil}],
        "curves": {evil: {evil: {"task": [1.0, 0.5]}}},
        "data": {"name": evil, "classes": [evil]},
        "networks": {"device": evil, "arms": {evil: {"network": evil, "img_size": evil, "seconds": 1.0}}},
        "cases": [{"case": evil, "patient": evil, "columns": {evil: evil}, "dice": {evil: 0.5, "b": 0.4}}],
        "picked": [{"group": evil, "case": evil}],
        "pictures": {"seeds": {evil: 0}, "classes": [evil], "cases": {evil: picture(9, 9, [evil])}},
    }
    text = page_of(report, tmp_path)
    assert text.lower().count("<script") == 1
    assert "&lt;script&gt;" in text
    assert Page(text).wrong == []


def test_dollars_are_no_mathematics(tmp_path):
    text = page_of({"title": "$title $$ $1", "arms": {"$\\frac{": arm_summary(0.8)}}, tmp_path)
    assert "<h1>$title $$ $1</h1>" in text
    assert "$\\frac{" in text


def test_json_reads_back_as_the_report(written):
    def refuse(constant):
        raise AssertionError(constant)

    read = json.loads((written.parent / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)
    expected = full_report(("teacher", "control", "student"))
    assert list(read) == list(expected)
    assert read["arms"] == expected["arms"]
    assert read["comparisons"] == expected["comparisons"]
    assert read["areas"]["student"]["points"] == expected["areas"]["student"]["points"].tolist()
    assert (
        read["curves"]["student"]["1"]["val_mean_dice"][:2] == expected["curves"]["student"]["1"]["val_mean_dice"][:2]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, value):
    report = full_report()
    report["arms"]["student"]["metrics"]["dice"]["low"] = value
    with pytest.raises(
        ValueError, match=r"report::arms::student::metrics::dice::low is (nan|inf), expected a finite number"
    ):
        write_report(report, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="of type set, expected what JSON knows"):
        write_report({"warnings": {1, 2}}, tmp_path)


def test_an_empty_report_says_what_is_missing(tmp_path):
    text = page_of({}, tmp_path)
    assert all(section.missing in text for section in SECTIONS)
    assert "No two arms were compared, so there is no verdict." in text
    assert "No warnings." in text
    assert "Not for clinical use" in text
    assert json.loads((tmp_path / "report.json").read_text()) == {}


@pytest.mark.parametrize("key", [section.key for section in SECTIONS])
def test_each_section_may_be_missing_or_empty(tmp_path, key):
    report = full_report(("student",))
    del report[key]
    without = page_of(report, tmp_path)
    empty = page_of({**report, key: None}, tmp_path)
    assert next(section.missing for section in SECTIONS if section.key == key) in without
    assert without == empty
    assert Page(without).wrong == []


def test_half_missing_parts_leave_the_rest(tmp_path):
    report = full_report()
    report["arms"]["student"] = {"num_cases": 0, "metrics": {}}
    report["calibration"]["student"] = {"ece": None, "bins": []}
    report["areas"]["student"] = {"unit": "pixels", "bias": None, "low": None, "high": None, "points": []}
    report["subgroups"][0]["arms"] = {}
    report["curves"]["student"] = {"0": {"val_mean_dice": []}}
    report["failures"].append({"case": "one"})
    report["comparisons"].append({"arm": "student", "reference": "control"})
    text = page_of(report, tmp_path)
    assert Page(text).wrong == []
    assert "0 cases" in text
    assert "no areas were recorded" in text
    assert "No verdict." in text


def test_verdicts_of_two_arms_stand_together(page):
    cards = re.findall(r"<div><dt>.*?</div>", page[page.index('class="verdicts"') :])
    assert len(cards) == 2
    assert [card.count("<dd>") for card in cards] == [2, 1]
    assert cards[0].index("Dice") < cards[0].index("HD95 (pixels)")
    assert "Teacher" in cards[1]


def test_trainings_without_curves_are_named(tmp_path):
    text = page_of({"curves": {"student": {}, "control": {"0": {}}}}, tmp_path)
    assert next(section.missing for section in SECTIONS if section.key == "curves") in text


def test_one_seed_says_that_the_spread_is_unknown(tmp_path):
    summary = {"mean": 0.8, "low": None, "high": None, "seed_means": {"0": 0.8}, "seed_spread": None}
    arms = {"student": {"num_cases": 1, "num_patients": 1, "num_seeds": 1, "metrics": {"dice": summary}}}
    text = page_of(
        {"arms": arms, "comparisons": [comparison("student", "control", "noise", seed_spread=None)]}, tmp_path
    )
    assert "<td><b>0.800</b></td>" in text
    assert "<td>unknown</td>" in text
    assert len(re.findall(r">[^<]*1 seed", text)) == 1
    assert "Metrics and empty masks of 1 case, 1 patient, 1 seed" in text
    assert "Empty masks were not counted." in text


def test_long_lists_of_failures_are_cut_and_counted(tmp_path):
    failures = [{"case": f"c{i:05d}", "arm": "student", "seed": 0, "reason": "r"} for i in range(1000)]
    text = page_of({"failures": failures}, tmp_path)
    assert "c00199" in text
    assert "c00200" not in text
    assert "800 more are in report.json." in text


def test_first_screen_says_what_is_kept_in_plain_words(page):
    head = page[: page.index("<main>")]
    assert "The student keeps <b>97.7 %</b> of the teacher’s Dice at <b>1/15</b> of its parameters." in head
    facts = re.sub(r"<[^>]+>", " ", head[head.index('<dl class="facts">') :])
    for text in ("busbra", "Student   TinyUSFM", "6.2 M", "93.7 M", "28 ms", "1.2 s", "a processor, 2 threads"):
        assert text in facts, text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arms: arms["teacher"].update(parameters=None), "of the teacher’s Dice."),
        (lambda arms: arms["teacher"].update(parameters=9_600_000), "at <b>64 %</b> of its parameters"),
        (lambda arms: arms["teacher"].update(parameters=15_000_000), "at <b>41 %</b> of its parameters"),
        (lambda arms: arms["teacher"].update(parameters=12_000_000), "at <b>1/2</b> of its parameters"),
        (lambda arms: arms["student"].update(seconds=None), "<b>1.2 s</b>"),
    ],
)
def test_what_is_not_known_is_not_on_the_first_screen(tmp_path, change, said):
    report = full_report()
    change(report["networks"]["arms"])
    head = page_of(report, tmp_path).partition("<main>")[0]
    assert said in head
    assert "None" not in head


def test_a_report_without_a_teacher_says_what_it_is_about(tmp_path):
    head = page_of(full_report(("student",)), tmp_path).partition("<main>")[0]
    assert '<p class="lead">292 test images that no training has seen.</p>' in head
    assert "keeps" not in head


def test_sections_that_miss_are_named_once_together(tmp_path):
    report = full_report()
    del report["probes"], report["curves"]
    text = page_of(report, tmp_path)
    listed = re.search(r'<section id="missing".*?</section>', text, re.DOTALL)[0]
    assert "<b>Probes</b>" in listed
    assert "<b>Learning curves</b>" in listed
    assert listed.count("<li>") == 2
    assert 'href="#probes"' not in text


def test_every_case_has_a_row_from_the_worst_to_the_best(page):
    rows = re.findall(r'<tr id="row-(\d+)" data-dice="([\d.]+)"', page)
    assert [int(number) for number, _ in rows] == list(range(12))
    assert [float(dice) for _, dice in rows] == sorted(float(dice) for _, dice in rows)
    assert page.count('data-failed="1"') == 3


def test_points_rows_and_failures_lead_to_a_case_and_back(page):
    parsed = Page(page)
    links = [address for address in parsed.addresses if address.startswith("#case-")]
    assert {*links} == {f"#case-{i}" for i in range(11)}
    scatter = re.search(r'<svg[^>]*aria-label="Dice of student over teacher.*?</svg>', page, re.DOTALL)[0]
    assert len(re.findall(r'<a href="#(?:case|row)-\d+" tabindex="-1" aria-label="bus', scatter)) == 12
    assert 'href="#row-11"' in scatter  # it has no picture
    bars = re.findall(r'<a href="#row-(\d+)" data-low="([\d.]+)" data-high="[\d.]+" aria-label="Dice', page)
    dice = [float(value) for value in re.findall(r'data-dice="([\d.]+)"', page)]
    assert len(bars) > 3
    for row, low in bars:
        assert dice[int(row)] >= float(low)
        assert int(row) == 0 or dice[int(row) - 1] < float(low)
    card = re.search(r'<article class="case" id="case-4".*?</article>', page, re.DOTALL)[0]
    assert re.findall(r'href="(#[cr]\w+-\d+)"', card) == ["#case-3", "#case-5", "#row-4"]
    assert card.count("<figure") == 4  # the image, teacher, control, student
    failures = re.search(r'<section id="failures".*?</section>', page, re.DOTALL)[0]
    assert failures.count('class="thumb"') == 3


def test_images_and_outlines_are_stored_once(page):
    assert page.count("data:image/jpeg") == 11
    assert page.count('<path id="o') == 11 * 4
    used = {*re.findall(r'<use href="#([io]\d[\w-]*)"', page)}
    assert used == {*re.findall(r'<(?:image|path) id="([io]\d[\w-]*)"', page)}


def test_masks_of_another_seed_are_not_shown_as_the_failure(tmp_path):
    report = full_report()
    report["failures"][0]["seed"] = 1
    failures = re.search(r'<section id="failures".*?</section>', page_of(report, tmp_path), re.DOTALL)[0]
    assert failures.count('class="thumb"') == 2


def test_classes_have_colors_and_names_of_their_own(tmp_path):
    report = full_report()
    report["pictures"]["classes"] = ["nerve"]
    for one in report["pictures"]["cases"].values():
        one["outlines"] = {source: [*lines, "M0 0 1 0 1 1Z"] for source, lines in one["outlines"].items()}
    picked = re.search(r'<section id="picked".*?</section>', page_of(report, tmp_path), re.DOTALL)[0]
    assert "nerve" in picked
    assert "class 2" in picked
    assert len({*re.findall(r'stroke="(#\w+)"', picked)}) == 2


def test_pictures_that_do_not_fit_are_left_out_from_the_last_and_counted(tmp_path):
    report = full_report()
    report |= case_parts(np.random.default_rng(0), ("teacher", "student"), 400)
    first, *_ = names = list(report["pictures"]["cases"])
    for name in names:
        report["pictures"]["cases"][name] = picture(160, 120, ("teacher", "student"))
    text = page_of(report, tmp_path)
    left = text.count("data:image/jpeg")
    assert len(text.encode()) <= MAX_BYTES
    assert 50 < left < 399
    assert f"{left} cases have a picture, as many as a page of 5 MB holds" in text
    assert f">{first}</a>" in text
    assert Page(text).wrong == []


def contrast(first, second):
    """WCAG 2.2, of two colors such as #ffffff."""

    def luminance(color):
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", [*(style.color for style in ARM_STYLES.values()), OTHER_COLOR])
@pytest.mark.parametrize("page_color", ["#ffffff", "#f5f7f9", "#14181c", "#1c2126"])
def test_colors_of_arms_stand_out_in_light_and_dark(color, page_color):
    assert contrast(color, page_color) >= 3


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs a browser on a page with further options; returns what it printed."""
    if CHROMIUM is None:
        pytest.skip("no browser to look at the report: Chromium is not installed")

    def run(path, *options):
        profile = tmp_path_factory.mktemp("profile")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *options, path.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    return run


@pytest.mark.parametrize("width", [1200, 500])
def test_browser_shows_the_page(browse, written, tmp_path, width):
    path = tmp_path / "screen.png"
    browse(written, f"--screenshot={path}", f"--window-size={width},3000")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (3000, width, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 200
    assert all(band.std() > 5 for band in np.array_split(pixels, 8))


def test_browser_finds_the_sections(browse, written):
    parsed = Page(browse(written, "--dump-dom"))
    assert {section.key for section in SECTIONS} <= set(parsed.ids)
    assert parsed.tags.count("article") == parsed.tags.count("image") == 11
    assert ">12 of 12 cases shown</output>" in browse(written, "--dump-dom")


def test_browser_sorts_and_filters_the_table(browse, written, tmp_path):
    """By clicks, which a script in the place of the page's policy makes."""
    clicks = """<script>
      document.querySelectorAll("#cases thead button")[0].click();
      document.querySelectorAll("#cases thead button")[0].click();
      const form = document.querySelector(".filters");
      form.querySelector("input").value = "malig 0";
      form.dispatchEvent(new Event("input"));
    </script></body>"""
    text = re.sub(r"<meta http-equiv=.*?>", "", written.read_text(encoding="utf-8"), flags=re.DOTALL)
    (tmp_path / "clicked.html").write_text(text.replace("</body>", clicks), encoding="utf-8")
    table = re.search(
        r'<table class="numbers"><caption>All cases.*?</table>',
        browse(tmp_path / "clicked.html", "--dump-dom"),
        re.DOTALL,
    )[0]
    names = re.findall(r'<tr id="row-\d+"[^>]*?(hidden="")?><th scope="row"><a[^>]*>(bus[^<]*)', table)
    assert [name for _, name in names] == sorted((name for _, name in names), reverse=True)
    assert 0 < sum(not hidden for hidden, _ in names) < len(names)
    assert 'aria-sort="descending"' in table


def test_further_terms_of_the_loss_have_a_curve_of_their_own(tmp_path):
    text = page_of(
        {"curves": {"student": {"0": {"epoch": [1, 2], "task": [0.5, 0.4], "cwd": [0.5, 0.25]}}, "control": {}}},
        tmp_path,
    )
    assert "cwd term over epochs" in text
    assert "Task term over epochs" in text
