"""Types the commands of the README's tour, so that they work as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "README.md"


def blocks():
    """The shell blocks of the tour, but the one that starts the server."""
    tour = README.read_text().split("## A short tour")[1].split("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```", tour, re.MULTILINE | re.DOTALL)
    assert any("serve" in block for block in found)
    return [block for block in found if "stacyvm serve" not in block]


@pytest.mark.skipif(os.geteuid() != 0, reason="the tour is written for root")
@pytest.mark.parametrize("server", ["native"], indirect=True)
def test_the_tour(server, tmp_path):
    script = "set -eu\n" + "".join(blocks())
    here = {
        "target/stacyvm": os.environ["STACYVM_BIN"],
        "localhost:7423": f"127.0.0.1:{server.port}",
        # The client is installed already, in the environment that runs this test.
        "python3 -m venv /tmp/stacyvm-tour && /tmp/stacyvm-tour/bin/pip install stacyvm": "",
        "/tmp/stacyvm-tour/bin/python": sys.executable,
    }
    for text, replacement in here.items():
        assert text in script, text
        script = script.replace(text, replacement)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STACYVM_")}
    environment["STACYVM_SERVER"] = server.url
    # For the sandbox without a server.
    environment["STACYVM_PROVIDERS_NATIVE_NETWORK"] = "none"
    environment["STACYVM_IMAGES_PULL"] = "never"
    finished = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = finished.stdout + finished.stderr
    assert finished.returncode == 0, said
    for expected in ("spawned (provider: native, image: host)", "5050", "1\n2\n3\n", "step 3", "destroyed"):
        assert expected in said, said
    assert (tmp_path / "note").read_text() == "some text\n"
    assert 'hello{"status":"destroyed"}' in finished.stdout, said
    _, preview = finished.stdout.split("in a browser, or:")
    assert re.fullmatch(r"\s*hello\s+Sandbox sb-[0-9a-f]{8} destroyed\s*", preview), said
