"""A headless Chromium, steered through its debugging pipe: no driver and no other package is needed."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
SILENCE = 60
# Chromium reads from descriptor 3 and writes to 4; the ends are moved away first, as they may have these numbers.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Everything that a reader sees, shadow trees included: TensorBoard's dashboards live in them.
SEEN = """
(() => {
  const texts = [], charts = [];
  const visit = (node) => {
    if (node.nodeType === Node.TEXT_NODE && node.textContent.trim()) texts.push(node.textContent.trim());
    if (["svg", "canvas"].includes(node.localName)) {
      const box = node.getBoundingClientRect();
      if (box.width > 100 && box.height > 60) charts.push(node.querySelectorAll("path, rect, line").length);
    }
    if (["style", "script"].includes(node.localName)) return;
    if (node.shadowRoot) node.shadowRoot.childNodes.forEach(visit);
    node.childNodes.forEach(visit);
  };
  if (document.body) visit(document.body);
  return JSON.stringify({texts, charts});
})()
"""


def find() -> str | None:
    """The path of a Chromium on this machine; `CHROMIUM` names one where it is not on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, program: str, profile: Path, size: tuple[int, int] = (1400, 1000)):
        to_child, self._commands = os.pipe()
        self._answers, from_child = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
        options += [f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(to_child), str(from_child), program, *options],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._buffer, self._number, self._session = b"", 0, None
        target = self._command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def _command(self, method: str, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                if not select.select([self._answers], [], [], SILENCE)[0]:
                    raise TimeoutError(f"Chromium said nothing for {SILENCE} s after {method}")
                part = os.read(self._answers, 1 << 20)
                if not part:
                    raise RuntimeError(f"Chromium ended with status {self._process.wait()} at {method}")
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url: str) -> None:
        self._command("Page.navigate", url="about:blank")
        self._command("Page.navigate", url=url)

    def seen(self) -> dict:
        """The texts on the page, and for each chart how many shapes it has."""
        # While one page gives way to the next there is nothing to see.
        found = self._command("Runtime.evaluate", expression=SEEN)["result"].get("value")
        return json.loads(found) if found else {"texts": [], "charts": []}

    def wait_for(self, holds, seconds: float = 60) -> dict:
        """What is seen once `holds(seen)` does."""
        end = time.monotonic() + seconds
        while True:
            seen = self.seen()
            if holds(seen) or time.monotonic() > end:
                return seen
            time.sleep(0.25)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._command("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        os.close(self._commands)
        os.close(self._answers)
