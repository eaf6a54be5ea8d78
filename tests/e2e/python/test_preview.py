"""Live previews: ports of real sandboxes, opened in a real browser and by programs."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
import stacyvm

import browser as chromium
import conftest

SITE = (Path(__file__).parent / "site_in_sandbox.py").read_text()
PORT = 3000


def _providers():
    """Those of every machine, and Docker's two runtimes where the environment names an engine."""
    docker = pytest.mark.skipif(
        not os.environ.get("STACYVM_TEST_DOCKER"),
        reason="STACYVM_TEST_DOCKER names no engine",
    )
    return [
        *conftest._providers(),
        pytest.param("docker-runc", marks=docker),
        pytest.param("docker-runsc", marks=docker),
    ]


@pytest.fixture(scope="module", params=_providers())
def server(request):
    name, _, runtime = request.param.partition("-")
    settings = ""
    if runtime:
        settings = (
            f"  docker:\n    socket: {os.environ['STACYVM_TEST_DOCKER']}\n"
            f"    runtime: {runtime}\n"
        )
    server = conftest.Server(name, providers=settings)
    server.image = os.environ.get("STACYVM_TEST_DOCKER_IMAGE") if runtime else "host"
    yield server
    server.close()


@pytest.fixture(scope="module")
def browser():
    program = chromium.find()
    if not program:
        pytest.skip("chromium is not installed")
    browser = chromium.Browser(program)
    yield browser
    browser.close()


@pytest.fixture
def page(browser):
    page = browser.page()
    yield page
    page.close()


def spawn(server, **options):
    """A sandbox without a network, with the site running in it."""
    body = {"image": server.image, **options}
    if server.provider != "mock":
        body["network"] = "none"
    made = httpx.post(f"{server.url}/api/v1/sandboxes", json=body, timeout=120)
    assert made.status_code == 201, made.text
    client = stacyvm.Client(server.url, timeout=120)
    sandbox = client.get(made.json()["id"])
    sandbox.write_file("/workspace/site.py", SITE)
    # A mock's ports are the machine's own, so each of its sandboxes takes a free one.
    port = PORT if server.provider != "mock" else 0
    sandbox.exec(f"python3 site.py {port} port >site.log 2>&1 &")
    listens = "until [ -s port ]; do sleep 0.05; done; cat port"
    sandbox.port = int(sandbox.exec(listens, timeout="60s").stdout)
    return sandbox


def link(server, sandbox, **options):
    url = f"{server.url}/api/v1/sandboxes/{sandbox.id}/preview"
    return httpx.post(url, json={"port": sandbox.port, **options}, timeout=60)


def preview(server, sandbox, path="/", headers=(), **options):
    """What a program gets that asks by the header."""
    named = {"X-StacyVM-Preview": f"{sandbox.port}-{sandbox.id}", **dict(headers)}
    return httpx.get(f"{server.url}{path}", headers=named, timeout=60, **options)


@pytest.fixture(scope="module")
def site(server):
    sandbox = spawn(server)
    yield sandbox
    sandbox.destroy()


@pytest.fixture(scope="module")
def private_site(server):
    sandbox = spawn(server, preview="private")
    yield sandbox
    sandbox.destroy()


def addresses(server, sandbox):
    by_path = f"{server.url}/preview/{sandbox.id}/{sandbox.port}/"
    return {"host": sandbox.get_preview_url(sandbox.port), "path": by_path}


@pytest.mark.parametrize("form", ["host", "path"])
def test_a_site_works_in_a_browser(server, site, page, form):
    page.goto(addresses(server, site)[form])
    page.until("window.checks")
    assert page.text() == "hello from inside"
    for name, expected in {
        "style": "rgb(1, 2, 3)",
        "picture": 17,
        "posted": "100000",
        "socket": "ping é",
        "events": "0,1,2",
        "download": 64 * 1024 * 1024,
    }.items():
        assert page.run(f"checks.{name}()") == expected, name
    # Behind the prefix of the path form the site sees the paths that it would see without.
    assert page.run("checks.data()") == "/data.json?x=%2F"


