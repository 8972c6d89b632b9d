"""The page in headless Chromium: opened from its file, with pictures, DICOM and video, by mouse, touch and keyboard.

Masks are compared with those of ONNX Runtime in Python. No test lets the page ask for anything.
"""

import io
import json
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from chromium import open_page
from conftest import ROOT, SHARED
from PIL import Image
from png_files import write_png16
from web_parts import (
    ENGINE,
    LEAST_DICE,
    NEEDS_BROWSER,
    RECORD,
    click,
    dice,
    found,
    mask,
    open_files,
    random_student,
    write_folder,
)

from scripts.data.phantoms import make_phantom
from scripts.export.formats import read_student
from scripts.export.names import PAGE
from scripts.export.whole import load_whole

pytest_plugins = "web_fixtures"
pytestmark = [pytest.mark.slow, *NEEDS_BROWSER]


def phantom(height, width, seed=0):
    return Image.fromarray(make_phantom((1, seed), 256)[0]).resize((width, height))


def test_page_starts_with_one_thread_and_says_why(browser):
    assert browser.run("app.engine.found.name") == "1 thread"
    assert "unless a server sends it with the headers COOP and COEP" in browser.run("app.engine.found.detail")
    assert browser.run("document.getElementById('engine').textContent") == "1 thread"


def test_pictures_have_the_masks_of_python(page, folder, tmp_path):
    segment, expected = load_whole(folder), {}
    for number, (height, width) in enumerate([(64, 64), (1, 1), (1, 90), (31, 20), (300, 411), (640, 480)]):
        picture = phantom(height, width, number)
        picture.save(tmp_path / f"{number}.png")
        expected[f"{number}.png"] = np.asarray(picture)
    color = Image.merge("RGB", [phantom(90, 120, seed) for seed in range(3)])
    color.save(tmp_path / "color.bmp")
    expected["color.bmp"] = np.asarray(color.convert("L"))
    clear = color.copy()
    clear.putalpha(phantom(90, 120, 3))
    clear.save(tmp_path / "clear.png")
    black = Image.alpha_composite(Image.new("RGBA", clear.size, (0, 0, 0, 255)), clear)
    expected["clear.png"] = np.asarray(black.convert("L"))
    deep = np.asarray(phantom(70, 60, 4)).astype(np.uint16) * 16  # of 12 bits
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected["deep.png"] = np.round(255 * (deep / 4095)).astype(np.uint8)
    open_files(page, *(tmp_path / name for name in expected))
    files = found(page)
    for name, gray in expected.items():
        assert dice(mask(files[name]), segment(gray).mask) >= LEAST_DICE, name
    assert sum(mask(file).any() for file in files.values()) > 5


def test_files_that_cannot_be_used_are_told_in_a_sentence_and_the_others_go_on(page, tmp_path):
    refused = {
        "text.png": (b"no picture at all", "cannot be read as a picture"),
        "empty.png": (b"", "is empty"),
        "scan.tif": (b"II*\0" + bytes(400), "is TIFF, which browsers do not read. Save it as PNG"),
        "scan.nii.gz": (b"\x1f\x8b" + bytes(400), "is NIfTI, which this page does not read"),
        "loop.mp4": (b"\0\0\0\x18ftypisom" + bytes(4000), "cannot be decoded by this browser, or is damaged"),
        "broken.dcm": (bytes(128) + b"DICM" + b"\xff" * 300, "is no DICOM file, or is damaged"),
    }
    for name, (content, _) in refused.items():
        (tmp_path / name).write_bytes(content)
    write_png16(tmp_path / "colors16.png", np.zeros((9, 9, 3), np.uint16))
    (tmp_path / "cut.png").write_bytes(png(phantom(200, 200))[:9000])
    phantom(50, 60).save(tmp_path / "good.png")
    names = [*refused, "colors16.png", "cut.png", "good.png"]
    open_files(page, *(tmp_path / name for name in names))
    told = dict(
        page.run(
            "[...document.querySelectorAll('#files li')].map(item => [item.querySelector('b').textContent, "
            "item.querySelector('small').textContent])"
        )
    )
    for name, (_, reason) in refused.items():
        assert reason.lower() in told[name].lower(), name
    assert "16 bits a color" in told["colors16.png"]
    assert told["good.png"] == "done"
    assert "good.png" in found(page)
    page.run("document.querySelectorAll('.cross')[0].click()")
    assert page.run("document.querySelectorAll('#files li').length") == len(names) - 1


def png(picture):
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def test_twelve_megapixels_are_segmented_and_fifty_refused(page, folder, tmp_path):
    large = phantom(3000, 4000)
    large.save(tmp_path / "large.png", compress_level=1)
    Image.new("L", (10000, 5000)).save(tmp_path / "huge.png")
    open_files(page, tmp_path / "large.png", tmp_path / "huge.png")
    assert dice(mask(found(page)["large.png"]), load_whole(folder)(np.asarray(large)).mask) >= LEAST_DICE
    assert "Has 50 megapixels. This page takes 40" in page.run("document.getElementById('files').textContent")


