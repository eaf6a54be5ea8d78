"""The description that the server gives of itself must be true: schemathesis calls every route
with what the description allows and with what it does not, and looks at every answer.

All of it goes to a server of our own on loopback, with the mock provider.
"""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from conftest import Server

# What every answer is held against. Not among them is that all valid input is accepted: a text may
# have the right type and still be no duration, no path that is there, no image of the provider.
CHECKS = ",".join(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    ]
)

# Long-lived streams end when their client goes, not when a test case does: none of these may be
# asked for by a tool that waits for the end of every answer. They have tests of their own.
STREAMS = r"(/events|/exec/ws|/attach)$"

# These end or shorten the life of the sandbox that all others need, so they come last.
ENDINGS = ["sandboxes_destroy", "sandboxes_extend"]


def check(server, sandbox, directory, *selection, examples=30, checks=CHECKS):
    """Fails when one answer is not as the description says."""
    config = directory / "schemathesis.toml"
    hooks = Path(__file__).with_name("schemathesis_hooks.py")
    config.write_text(f'hooks = "{hooks}"\n[parameters]\n"path.id" = "{sandbox}"\n')
    command = [
        str(Path(sys.executable).parent / "st"),
        *["--config-file", str(config), "run", f"{server.url}/openapi.json"],
        *["--url", server.url, "--checks", checks],
        *["--phases", "examples,coverage,fuzzing"],
        *["--max-examples", str(examples), "--generation-deterministic"],
        *["--no-shrink", "--suppress-health-check", "all"],
        *["--request-timeout", "30", "--continue-on-failure", "--warnings", "off", "--no-color"],
        *["--exclude-path-regex", STREAMS, *selection],
    ]
    if server.api_key:
        command += ["--header", f"X-API-Key: {server.api_key}"]
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-2_000:]


def spawn(server):
    headers = {"X-API-Key": server.api_key} if server.api_key else {}
    answer = httpx.post(f"{server.url}/api/v1/sandboxes", headers=headers, json={"ttl": "1h"})
    return answer.json()["id"]


@pytest.fixture
def own_server():
    server = Server("mock")
    yield server
    server.close()


@pytest.fixture
def own_locked_server():
    server = Server("mock", api_key="k-1f2e3d")
    yield server
    server.close()


def test_the_answers_are_those_that_are_described(own_server, tmp_path):
    sandbox = spawn(own_server)
    others = [word for name in ENDINGS for word in ("--exclude-operation-id", name)]
    check(own_server, sandbox, tmp_path, *others)
    ends = [word for name in ENDINGS for word in ("--include-operation-id", name)]
    check(own_server, sandbox, tmp_path, *ends)


def test_the_key_is_asked_for_where_the_description_says(own_locked_server, tmp_path):
    sandbox = spawn(own_locked_server)
    others = [word for name in ENDINGS for word in ("--exclude-operation-id", name)]
    checks = f"{CHECKS},ignored_auth"
    check(own_locked_server, sandbox, tmp_path, *others, examples=3, checks=checks)


def test_the_checked_in_description_is_the_served_one(own_server):
    checked_in = Path(__file__).parents[3] / "openapi/stacyvm.json"
    served = httpx.get(f"{own_server.url}/openapi.json").json()
    assert served == json.loads(checked_in.read_text())