def test_a_private_link_opens_and_leaves_the_address_bar(server, private_site, page):
    bare = private_site.get_preview_url(private_site.port)
    page.goto(bare)
    assert "private" in page.text()
    answer = link(server, private_site, expires_in="1m")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    url = answer.json()["url"]
    page.goto(url)
    page.until("window.checks")
    assert page.text() == "hello from inside"
    token = url.split("stacyvm_token=")[1]
    assert page.address() == bare.rstrip("/") + "/"
    assert page.run("document.cookie") == ""
    assert page.run("document.referrer") == ""
    for name, expected in {"socket": "ping é", "events": "0,1,2", "posted": "100000"}.items():
        assert page.run(f"checks.{name}()") == expected, name
    # The cookie opens it from now on, and this browser alone.
    page.goto(bare)
    page.until("window.checks")
    other = page.browser.page()
    other.goto(bare)
    assert "private" in other.text()
    other.close()
    # Nothing of it went inside, and nothing of it is in the log.
    seen = preview(server, private_site, "/seen", {"X-StacyVM-Preview-Token": token}).text
    assert "/socket" in seen
    for secret in [token, "stacyvm-preview", "stacyvm_token", "preview-token"]:
        assert secret not in seen.lower(), secret
    assert token not in server.read_log()


def test_links_open_one_port_of_one_sandbox_for_a_while(server, site, private_site):
    answer = link(server, private_site).json()
    token = answer["url"].split("stacyvm_token=")[1]
    header = "X-StacyVM-Preview-Token"

    def status(sandbox, token, port=None):
        named = {"X-StacyVM-Preview": f"{port or sandbox.port}-{sandbox.id}", header: token}
        return httpx.get(f"{server.url}/empty", headers=named, timeout=60).status_code

    assert status(private_site, token) == 200
    version, key, expiry, signature = token.split(".")
    for forged in [
        f"{version}.{key}.{int(expiry) + 1}.{signature}",
        f"{version}.{key}.{expiry}.{signature[:-2]}AA",
        f"{version}.00000000.{expiry}.{signature}",
        "v1",
        "",
    ]:
        assert status(private_site, forged) == 403, forged
    other = spawn(server, preview="private")
    try:
        assert status(other, token) == 403
        assert status(private_site, token, port=3001) == 403
        # A public one needs none.
        bare = link(server, site).json()
        assert bare["url"] == site.get_preview_url(site.port) + "/"
        mine = link(server, other).json()["url"].split("stacyvm_token=")[1]
        assert status(other, mine) == 200
    finally:
        other.destroy()
    assert status(other, mine) == 404
    assert link(server, other).status_code == 404
    # By its address a program gets in at once, without keeping a cookie.
    host = {"Host": f"{private_site.port}-{private_site.id}.localhost:{server.port}"}
    there = httpx.get(f"{server.url}/data.json?a=1&stacyvm_token={token}&b=2", headers=host)
    assert there.json() == {"path": "/data.json?a=1&b=2"}


def test_what_a_link_may_ask_for(server, site):
    url = f"{server.url}/api/v1/sandboxes/{site.id}/preview"
    for body, status in [
        ({"port": 0}, 400),
        ({"port": 65536}, 400),
        ({"port": -1}, 400),
        ({"port": "x"}, 400),
        ({}, 400),
        ({"port": 80, "expires_in": "1d"}, 400),
        ({"port": 80, "expires_in": "0s"}, 400),
        ({"port": 80, "expires_in": "-1h"}, 400),
        ({"port": 80, "expires_in": "169h"}, 429),
        ({"port": 80, "expires_in": "168h"}, 200),
    ]:
        answer = httpx.post(url, json=body, timeout=60)
        assert answer.status_code == status, (body, answer.text)
    bad = httpx.post(f"{server.url}/api/v1/sandboxes", json={"preview": "open"}, timeout=60)
    assert bad.status_code == 400 and "preview" in bad.json()["message"], bad.text


def test_a_hostile_preview_cannot_drive_the_api(server, site, private_site, page):
    api = f"http://localhost:{server.port}/api/v1"
    sandboxes = len(httpx.get(f"{server.url}/api/v1/sandboxes").json())
    entered = page.browser.page()
    entered.goto(link(server, private_site).json()["url"])
    entered.close()
    for form, address in addresses(server, site).items():
        page.goto(f"{address.rstrip('/')}/empty")
        reads = f"fetch('{api}/sandboxes').then((a) => a.status, () => 'refused')"
        assert page.run(reads) == "refused", form
        # It is sent without being asked for leave, and must be refused all the same.
        spawns = (
            f"fetch('{api}/sandboxes', {{method: 'POST', mode: 'no-cors', body: '{{}}'}})"
            ".then((a) => a.type, () => 'refused')"
        )
        page.run(spawns)
        removes = (
            f"fetch('{api}/sandboxes/{site.id}', {{method: 'DELETE'}})"
            ".then((a) => a.status, () => 'refused')"
        )
        assert page.run(removes) == "refused", form
        socket = f"ws://localhost:{server.port}/api/v1/sandboxes/{site.id}/exec/ws"
        opens = (
            f"new Promise((done) => {{ const s = new WebSocket('{socket}');"
            "s.onopen = () => done('open'); s.onerror = () => done('refused') })"
        )
        assert page.run(opens) == "refused", form
    assert len(httpx.get(f"{server.url}/api/v1/sandboxes").json()) == sandboxes
    # Its own name leads to the sandbox, whatever the path.
    own = site.get_preview_url(site.port) + "/api/v1/sandboxes"
    page.goto(own)
    assert page.text() == "nothing here"


