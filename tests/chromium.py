"""A headless Chromium that tests drive through the two pipes of its DevTools protocol; it needs no further package."""

from __future__ import annotations

import base64
import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import Any

FLAGS = (
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
PATIENCE = 240  # seconds for one answer
CHROMIUM = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)


class PageError(AssertionError):
    """A script failed in the page."""


class Page:
    """One tab.

    requests: addresses that it or its workers asked for, without blob: and data:. errors: what its console says.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._buffer, self._number = send, receive, b"", 0
        self._selector = selectors.DefaultSelector()
        self._selector.register(receive, selectors.EVENT_READ)
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)
        self.session = attached["sessionId"]
        self._listen(self.session)
        self.call("Page.enable")

    def call(self, method: str, parameters: dict | None = None, session: str | None = "own") -> dict[str, Any]:
        """What a method of the protocol answers."""
        number = self._post(method, parameters, self.session if session == "own" else session)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for message in list(self._messages(end - time.monotonic())):  # all of them are heard
                if message.get("id") == number:
                    if "error" in message:
                        raise PageError(f"{method}: {message['error']['message']}")
                    return message["result"]
        raise TimeoutError(f"{method} gave no answer within {PATIENCE} s")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        wanted = {"expression": script, "awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", wanted)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        self.call("Page.navigate", {"url": address})

    def wait(self, condition: str, seconds: float = 120) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not come true within {seconds} s; {self.errors}")
            time.sleep(0.1)

    def choose(self, selector: str, paths: Sequence[Path]) -> None:
        """Give files to an <input type="file">."""
        node = self.call("Runtime.evaluate", {"expression": f"document.querySelector({selector!r})"})
        handle = node["result"]["objectId"]
        self.call("DOM.setFileInputFiles", {"files": [str(path) for path in paths], "objectId": handle})

    def press(self, key: str, **options: Any) -> None:
        """Press and release a key by its name in the DOM."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            code = {"windowsVirtualKeyCode": 13} if key == "Enter" else {}
            self.call("Input.dispatchKeyEvent", {"type": kind, "key": key, **code, **text, **options})

    def drag(self, points: Sequence[tuple[float, float]], kind: str = "mouse") -> None:
        """Press at the first point, move over the others, release at the last."""
        for number, (x, y) in enumerate([*points, points[-1]]):
            step = "mousePressed" if number == 0 else "mouseReleased" if number == len(points) else "mouseMoved"
            options = {"button": "left", "buttons": int(step != "mouseReleased"), "clickCount": 1, "pointerType": kind}
            self.call("Input.dispatchMouseEvent", {"type": step, "x": x, "y": y, **options})

    def screenshot(self, path: Path, width: int, height: int, dark: bool = False) -> None:
        self.look(width, height, dark)
        picture = self.call("Page.captureScreenshot", {"format": "png"})["data"]
        path.write_bytes(base64.b64decode(picture))

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window and the color scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", size)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", {"features": scheme})
        time.sleep(0.3)

    def _listen(self, session: str) -> None:
        """Hear of requests and errors of a tab or worker, and of its own workers, from their first line on."""
        for method in ("Network.enable", "Runtime.enable", "Log.enable"):
            self._post(method, None, session)
        attach = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._post("Target.setAutoAttach", attach, session)
        self._post("Runtime.runIfWaitingForDebugger", None, session)

    def _post(self, method: str, parameters: dict | None, session: str | None) -> int:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        return self._number

    def _messages(self, seconds: float) -> Iterator[dict]:
        if not self._selector.select(max(0, seconds)):
            return
        part = os.read(self._receive, 1 << 20)
        if not part:
            raise PageError("Chromium has ended")
        *whole, self._buffer = (self._buffer + part).split(b"\0")
        for message in map(json.loads, whole):
            self._hear(message.get("method"), message.get("params", {}))
            yield message

    def _hear(self, method: str | None, about: dict) -> None:
        if method == "Target.attachedToTarget":
            self._listen(about["sessionId"])
        elif method == "Network.requestWillBeSent":
            address = about["request"]["url"]
            if not address.startswith(("blob:", "data:")):
                self.requests.append(address)
        elif method == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.errors.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in about["args"]))


@contextmanager
def open_page(folder: Path, *flags: str) -> Iterator[Page]:
    """A tab of a Chromium of its own, with its profile in a folder."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # the protocol is on the file descriptors 3 and 4
    command = 'exec 3<&"$0" 4>&"$1"; shift; exec "$@"'
    ends = to_browser[0], from_browser[1]
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            command,
            *map(str, ends),
            CHROMIUM,
            *FLAGS,
            "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}",
            *flags,
        ],
        pass_fds=ends,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in ends:
        os.close(end)
    try:
        yield Page(to_browser[1], from_browser[0])
    finally:
        process.terminate()
        process.wait(20)
        for end in (to_browser[1], from_browser[0]):
            os.close(end)
