"""A headless Chromium that a test looks at a page with, through its debugging pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAM = shutil.which("chromium")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--mute-audio",
)
CUT_LABELS = """[...document.querySelectorAll('.panel > svg')].flatMap(svg => {
  const panel = svg.getBoundingClientRect();
  const labels = [...svg.querySelectorAll('text')]
    .map(e => [e.textContent, e.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0);
  const isCut = ([, box]) => box.left < panel.left - 1 || box.right > panel.right + 1
    || box.top < panel.top - 1 || box.bottom > panel.bottom + 1;
  const meet = ([, a], [, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  const pairs = labels.flatMap((one, i) => labels.slice(i + 1).filter(other => meet(one, other))
    .map(other => [one[0], other[0]]));
  return [...labels.filter(isCut).map(([label]) => [label]), ...pairs];
})"""


class Chromium:
    """One page of one browser; what its console says goes into `console`."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        self.console: list[str] = []
        self._numbers = itertools.count(1)
        self._left = b""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium reads commands from descriptor 3 and writes to 4.
        command = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        arguments = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, PROGRAM, *arguments],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def send(self, method: str, **parameters: Any) -> Any:
        """A command to the page."""
        return self._send(method, self._session, **parameters)

    def open(
        self,
        url: str,
        *,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        media: str = "",
    ) -> None:
        """Go to a page that is as wide, in dark or light; media "print": as on paper."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme], media=media)
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, code: str) -> Any:
        """The value of an expression on the page."""
        done = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        """What is read in each element."""
        found: list[str] = self.run(
            f"[...document.querySelectorAll({selector!r})].map(e => e.innerText.trim())"
        )
        return found

    def cut_labels(self) -> list[list[str]]:
        """Labels of charts that leave their panel, and pairs of labels that cover each other."""
        found: list[list[str]] = self.run(CUT_LABELS)
        return found

    def until(self, code: str) -> None:
        """Wait until an expression is true."""
        for _ in range(600):
            if self.run(f"Boolean({code})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"{code}: not true; console: {self.console}")

    def press(self, key: str, *, ctrl: bool = False, text: str = "") -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37}
        shared = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0), "modifiers": 2 * ctrl}
        self.send(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **shared
        )
        self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text: str) -> None:
        """Type a text where the focus is."""
        self.send("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        taken = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _send(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._read, 1 << 16)
            assert part, "Chromium ended"
            self._left += part
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(parameters["args"]))
        elif event["method"] == "Log.entryAdded":
            self.console.append(parameters["entry"]["text"])
