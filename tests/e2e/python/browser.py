"""A real Chromium without a window, driven over its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

DEADLINE = 60


def find():
    """Where a Chromium is; None when there is none."""
    names = ["chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One Chromium with a profile of its own. It reaches this machine and nothing else."""

    def __init__(self, program):
        self.directory = Path(tempfile.mkdtemp(prefix="stacyvm-browser-"))
        self.log = open(self.directory / "log", "wb")
        self.process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",  # root needs it; it opens pages of these tests only
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-default-apps",
                "--disable-sync",
                "--no-first-run",
                "--no-proxy-server",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, "
                "EXCLUDE *.localhost, EXCLUDE 127.0.0.1",
                "--remote-debugging-port=0",
                f"--user-data-dir={self.directory / 'profile'}",
                "about:blank",
            ],
            # What it leaves behind it leaves in there.
            env={**os.environ, "HOME": str(self.directory), "TMPDIR": str(self.directory)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        try:
            self.connection = connect(self._address(), max_size=None, compression=None)
        except BaseException:
            self._end()
            raise
        self.ids = itertools.count(1)

    def _address(self):
        file = self.directory / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            lines = file.read_text().split("\n") if file.exists() else []
            if len(lines) >= 2 and lines[1]:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            time.sleep(0.02)
        raise AssertionError("the browser does not start")

    def call(self, method, session=None, **params):
        """Calls a method of the protocol and gives back what it answers."""
        number = next(self.ids)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        self.connection.send(json.dumps(message))
        deadline = time.monotonic() + DEADLINE
        while True:
            answer = json.loads(self.connection.recv(timeout=deadline - time.monotonic()))
            if answer.get("id") != number:
                continue  # an event, or the answer to a call that was given up
            assert "error" not in answer, (method, answer["error"])
            return answer["result"]

    def page(self):
        """A new page, with cookies and storage of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        return Page(self, context)

    def close(self):
        self.connection.close()
        self._end()

    def _end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Page:
    def __init__(self, browser, context):
        self.browser = browser
        self.context = context
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)
        self.target = target["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)
        self.session = attached["sessionId"]
        self.call("Page.enable")

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def goto(self, url):
        """Opens an address and waits until the page is there. What is shown may be an error."""
        went = self.call("Page.navigate", url=url)
        assert not went.get("errorText"), (url, went["errorText"])
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script):
        """What an expression comes to, also when it takes its time; a failure is a failure."""
        answer = self.call(
            "Runtime.evaluate",
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def until(self, condition):
        """Waits until an expression is true. A page that changes meanwhile is asked again."""
        deadline = time.monotonic() + DEADLINE
        last = None
        while time.monotonic() < deadline:
            try:
                if self.run(f"Boolean({condition})"):
                    return
            except AssertionError as error:
                last = error
            time.sleep(0.02)
        raise AssertionError(f"never true: {condition} ({last}), at {self.run('location.href')}")

    def address(self):
        return self.run("location.href")

    def text(self):
        return self.run("document.body.innerText")

    def screenshot(self, path):
        image = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(image))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
        self.browser.call("Target.disposeBrowserContext", browserContextId=self.context)
