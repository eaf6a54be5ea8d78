"""Starts the real server and hands out the published client, unmodified."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx
import pytest
import stacyvm


def pytest_report_header():
    where = Path(stacyvm.__file__).parent
    return f"stacyvm client from {where.parent.name}, server {os.environ.get('STACYVM_BIN')}"


def pytest_runtest_logreport(report):
    """Notes a skip where `cargo xtask test` counts it, in the form of `stacyvm_testing::skip`."""
    notes = os.environ.get("STACYVM_SKIPPED_TESTS")
    if notes and report.skipped and isinstance(report.longrepr, tuple):
        reason = " ".join(report.longrepr[2].removeprefix("Skipped: ").split())
        with open(notes, "a") as file:
            file.write(f"SKIP {report.nodeid}: {reason}\n")


class Server:
    """One `stacyvm serve` with a directory of its own."""

    def __init__(self, provider, api_key=None, providers="", extra=""):
        self.provider = provider
        self.directory = Path(tempfile.mkdtemp(prefix="stacyvm-e2e-"))
        self.api_key = api_key
        key = f"auth:\n  enabled: true\n  api_key: {api_key}\n" if api_key else ""
        config = self.directory / "stacyvm.yaml"
        config.write_text(
            f"server:\n  host: 127.0.0.1\n  port: 0\n"
            f"  data_dir: {self.directory / 'data'}\n"
            f"providers:\n  default: {provider}\n{providers}{key}{extra}"
        )
        self.environment = environment = {
            name: value for name, value in os.environ.items() if not name.startswith("STACYVM_")
        }
        environment["HOME"] = str(self.directory)
        # The host's own network is no test's affair.
        environment["STACYVM_PROVIDERS_NATIVE_NETWORK"] = "none"
        # No test asks a registry out there for an image that is not here.
        environment["STACYVM_IMAGES_PULL"] = "never"
        self.config = config
        self.log = open(self.directory / "server.log", "wb")
        self._start("serve")

    def _start(self, *arguments):
        self.process = subprocess.Popen(
            [os.environ["STACYVM_BIN"], "--config", str(self.config), *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self._wait_until_ready()

    def restart(self):
        """Ends the server and starts it again, on the same port."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()
        self.log = open(self.directory / "server.log", "wb")
        self._start("serve", "--port", self.port)

    def _wait_until_ready(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.read_log()
            listens = re.search(r"listens on (http://127\.0\.0\.1:(\d+)) ", self.read_log())
            if not listens:
                time.sleep(0.01)
                continue
            self.url, self.port = listens.groups()
            try:
                if httpx.get(f"{self.url}/api/v1/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.01)
        raise AssertionError("the server is not ready:\n" + self.read_log())

    def read_log(self):
        return (self.directory / "server.log").read_text(errors="replace")

    def close(self):
        headers = {"X-API-Key": self.api_key} if self.api_key else {}
        try:
            with httpx.Client(base_url=self.url, headers=headers, timeout=30) as http:
                for sandbox in http.get("/api/v1/sandboxes").json():
                    http.delete(f"/api/v1/sandboxes/{sandbox['id']}")
        finally:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.log.close()
            shutil.rmtree(self.directory, ignore_errors=True)


def _providers():
    root = os.geteuid() == 0
    native = pytest.param(
        "native",
        marks=[] if root else pytest.mark.skip(reason="needs root"),
    )
    return [native, "mock"]


@pytest.fixture(scope="session", params=_providers())
def server(request):
    server = Server(request.param)
    yield server
    server.close()


@pytest.fixture(scope="session")
def locked_server():
    """A server that wants a key."""
    server = Server("mock", api_key="k-1f2e3d")
    yield server
    server.close()


@pytest.fixture
def client(server):
    with stacyvm.Client(server.url) as client:
        yield client


@pytest.fixture
def image(server):
    """What a user would name on this provider."""
    return "host"


@pytest.fixture
def sandbox(client, image):
    with client.spawn(image=image) as sandbox:
        yield sandbox
