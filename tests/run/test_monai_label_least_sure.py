"""The strategy least_sure in MONAI Label's own server, as docs/active_learning.md installs it; marked monai_label."""

import json
import re
import time

import pytest
from conftest import ROOT
from label_server import MODEL, TRAINED, install_server, outline, serving, write_label
from label_server import phantom as draw
from PIL import Image

PAGE = ROOT / "docs" / "active_learning.md"
STRATEGY = "least_sure"


def installation() -> str:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S)[0]


def test_page_keeps_the_app_and_puts_the_bundles_in_its_place():
    kept, put = installation().splitlines()
    assert kept.startswith("mv -n ")
    assert kept.endswith("/bundle_app.py")
    assert put == "cp scripts/labeling/main.py $LABEL/apps/monaibundle/main.py"
    assert (ROOT / "scripts" / "labeling" / "main.py").is_file()


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """The page's server, with phantoms and a file that is no image as studies."""
    label = install_server(request.config.option.markexpr, tmp_path_factory.mktemp("label"))
    label.run(installation())
    label.run(installation())  # twice does no harm
    for number in TRAINED:
        Image.fromarray(draw(number)[0]).save(label.root / "studies" / f"gray_{number:02d}.png")
    (label.root / "studies" / "aa_broken.png").write_bytes(b"no image")
    with serving(label) as server:
        yield server


def scores(server) -> dict:
    """What the file of the scores holds."""
    (path,) = (server.label.model / "logs" / "labeling").glob("scores_*.json")
    return json.loads(path.read_text())


def wait_for_scores(server, former: str = "") -> dict:
    """The scores of another student than the former one, once all are there."""
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if list((server.label.model / "logs" / "labeling").glob("scores_*.json")):
            found = scores(server)
            if found["student"] != former and len(found["unreadable"]) == 1:
                return found
        time.sleep(1)
    raise AssertionError(f"no scores after 300 s:\n{server.text()[-4000:]}")


def offer(server) -> dict:
    return server.session("next_sample", STRATEGY, {})


@pytest.mark.monai_label
def test_strategy_offers_the_least_sure_image_before_and_after_a_training(server):
    info = server.session("info")
    assert set(info["strategies"]) == {"random", "first", STRATEGY}
    assert set(info["scoring"]) == {STRATEGY}
    assert MODEL in info["models"]
    assert server.says(f"Adding Strategy and Scoring Method:: {STRATEGY}")

    known = wait_for_scores(server)  # the server scores of its own accord
    assert set(known["unreadable"]) == {"aa_broken"}
    assert len(known["sure"]) == len(TRAINED)
    order = sorted(known["sure"], key=known["sure"].get)
    offered = [offer(server) for _ in range(3)]
    assert [one["id"] for one in offered] == order[:3]  # none twice
    assert offered[0]["sureness"] == known["sure"][order[0]]

    for number in TRAINED[:4]:
        path = server.label.root / f"{number}.png"
        write_label(path, outline(number), None)
        server.session("save_label", f"gray_{number:02d}", str(path), "final", {})
    assert server.session.train(max_epochs=2, val_split=0.25)["status"] == "DONE"
    anew = wait_for_scores(server, known["student"])  # after the training, of its own accord too
    unlabeled = {f"gray_{number:02d}" for number in TRAINED[4:]}
    assert set(anew["sure"]) == unlabeled
    left = sorted(unlabeled - {one["id"] for one in offered}, key=anew["sure"].get)
    assert offer(server)["id"] == left[0]

    for number in TRAINED[4:]:
        path = server.label.root / f"{number}.png"
        write_label(path, outline(number), None)
        server.session("save_label", f"gray_{number:02d}", str(path), "final", {})
    assert not offer(server)
    assert server.says("1 images cannot be segmented, and are not offered")
