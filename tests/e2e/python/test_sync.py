"""The published client, synchronous, against both providers."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from stacyvm import Client, ProviderError, SandboxNotFound, StacyVMError


def moment(text):
    assert text.endswith("Z"), text
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00"))


def test_spawn_says_what_it_made(client, server, image):
    sandbox = client.spawn(
        image=image, memory_mb=512, vcpus=1, ttl="10m", metadata={"purpose": "test"}
    )
    try:
        assert re.fullmatch(r"sb-[0-9a-f]{8}", sandbox.id)
        assert sandbox.state == "running"
        assert sandbox.provider == server.provider
        assert sandbox.image == image
        listed = {info.id: info for info in client.list()}
        info = listed[sandbox.id]
        assert info.memory_mb == 512
        assert info.metadata == {"purpose": "test"}
        life = moment(info.expires_at) - moment(info.created_at)
        assert timedelta(minutes=9) < life <= timedelta(minutes=11)
        assert sandbox.get_preview_url(3000).startswith(f"http://3000-{sandbox.id}.")
    finally:
        sandbox.destroy()


def test_get_finds_it_again(client, sandbox):
    again = client.get(sandbox.id)
    assert again.id == sandbox.id
    assert again.exec("echo found").stdout == "found\n"


def test_destroy_is_final_and_may_be_repeated(client, image):
    sandbox = client.spawn(image=image)
    sandbox.destroy()
    sandbox.destroy()
    assert sandbox.id not in [info.id for info in client.list()]
    with pytest.raises(SandboxNotFound):
        client.get(sandbox.id)
    with pytest.raises(SandboxNotFound):
        sandbox.exec("true")


def test_a_context_manager_destroys(client, image):
    with client.spawn(image=image) as sandbox:
        assert sandbox.exec("true").exit_code == 0
    with pytest.raises(SandboxNotFound):
        client.get(sandbox.id)


def test_extend_counts_from_now(sandbox):
    sandbox.extend_ttl("1h")
    left = moment(sandbox._info["expires_at"]) - datetime.now(timezone.utc)
    assert timedelta(minutes=58) < left < timedelta(minutes=62)
    sandbox.extend_ttl("5m")
    left = moment(sandbox._info["expires_at"]) - datetime.now(timezone.utc)
    assert timedelta(minutes=3) < left < timedelta(minutes=7)


def test_exec(sandbox):
    result = sandbox.exec("echo out; echo err >&2; exit 42")
    assert (result.exit_code, result.stdout, result.stderr) == (42, "out\n", "err\n")
    assert re.fullmatch(r"[0-9.]+(ns|µs|ms|s)|[0-9hms.]+", result.duration)


def test_exec_quotes_arguments_in_shell_mode(sandbox):
    words = ["a b", "$HOME", "it's", '"', "*", "", ";exit 9", "ü"]
    result = sandbox.exec("printf '[%s]'", args=words)
    assert result.stdout == "".join(f"[{word}]" for word in words)


def test_exec_argv_mode_has_no_shell(sandbox):
    result = sandbox.exec("printf", args=["%s|%s", "$HOME", "a b"], mode="argv")
    assert result.stdout == "$HOME|a b"
    missing = sandbox.exec("/no/such/program", mode="argv")
    assert missing.exit_code == 127
    assert missing.stderr


def test_exec_env_and_workdir(sandbox):
    assert sandbox.exec("pwd").stdout.endswith("/workspace\n")
    sandbox.exec("mkdir -p sub")
    result = sandbox.exec("basename $PWD; echo $COLOUR", env={"COLOUR": "dark blue"}, workdir="sub")
    assert result.stdout == "sub\ndark blue\n"
    with pytest.raises(StacyVMError) as error:
        sandbox.exec("true", workdir="/no/such/place")
    assert error.value.code == "BAD_REQUEST"


def test_exec_death_by_signal(sandbox):
    assert sandbox.exec("kill -TERM $$").exit_code == 128 + 15


def test_exec_timeout_is_an_error(sandbox):
    with pytest.raises(StacyVMError, match="^exec timeout:") as error:
        sandbox.exec("sleep 60", timeout="300ms")
    assert error.value.code == "TIMEOUT"
    assert sandbox.exec("echo alive").stdout == "alive\n"


def test_exec_runs_python(sandbox):
    result = sandbox.exec("python3", args=["-c", "print('hello from my own computer')"])
    assert result.stdout == "hello from my own computer\n"


def test_exec_output_that_is_no_text(sandbox):
    assert sandbox.exec(r"printf 'a\377b'").stdout == "a\ufffdb"


def test_exec_stream_is_a_stream(sandbox):
    # The command goes on only when a file appears that is written after its first words came.
    command = "echo first; while ! test -e go; do sleep 0.01; done; echo second; echo bad >&2; exit 3"
    chunks = sandbox.exec_stream(command)
    first = next(chunks)
    assert (first.stream, first.data) == ("stdout", "first\n")
    sandbox.write_file("go", "")
    rest = list(chunks)
    assert "".join(chunk.data for chunk in rest if chunk.stream == "stdout") == "second\n"
    assert "".join(chunk.data for chunk in rest if chunk.stream == "stderr") == "bad\n"
    assert (rest[-1].stream, rest[-1].data) == ("exit", "")


def test_exec_stream_never_splits_a_character(sandbox):
    chunks = list(sandbox.exec_stream("for i in $(seq 3000); do printf 'ääääää€€€𝄞'; done"))
    text = "".join(chunk.data for chunk in chunks if chunk.stream == "stdout")
    assert text == "ääääää€€€𝄞" * 3000


def test_write_and_read(sandbox):
    sandbox.write_file("/workspace/deep/er/a.txt", "grüße\n")
    assert sandbox.read_file("/workspace/deep/er/a.txt") == "grüße\n"
    assert sandbox.read_file("deep/er/a.txt") == "grüße\n"
    assert sandbox.exec("cat deep/er/a.txt").stdout == "grüße\n"
    sandbox.write_file("deep/er/a.txt", "")
    assert sandbox.read_file("deep/er/a.txt") == ""


def test_write_with_a_mode(sandbox):
    sandbox.write_file("script", "#!/bin/sh\necho ran\n", mode="0755")
    assert sandbox.exec("./script").stdout == "ran\n"
    assert sandbox.stat_file("script")["mode"] == "0755"
    sandbox.write_file("plain", "x")
    assert sandbox.stat_file("plain")["mode"] == "0644"
    with pytest.raises(StacyVMError) as error:
        sandbox.write_file("script", "x", mode="rwx")
    assert error.value.code == "BAD_REQUEST"


def test_list_files(sandbox):
    sandbox.exec("mkdir -p d/sub; echo 12345 > d/b; ln -s b d/link")
    entries = sandbox.list_files("/workspace/d")
    assert [entry["name"] for entry in entries] == ["b", "link", "sub"]
    b, link, sub = entries
    assert (b["size"], b["is_dir"], b["is_symlink"]) == (6, False, False)
    assert b["path"] == "/workspace/d/b"
    assert link["is_symlink"] and link["symlink_target"] == "b"
    assert sub["is_dir"]
    moment(b["mod_time"])


def test_delete_file(sandbox):
    sandbox.exec("mkdir -p full; touch full/x single")
    sandbox.delete_file("single")
    with pytest.raises(SandboxNotFound):
        sandbox.delete_file("single")
    with pytest.raises(StacyVMError) as error:
        sandbox.delete_file("full")
    assert error.value.code == "BAD_REQUEST"
    sandbox.delete_file("full", recursive=True)
    with pytest.raises(SandboxNotFound):
        sandbox.stat_file("full")


def test_move_file(sandbox):
    sandbox.write_file("old", "content")
    sandbox.move_file("old", "new/place/name")
    assert sandbox.read_file("new/place/name") == "content"
    with pytest.raises(SandboxNotFound):
        sandbox.read_file("old")


def test_chmod_file(sandbox):
    sandbox.write_file("f", "")
    sandbox.chmod_file("f", "0600")
    assert sandbox.stat_file("f")["mode"] == "0600"
    with pytest.raises(StacyVMError) as error:
        sandbox.chmod_file("f", "u+x")
    assert error.value.code == "BAD_REQUEST"


def test_stat_file(sandbox):
    sandbox.write_file("f", "12345678")
    info = sandbox.stat_file("/workspace/f")
    assert (info["name"], info["path"], info["size"]) == ("f", "/workspace/f", 8)
    assert not info["is_dir"]


def test_glob_files(sandbox):
    sandbox.exec("mkdir -p g/h; touch g/a.py g/b.txt g/h/c.py")
    assert sandbox.glob_files("/workspace/g/*.py") == ["/workspace/g/a.py"]
    assert sandbox.glob_files("/workspace/g/**/*.py") == [
        "/workspace/g/a.py",
        "/workspace/g/h/c.py",
    ]
    assert sandbox.glob_files("/workspace/g/*.{py,txt}") == [
        "/workspace/g/a.py",
        "/workspace/g/b.txt",
    ]
    assert sandbox.glob_files("/workspace/g/*.rs") == []


@pytest.mark.parametrize("path", ["../../../../etc/hostname-of-nobody", "/../../../no/such"])
def test_no_path_leaves_the_sandbox(sandbox, path):
    with pytest.raises(StacyVMError) as error:
        sandbox.read_file(path)
    assert error.value.code in ("NOT_FOUND", "BAD_REQUEST")


def test_a_link_out_of_the_sandbox_stays_inside(sandbox, server):
    secret = server.directory / "stacyvm.yaml"
    sandbox.exec("ln", args=["-s", str(secret), "link"])
    with pytest.raises(StacyVMError):
        sandbox.read_file("link")


def test_health(client):
    health = client.health()
    assert health["status"] == "ok"
    assert health["version"]
    assert health["uptime"]


def test_providers(client, server):
    providers = client.providers()
    assert [p["name"] for p in providers] == sorted(p["name"] for p in providers)
    defaults = [p for p in providers if p["default"]]
    assert [p["name"] for p in defaults] == [server.provider]
    assert defaults[0]["healthy"]
    assert defaults[0]["isolation"] == {"native": "container", "mock": "none"}[server.provider]


def test_prune_takes_only_what_has_expired(client, sandbox):
    assert isinstance(client.prune(), int)
    assert client.get(sandbox.id).state == "running"


def test_pool_status(client):
    assert client.pool_status() == {"enabled": False}


def test_quota_summary(client):
    summary = client.quota_summary()
    assert summary.total == 0


def test_admission(client, image):
    before = len(client.list())
    decision = client.admission(image=image, ttl="10m")
    assert decision.allowed
    assert decision.reason == ""
    assert decision.active_sandboxes == before
    assert len(client.list()) == before


def test_an_unknown_sandbox(client):
    with pytest.raises(SandboxNotFound) as error:
        client.get("sb-00000000")
    assert error.value.code == "NOT_FOUND"


def test_an_unknown_provider(client):
    with pytest.raises(SandboxNotFound, match="no-such-provider"):
        client.spawn(provider="no-such-provider")


@pytest.mark.parametrize("ttl", ["1d", "10", "30 m", "-5m", "0s"])
def test_a_bad_ttl(client, image, ttl):
    with pytest.raises(StacyVMError) as error:
        client.spawn(image=image, ttl=ttl)
    assert error.value.code == "BAD_REQUEST"


def test_an_owner_is_kept(server, image):
    with Client(server.url, user_id="alice@example.com") as alice:
        with alice.spawn(image=image) as sandbox:
            assert sandbox._info["owner_id"] == "alice@example.com"


def test_nobody_there_is_an_error_of_its_own():
    from stacyvm import ConnectionError

    with Client("http://127.0.0.1:1") as client:
        with pytest.raises(ConnectionError):
            client.spawn()


def test_the_default_image_of_the_client(client, server):
    """`alpine:latest`, which the client sends when it is asked for nothing."""
    if server.provider == "mock":
        with client.spawn() as sandbox:
            assert sandbox.exec("echo ok").stdout == "ok\n"
    else:
        with pytest.raises(SandboxNotFound, match="alpine:latest"):
            client.spawn()


def test_a_server_with_a_key(locked_server):
    for key in (None, "wrong"):
        with Client(locked_server.url, api_key=key) as client:
            with pytest.raises(StacyVMError) as error:
                client.list()
            assert error.value.code == "UNAUTHORIZED"
            assert not isinstance(error.value, ProviderError)
    with Client(locked_server.url, api_key="k-1f2e3d") as client:
        assert client.list() == []
    assert "k-1f2e3d" not in locked_server.read_log()
