"""A page in headless Chromium, driven through the pipe of its own debugging protocol."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1200,900", "--remote-debugging-pipe",
)  # fmt: skip

# Chromium reads commands from descriptor 3 and writes to 4; here they may have any number.
_START = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""


class Page:
    """One page; events of the protocol are kept as they come."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._rest, self._number = write, read, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session: dict[str, str] = {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for what it returns."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self, seconds: float = 60) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select([self._read], [], [], seconds)
            more = os.read(self._read, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("chromium does not answer")
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, address: str) -> None:
        """Go to an address and wait until the page's script has drawn."""
        self.send("Page.navigate", url="about:blank")  # for else an address in the same page would not load it anew
        self.send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && document.documentElement.classList.contains('drawn')")

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """Evaluate JavaScript and return its value; promises are waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """What reached the console, exceptions, and what the page's policy refused."""
        said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in said]

    def requests(self) -> list[str]:
        """Every address that was asked for."""
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """Run the browser with a profile of its own; it ends with the block."""
    assert PROGRAM is not None
    (theirs, write), (read, theirs_too) = os.pipe(), os.pipe()
    # Away from 3 and 4, which the launcher fills.
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 20) for one in (theirs, theirs_too)]
    program = [sys.executable, "-c", _START, *map(str, high), PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(program, pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for one in (theirs, theirs_too, *high):
        os.close(one)
    try:
        yield Page(write, read)
    finally:
        os.close(write)
        os.close(read)
        try:
            process.wait(5)  # it ends when its pipe does
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