def test_previews_share_no_cookies(server, site, private_site, page):
    page.goto(site.get_preview_url(site.port) + "/cookies")
    page.goto(site.get_preview_url(site.port) + "/empty")
    assert sorted(page.run("document.cookie").split("; ")) == ["own=1", "wide=1"]
    # Neither the API's host nor another sandbox gets any of them.
    page.run("document.cookie = 'forced=1; domain=localhost; path=/'")
    page.goto(f"http://localhost:{server.port}/docs")
    assert page.run("document.cookie") == ""
    page.goto(link(server, private_site).json()["url"])
    page.until("window.checks")
    assert page.run("document.cookie") == ""


def test_a_page_of_another_sandbox_cannot_use_the_cookie(server, site, private_site, page):
    url = link(server, private_site).json()["url"]
    token = url.split("stacyvm_token=")[1]
    page.goto(url)
    page.until("window.checks")
    page.goto(site.get_preview_url(site.port) + "/empty")
    target = private_site.get_preview_url(private_site.port) + "/stolen"
    sends = (
        f"fetch('{target}', {{method: 'POST', mode: 'no-cors', credentials: 'include',"
        "body: 'from another sandbox'}).then(() => 'sent', () => 'refused')"
    )
    page.run(sends)
    header = {"X-StacyVM-Preview-Token": token}
    lines = [one["line"] for one in preview(server, private_site, "/seen", header).json()]
    assert not [line for line in lines if "/stolen" in line], lines


def test_people_are_told_what_is_wrong(server, private_site, page, tmp_path):
    gone = spawn(server)
    gone.destroy()
    shown = {
        "gone": gone.get_preview_url(PORT),
        "private": private_site.get_preview_url(private_site.port),
    }
    keep = Path(os.environ.get("STACYVM_TEST_SCREENSHOTS", tmp_path))
    for name, url in shown.items():
        page.goto(url)
        assert page.text(), name
        page.screenshot(keep / f"{server.provider}-{name}.png")


def test_a_restart_keeps_links(browser):
    server = conftest.Server("native" if os.geteuid() == 0 else "mock")
    try:
        server.image = "host"
        sandbox = spawn(server, preview="private")
        url = link(server, sandbox).json()["url"]
        key = server.directory / "data" / "preview" / "link.key"
        assert key.stat().st_mode & 0o777 == 0o600
        server.restart()
        page = browser.page()
        page.goto(url)
        page.until("window.checks")
        page.close()
    finally:
        server.close()


def test_with_a_key_previews_are_private(locked_server):
    server = locked_server
    headers = {"X-API-Key": server.api_key}
    with httpx.Client(base_url=f"{server.url}/api/v1", headers=headers, timeout=60) as api:
        kinds = {}
        for said in [None, "public"]:
            body = {"image": "host"} if said is None else {"image": "host", "preview": said}
            sandbox = api.post("/sandboxes", json=body).json()
            assert sandbox.get("preview") == said
            named = {"X-StacyVM-Preview": f"9-{sandbox['id']}"}
            kinds[said] = httpx.get(server.url, headers=named, timeout=60).status_code
            # A request without the key gets no link.
            path = f"{server.url}/api/v1/sandboxes/{sandbox['id']}/preview"
            assert httpx.post(path, json={"port": 9}).status_code == 401
            assert ("stacyvm_token" in api.post(f"/sandboxes/{sandbox['id']}/preview", json={"port": 9}).json()["url"]) == (said is None)
            api.delete(f"/sandboxes/{sandbox['id']}")
        # Nothing listens there, which is for those to know who may come in.
        assert kinds == {None: 404, "public": 503}


def test_the_command_prints_what_opens(server, private_site):
    cli = [os.environ["STACYVM_BIN"], "--server", server.url, "preview"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(server.directory)}

    def run(*arguments):
        return subprocess.run(
            [*cli, *arguments], env=environment, capture_output=True, text=True, timeout=60
        )

    port = str(private_site.port)
    printed = run("url", private_site.id, port, "--expires-in", "10m")
    assert printed.returncode == 0, printed.stderr
    url = printed.stdout.strip()
    assert re.fullmatch(rf"http://{port}-{private_site.id}\.localhost:\d+/\?stacyvm_token=\S+", url)
    token = url.split("stacyvm_token=")[1]
    assert preview(server, private_site, "/empty", {"X-StacyVM-Preview-Token": token}).is_success
    wrong = run("url", private_site.id, port, "--expires-in", "1000h")
    assert wrong.returncode == 1 and "longest allowed" in wrong.stderr
    wrong = run("url", private_site.id, "0")
    assert wrong.returncode == 2
    data = {"STACYVM_SERVER_DATA_DIR": str(server.directory / "other")}
    environment.update(data)
    missing = run("ca", "show")
    assert missing.returncode == 1
    assert 'hint: make it with "stacyvm preview ca install"' in missing.stderr