def on_screen(page, *points):
    """Points of the picture as points of the window."""
    return page.run(
        f"(({{scale, x, y}}, box) => {json.dumps(points)}.map(p => [box.x + x + scale * p[0], "
        "box.y + y + scale * p[1]]))(app.stage.view, app.stage.canvas.getBoundingClientRect())"
    )


def area(page):
    return page.run("app.measurements().files[0].frames[0].classes[0].area_px")


def test_brush_eraser_undo_and_reset(page, tmp_path):
    phantom(100, 120).save(tmp_path / "a.png")
    open_files(page, tmp_path / "a.png")
    first = mask(found(page)["a.png"])
    click(page, "[data-tool=brush]")
    page.drag(on_screen(page, (20, 20), (60, 50), (100, 20)))
    painted = mask(found(page)["a.png"])
    assert painted[20, 20] == painted[35, 40] == painted[20, 100] == 1
    assert (painted >= first).all()
    assert "corrected by you" in page.run("document.getElementById('findings').textContent")
    assert found(page)["a.png"]["frames"][0]["corrected"]
    page.press("e")
    page.drag(on_screen(page, (60, 50)))
    assert mask(found(page)["a.png"])[50, 60] == 0
    page.press("z")
    assert np.array_equal(mask(found(page)["a.png"]), painted)
    click(page, "#restore")
    assert np.array_equal(mask(found(page)["a.png"]), first)
    assert not found(page)["a.png"]["frames"][0]["corrected"]


def test_keyboard_alone_paints_and_measures(page, tmp_path):
    phantom(100, 120).save(tmp_path / "a.png")
    open_files(page, tmp_path / "a.png")
    page.run("document.getElementById('picture').focus()")
    page.press("b")
    before = mask(found(page)["a.png"])
    for key in ("[", "[", "[", "[", "ArrowLeft", "ArrowUp", " "):
        page.press(key)
    after = mask(found(page)["a.png"])
    assert after[49, 59] == 1
    assert (after != before).any() or before[45:54, 55:64].all()
    page.press("r")
    page.press(" ")
    for _ in range(20):
        page.press("ArrowRight")
    page.press(" ")
    page.wait("document.getElementById('length').open")
    page.run("document.getElementById('millimeters').value = 5")
    click(page, "#length button.primary")
    page.wait("app.now.study.drawn")
    row = found(page)["a.png"]["frames"][0]["classes"][0]
    assert row["pixel_width_mm"] == pytest.approx(5 / 20)
    assert row["area_mm2"] == pytest.approx(row["area_px"] / 16, abs=1e-4)
    assert "mm²" in page.run("document.querySelector('.value').textContent")
    assert "Line: 5 mm" in page.run("document.getElementById('line-length').textContent")


def test_fingers_zoom_and_do_not_paint(page, tmp_path):
    phantom(100, 120).save(tmp_path / "a.png")
    open_files(page, tmp_path / "a.png")
    page.press("b")
    before, scale = mask(found(page)["a.png"]), page.run("app.stage.view.scale")
    (x, y), (u, v) = on_screen(page, (40, 50), (80, 50))
    touch = partial(page.call, "Input.dispatchTouchEvent")
    touch({"type": "touchStart", "touchPoints": [{"x": x, "y": y, "id": 1}]})
    touch({"type": "touchStart", "touchPoints": [{"x": x, "y": y, "id": 1}, {"x": u, "y": v, "id": 2}]})
    for step in range(1, 6):
        points = [{"x": x - 20 * step, "y": y, "id": 1}, {"x": u + 20 * step, "y": v, "id": 2}]
        touch({"type": "touchMove", "touchPoints": points})
    touch({"type": "touchEnd", "touchPoints": []})
    assert page.run("app.stage.view.scale") > 1.2 * scale
    assert np.array_equal(mask(found(page)["a.png"]), before)


def test_saved_files_are_those_of_the_page(page, tmp_path):
    (tmp_path / "saved").mkdir()
    folder = {"behavior": "allow", "downloadPath": str(tmp_path / "saved")}
    page.call("Browser.setDownloadBehavior", folder, None)
    phantom(70, 90).save(tmp_path / "a.png")
    open_files(page, tmp_path / "a.png")
    saved = tmp_path / "saved"
    for key, name in (("s", "a_mask.png"), ("p", "a_overlay.png"), ("j", "lesions.json")):
        page.press(key)
        wait_for(saved / name)
    with Image.open(saved / "a_mask.png") as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), mask(found(page)["a.png"]))
    with Image.open(saved / "a_overlay.png") as picture:
        assert picture.size == (90, 70)
        assert len(picture.convert("RGB").getcolors(10000)) > 300
    record = json.loads((saved / "lesions.json").read_text())
    assert record["files"] == list(found(page).values())
    assert record["student"]["checkpoint_sha256"] == "0" * 64


