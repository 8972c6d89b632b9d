"""A report is one page that opens without a network, tells what it has, and says what it has not."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from scripts.data.phantoms import make_phantom
from scripts.report.panels import draw_panels
from scripts.report.sections import SECTIONS
from scripts.report.write import MAX_BYTES, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
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
        if tag in ("img", "svg"):
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
    }


def drawn_panels(folder):
    """A panel for best, median and worst as the evaluation draws them."""
    panels = []
    for i, group in enumerate(("best", "median", "worst")):
        image, label = make_phantom(i, size=160)
        masks = {"label": label, "teacher": np.roll(label, 2, axis=1), "student": np.roll(label, 4 * i + 1, axis=0)}
        path = draw_panels([{"image": image / 255, **masks, "title": f"bus_{i:04d}-l"}], folder / f"{group}.png")
        panels.append({"group": group, "title": f"bus_{i:04d}-l, student Dice {0.97 - 0.2 * i:.3f}", "png": path})
    return panels


def noise_panels(folder, count, size=(1000, 400)):
    """Pictures that compress badly."""
    rng, panels = np.random.default_rng(2), []
    for i in range(count):
        path = folder / f"noise_{i}.png"
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path, compress_level=1)
        panels.append({"group": "worst", "title": f"case {i}", "png": path})
    return panels


def page_of(report, folder, panels=()):
    return write_report(report, panels, folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A full report of three arms with panels."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(full_report(("teacher", "control", "student")), drawn_panels(folder / "panels"), folder / "out")


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
    assert not re.search(r"https?:|@import|url\((?!#)|<script|<link|<iframe", page)
    assert "default-src 'none'" in page


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
    }
    folder = tmp_path / "panels"
    panels = [{**panel, "group": evil, "title": evil} for panel in noise_panels(tmp_path, 1, (8, 8))]
    text = page_of(report, folder, [*panels, {"group": evil, "title": evil, "png": tmp_path / "missing.png"}])
    assert "<script" not in text.lower()
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
        write_report(report, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="of type set, expected what JSON knows"):
        write_report({"warnings": {1, 2}}, [], tmp_path)


def test_an_empty_report_says_what_is_missing(tmp_path):
    text = page_of({}, tmp_path)
    assert all(section.missing in text for section in SECTIONS)
    assert "No two arms were compared, so there is no verdict." in text
    assert "No warnings." in text
    assert "Not for clinical use" in text
    assert json.loads((tmp_path / "report.json").read_text()) == {}


@pytest.mark.parametrize("key", [key for key in full_report() if key not in ("title", "created", "warnings")])
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
    cards = re.findall(r"<div><dt>.*?</div>", page)
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
    assert "<b>0.800</b><small>one seed</small>" in text
    assert "<td>unknown</td>" in text
    assert "1 case, 1 patient, 1 seed" in text
    assert "Empty masks were not counted." in text


def test_long_lists_of_failures_are_cut_and_counted(tmp_path):
    failures = [{"case": f"c{i:05d}", "arm": "student", "seed": 0, "reason": "r"} for i in range(1000)]
    text = page_of({"failures": failures}, tmp_path)
    assert "c00199" in text
    assert "c00200" not in text
    assert "800 more are in report.json." in text


def test_small_panels_are_embedded_as_they_are(written, page):
    for group in ("best", "median", "worst"):
        data = (written.parent.parent / "panels" / f"{group}.png").read_bytes()
        assert base64.b64encode(data).decode() in page
    assert page.index("<h3>Best") < page.index("<h3>Median") < page.index("<h3>Worst")
    assert "Recompressed" not in page


def test_large_panels_are_recompressed_to_fit_with_a_note(tmp_path):
    panels = noise_panels(tmp_path, 8)
    text = page_of(full_report(), tmp_path, panels)
    assert sum(panel["png"].stat().st_size for panel in panels) > 9e6
    assert 2e6 < len(text.encode()) <= MAX_BYTES < 5e6
    assert text.count("data:image/jpeg") == 8
    assert text.count("Recompressed to keep the report below 5 MB.") == 8


def test_panels_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    panels = [{"group": "best", "title": name, "png": tmp_path / name} for name in ("none.png", "text.png")]
    text = page_of({}, tmp_path / "out", panels)
    assert "none.png is not there; draw it again." in text
    assert "text.png is no PNG that can be read; draw it again." in text


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Runs a browser on a page with further options; returns what it printed."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser to look at the report: none of {', '.join(BROWSERS)} is on the path")

    def run(path, *options):
        profile = tmp_path_factory.mktemp("profile")
        command = [browser, *BROWSER_OPTIONS, f"--user-data-dir={profile}", *options, path.as_uri()]
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
    assert parsed.tags.count("svg") == 14
    assert parsed.tags.count("img") == 3
    assert parsed.tags.count("table") == 9


def test_further_terms_of_the_loss_have_a_curve_of_their_own(tmp_path):
    text = page_of(
        {"curves": {"student": {"0": {"epoch": [1, 2], "task": [0.5, 0.4], "cwd": [0.5, 0.25]}}, "control": {}}},
        tmp_path,
    )
    assert "cwd term over epochs" in text
    assert "Task term over epochs" in text