@pytest.fixture(scope="module")
def secure_server():
    """One with a certificate of the development authority."""
    server = conftest.Server("mock", extra="preview:\n  tls:\n    development: true\n")
    server.image = "host"
    yield server
    server.close()


def test_a_private_site_works_over_tls(secure_server, page):
    sandbox = spawn(secure_server, preview="private")
    # The browser's profile trusts only the system's authorities; other tests check this authority.
    page.call("Security.setIgnoreCertificateErrors", ignore=True)
    page.goto(link(secure_server, sandbox).json()["url"])
    page.until("window.checks")
    assert page.address() == f"https://{sandbox.port}-{sandbox.id}.localhost:{secure_server.port}/"
    protocol = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
    assert page.run(protocol) == "h2"
    for name, expected in {
        "style": "rgb(1, 2, 3)",
        "posted": "100000",
        "socket": "ping é",
        "events": "0,1,2",
        "download": 64 * 1024 * 1024,
    }.items():
        assert page.run(f"checks.{name}()") == expected, name
    sandbox.destroy()


def test_this_machine_can_be_made_to_trust_the_authority(secure_server, tmp_path):
    if os.geteuid() != 0 or not shutil.which("update-ca-certificates"):
        pytest.skip("needs root and Debian's store of authorities")
    # In a file system of its own: the machine that tests run on trusts no new authority.
    (tmp_path / "ssl").mkdir()
    script = f"""set -e
mount -t tmpfs none /usr/local/share/ca-certificates
cp -a /etc/ssl/. {tmp_path}/ssl
mount --bind {tmp_path}/ssl /etc/ssl
"$STACYVM_BIN" --config {secure_server.config} preview ca install >&2
exec python3 - <<'END'
import socket, ssl
context = ssl.create_default_context(cafile="/etc/ssl/certs/ca-certificates.crt")
with socket.create_connection(("127.0.0.1", {secure_server.port}), timeout=60) as plain:
    with context.wrap_socket(plain, server_hostname="3000-sb-00000000.localhost") as secure:
        print("trusted", secure.version())
END
"""
    ran = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env={**secure_server.environment, "STACYVM_BIN": os.environ["STACYVM_BIN"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout == "trusted TLSv1.3\n", ran.stdout + ran.stderr
    assert "preview.tls.development" in ran.stderr
    shown = subprocess.run(
        [os.environ["STACYVM_BIN"], "--config", str(secure_server.config), "preview", "ca", "show"],
        env=secure_server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "BEGIN CERTIFICATE" in shown.stdout and "security add-trusted-cert" in shown.stdout


def test_the_development_authority_serves_tls_beside_plain_http(secure_server):
    server = secure_server
    sandbox = spawn(server, preview="private")
    try:
        url = link(server, sandbox).json()["url"]
        assert url.startswith("https://"), url
        authority = server.directory / "data/preview/authority/localhost/authority.pem"
        context = ssl.create_default_context(cafile=authority)
        name = f"{sandbox.port}-{sandbox.id}.localhost"
        with socket.create_connection(("127.0.0.1", int(server.port)), timeout=60) as plain:
            with context.wrap_socket(plain, server_hostname=name) as secure:
                path = "/" + url.split("/", 3)[3]
                head = f"GET {path} HTTP/1.1\r\nHost: {name}:{server.port}\r\nAccept: text/html\r\n"
                secure.sendall(f"{head}Connection: close\r\n\r\n".encode())
                answer = b""
                while piece := secure.recv(65536):
                    answer += piece
        answer = answer.decode().lower()
        assert answer.startswith("http/1.1 303"), answer
        assert f"location: https://{name}:{server.port}/\r\n" in answer, answer
        cookie = re.search(r"set-cookie: (\S+?)=\S+; (.*)\r", answer)
        assert cookie.group(1) == "__host-stacyvm-preview", answer
        attributes = set(cookie.group(2).split("; "))
        assert {"path=/", "httponly", "samesite=lax", "secure"} < attributes
        # The same port still speaks plain HTTP.
        assert httpx.get(f"{server.url}/api/v1/live").status_code == 200
    finally:
        sandbox.destroy()