def wait_for(path):
    for _ in range(200):
        if path.is_file() and path.stat().st_size:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{path} was not saved")


def test_video_is_segmented_frame_by_frame(page):
    page.run(RECORD)
    page.wait("app.session.studies.length")
    count = page.run("app.session.studies[0].count")
    assert count > 5
    assert not page.run("document.getElementById('timeline').hidden")
    click(page, "#run")
    page.wait(f"app.session.studies[0].results.size === {count}")
    frames = found(page)["loop.webm"]["frames"]
    assert [frame["frame"] for frame in frames] == list(range(count))
    assert len({tuple(frame["mask_runs"]) for frame in frames}) > 2
    page.wait("document.getElementById('run').textContent === 'Segment all'")
    page.run("document.activeElement.blur()")
    page.press("ArrowLeft")
    assert page.run("app.now.index") == count - 2
    page.wait(f"document.getElementById('frame-number').textContent === '{count - 1} / {count}'")  # once it is decoded


def test_another_mask_than_pythons_stops_the_page(folder, tmp_path):
    text = (folder / PAGE).read_text(encoding="utf-8")
    head, tail = text.split('"runs": [', 1)
    (tmp_path / PAGE).write_text(f'{head}"runs": [2, 65536], "were": [{tail}', encoding="utf-8")
    with open_page(tmp_path) as page:
        page.open((tmp_path / PAGE).as_uri())
        page.wait("globalThis.app")
        page.wait(ENGINE)
        told = page.run("document.getElementById('trouble').textContent")
        assert "does not run in this browser" in told
        assert "it finds another mask than Python (Dice 0.0000)" in told


def test_student_of_several_classes_paints_and_measures_each(tmp_path):
    folder = write_folder(random_student(3), tmp_path, ["nerve", "vessel"])
    picture = phantom(100, 120)
    picture.save(tmp_path / "a.png")
    with open_page(tmp_path) as page:
        page.look(1280, 800)
        page.open((folder / PAGE).as_uri())
        page.wait("globalThis.app")
        page.wait(ENGINE)
        open_files(page, tmp_path / "a.png")
        first, expected = mask(found(page)["a.png"]), load_whole(folder)(np.asarray(picture))
        assert dice(first, expected.mask) >= LEAST_DICE
        rows = found(page)["a.png"]["frames"][0]["classes"]
        assert [row["class"] for row in rows] == ["nerve", "vessel"]
        for number, row in enumerate(rows, start=1):
            inside = expected.mask == number
            assert row["area_px"] == pytest.approx(inside.sum(), abs=0.001 * first.size)
            mean = expected.probability[number][inside].mean() if inside.any() else None
            assert row["confidence"] == (None if mean is None else pytest.approx(mean, abs=2e-3))
        click(page, "#classes input[value='2']")
        click(page, "[data-tool=brush]")
        page.drag(on_screen(page, (20, 20), (60, 50)))
        assert mask(found(page)["a.png"])[35, 40] == 2
        assert page.errors == []


class Isolated(SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *words):
        pass


def test_served_with_two_headers_it_takes_several_threads(folder, tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Isolated, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{PAGE}"
    try:
        with open_page(tmp_path) as page:
            page.open(address)
            page.wait("globalThis.app")
            page.wait(ENGINE)
            threads = page.run("Math.min(8, navigator.hardwareConcurrency)")
            assert page.run("app.engine.found.name") == (f"{threads} threads" if threads > 1 else "1 thread")
            page.run("app.actions.example()")
            page.wait("app.session.studies[0]?.results.size")
            assert page.requests == [address]
            assert page.errors == []
    finally:
        server.shutdown()


def test_shared_student_finds_pythons_masks_in_real_images(tmp_path):
    paths = sorted((SHARED / "busbra_native" / "Images").glob("*.png"))
    if not paths or not (ROOT / "models" / "model.pt").is_file():
        pytest.skip("the images of BUS-BRA, or the shared student, are not here")
    paths = paths[:: len(paths) // 20][:20]
    folder = write_folder(read_student(ROOT / "models" / "model.pt", 224, 2), tmp_path, ["lesion"])
    segment = load_whole(folder)
    with open_page(tmp_path) as page:
        page.open((folder / PAGE).as_uri())
        page.wait("globalThis.app")
        page.wait(ENGINE)
        open_files(page, *paths)
        files = found(page)
        grays = {path.name: np.asarray(Image.open(path).convert("L")) for path in paths}
        scores = [dice(mask(files[name]), segment(gray).mask) for name, gray in grays.items()]
        print(f"Dice against Python: at least {min(scores):.6f}, of {len(scores)} images")
        print(f"time of a frame, {page.run('app.engine.found.name')}: {page.run('app.session.pace()'):.0f} ms")
        print(f"requests besides the page: {len(page.requests) - 1}")
        assert min(scores) >= LEAST_DICE
        assert page.requests == [(folder / PAGE).as_uri()]
        assert page.errors == []
