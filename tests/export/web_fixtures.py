"""The page in a headless Chromium, for tests: opened from its file."""

import pytest
from chromium import open_page
from web_parts import ENGINE, random_student, write_folder

from scripts.export.names import PAGE


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="exports need the extra export")
    return write_folder(random_student(), tmp_path_factory.mktemp("page"), ["lesion"])


@pytest.fixture(scope="session")
def browser(folder, tmp_path_factory):
    """The page, opened from its file, when its student has started."""
    with open_page(tmp_path_factory.mktemp("browser")) as page:
        page.look(1280, 800)
        page.open((folder / PAGE).as_uri())
        page.wait("globalThis.app")
        page.wait(ENGINE)
        yield page


@pytest.fixture
def page(browser):
    """The page without a file, which has asked for nothing and failed in nothing when the test ends."""
    browser.run("document.querySelectorAll('.cross').forEach(cross => cross.click())")
    browser.run("app.actions.move()")
    browser.run("scrollTo(0, 0)")
    yield browser
    assert [address for address in browser.requests if not address.endswith(PAGE)] == []
    assert browser.errors == []
