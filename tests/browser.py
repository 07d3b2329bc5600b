"""A headless Chromium over its debugging pipe, for the tests that look at a page."""

import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time

import pytest

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome")
                if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(BROWSER is None or os.name == "nt",
                                   reason="no headless Chromium is installed")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--window-size=1200,800", "--remote-debugging-pipe"]


class Browser:
    """Just enough of the DevTools protocol: JSON messages that end with a zero byte."""

    def __init__(self, profile):
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()

        def connect():                      # Chromium reads descriptor 3 and writes descriptor 4
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (commands, answers)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [BROWSER, *FLAGS, f"--user-data-dir={profile}", "about:blank"], close_fds=False,
            preexec_fn=connect, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self._buffer, self._ids, self.events = b"", itertools.count(1), []
        self.session = None
        target = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in target if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _message(self):
        until = time.monotonic() + 30
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            assert ready, "the browser did not answer within half a minute"
            self._buffer += os.read(self._read, 1 << 20)
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, path, ready="true"):
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait(f"document.readyState === 'complete' && {ready}")

    def run(self, expression):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                          awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression):
        until = time.monotonic() + 30
        while not self.run(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.02)

    def key(self, key, code=0):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **({"text": key} if kind == "keyDown" and len(key) == 1 else {}))

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def center(self, element):
        box = self.run(f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
                       f"(document.getElementById('{element}').getBoundingClientRect())")
        return box

    def click(self, element):
        x, y = self.center(element)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def complaints(self):
        return [e for e in self.events if e.get("method") in (
            "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")]

    def requests(self):
        return [e["params"]["request"]["url"] for e in self.events
                if e.get("method") == "Network.requestWillBeSent"]

    def close(self):
        with contextlib.suppress(OSError):
            os.close(self._write)
        self.process.terminate()
        self.process.wait(20)
        os.close(self._read)
