"""The page when frames and files change: strokes that have begun, frames that come late, or that cannot be decoded."""

import struct

import pytest
from PIL import Image
from web_parts import NEEDS_BROWSER, RECORD, open_files

from scripts.data.phantoms import make_phantom

pytest_plugins = "web_fixtures"
pytestmark = [pytest.mark.slow, *NEEDS_BROWSER]

PICTURE = make_phantom((0, 0), 96)[0]
STROKE = """(async () => {
  const [first, second] = app.session.studies, read = second.frame, {stage} = app;
  const send = (kind, x) => stage.canvas.dispatchEvent(new PointerEvent(kind, {
    pointerId: 1, button: 0, clientX: box.left + stage.view.x + stage.view.scale * x,
    clientY: box.top + stage.view.y + stage.view.scale * 10,
  }));
  const box = stage.canvas.getBoundingClientRect();
  await app.show(first, 0);
  second.frame = async index => { await new Promise(done => setTimeout(done, 100)); return read(index); };
  app.actions.brush();
  send("pointerdown", 10);
  const shown = app.show(second, 0);
  send("pointermove", 60);
  send("pointerup", 60);
  for (const kind of ["pointerdown", "pointermove", "pointerup"]) send(kind, 40);
  await shown;
})()"""


def test_stroke_that_has_begun_corrects_no_other_file(page, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    open_files(page, tmp_path / "a.png", tmp_path / "b.png")
    page.run(STROKE)
    assert page.run("app.session.studies.map(study => study.results.get(0).undo.length)") == [0, 0]


FRAMES = """(async () => {
  const [study] = app.session.studies;
  const sum = ({gray}) => gray.reduce((total, value, i) => total + value * (i % 160), 0);
  const last = study.count - 1, alone = [sum(await study.frame(0)), sum(await study.frame(last))];
  const together = (await Promise.all([study.frame(0), study.frame(last)])).map(sum);
  return {alone, together};
})()"""


def test_frames_of_a_video_that_are_asked_for_at_once_are_those_frames(page):
    page.run(RECORD)
    page.wait("app.session.studies[0]?.results.size")
    sums = page.run(FRAMES)
    assert sums["together"] == sums["alone"]
    assert sums["alone"][0] != sums["alone"][1]


def test_step_to_another_frame_stops_the_run_over_all(page):
    page.run(RECORD)
    page.wait("app.session.studies[0]?.results.size")
    # in one go, so that the run cannot end by itself in between
    step = "(() => { app.actions.run(); const ran = app.now.runs; app.actions['frame-after'](); "
    assert page.run(step + "return [ran, app.now.runs]; })()") == [True, False]


def test_frame_that_cannot_be_decoded_leaves_no_former_picture(page, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(PICTURE).save(tmp_path / name)
    open_files(page, tmp_path / "a.png", tmp_path / "b.png")
    page.run("app.session.studies[1].frame = async () => { throw new Error('is damaged.'); }")
    page.run("app.show(app.session.studies[1], 0)")
    assert page.run("app.stage.image") is None
    assert page.run("[...document.querySelectorAll('#files .refused small')].map(note => note.textContent)") == [
        "Is damaged."
    ]
    page.run("app.show(app.session.studies[0], 0)")
    assert page.run("app.stage.width") == PICTURE.shape[1]


def test_size_of_a_png_is_checked_before_it_is_decoded(page, tmp_path):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 50000, 50000, 8, 0, 0, 0, 0)
    (tmp_path / "huge.png").write_bytes(header)
    (tmp_path / "cut.png").write_bytes(header[:12])
    open_files(page, tmp_path / "huge.png", tmp_path / "cut.png")
    huge, cut = page.run("[...document.querySelectorAll('#files .refused small')].map(note => note.textContent)")
    assert huge == "Has 2500 megapixels. This page takes 40. Make it smaller."
    assert cut.startswith("Cannot be read as a picture.")
