"""The published client, asynchronous, against both providers."""

import asyncio

import pytest
from stacyvm import AsyncClient, SandboxNotFound, StacyVMError


def run(test):
    """Runs a coroutine without a plugin."""
    return asyncio.run(test)


def test_a_whole_life(server, image):
    async def life():
        async with AsyncClient(server.url) as client:
            sandbox = await client.spawn(image=image, ttl="10m", metadata={"a": "b"})
            assert sandbox.state == "running"
            again = await client.get(sandbox.id)
            result = await again.exec("echo $WHO", env={"WHO": "me"})
            assert (result.exit_code, result.stdout) == (0, "me\n")
            assert (await again.exec("exit 42")).exit_code == 42
            with pytest.raises(StacyVMError, match="^exec timeout:"):
                await again.exec("sleep 60", timeout="300ms")
            assert sandbox.id in [info.id for info in await client.list()]
            await sandbox.extend_ttl("1h")
            await sandbox.destroy()
            with pytest.raises(SandboxNotFound):
                await client.get(sandbox.id)

    run(life())


def test_stream(server, image):
    async def stream():
        async with AsyncClient(server.url) as client:
            async with await client.spawn(image=image) as sandbox:
                command = "echo first; while ! test -e go; do sleep 0.01; done; echo second"
                seen = []
                async for chunk in sandbox.exec_stream(command):
                    if not seen:
                        assert chunk.data == "first\n"
                        await sandbox.write_file("go", "")
                    seen.append((chunk.stream, chunk.data))
                assert seen == [("stdout", "first\n"), ("stdout", "second\n"), ("exit", "")]

    run(stream())


def test_every_file_method(server, image):
    async def files():
        async with AsyncClient(server.url) as client:
            async with await client.spawn(image=image) as sandbox:
                await sandbox.write_file("a/b.txt", "one", mode="0600")
                assert await sandbox.read_file("a/b.txt") == "one"
                assert (await sandbox.stat_file("a/b.txt"))["mode"] == "0600"
                await sandbox.chmod_file("a/b.txt", "0644")
                await sandbox.move_file("a/b.txt", "c/d.txt")
                names = [entry["name"] for entry in await sandbox.list_files("/workspace")]
                assert names == ["a", "c"]
                assert await sandbox.glob_files("/workspace/**/*.txt") == ["/workspace/c/d.txt"]
                await sandbox.delete_file("c", recursive=True)
                with pytest.raises(SandboxNotFound):
                    await sandbox.read_file("c/d.txt")

    run(files())


def test_many_at_once(server, image):
    async def many():
        async with AsyncClient(server.url, timeout=60) as client:
            async with await client.spawn(image=image) as sandbox:
                results = await asyncio.gather(
                    *(sandbox.exec(f"echo {number}") for number in range(30))
                )
            assert [r.stdout for r in results] == [f"{number}\n" for number in range(30)]

    run(many())


def test_many_sandboxes_at_once(server, image):
    async def many():
        async with AsyncClient(server.url, timeout=60) as client:
            sandboxes = await asyncio.gather(*(client.spawn(image=image) for _ in range(10)))
            assert len({sandbox.id for sandbox in sandboxes}) == 10
            results = await asyncio.gather(*(s.exec("echo up") for s in sandboxes))
            assert {r.stdout for r in results} == {"up\n"}
            await asyncio.gather(*(sandbox.destroy() for sandbox in sandboxes))
            left = {info.id for info in await client.list()}
            assert left.isdisjoint(sandbox.id for sandbox in sandboxes)

    run(many())


def test_the_questions_about_the_server(server, image):
    async def ask():
        async with AsyncClient(server.url) as client:
            assert (await client.health())["status"] == "ok"
            assert any(p["default"] for p in await client.providers())
            assert await client.pool_status() == {"enabled": False}
            assert (await client.quota_summary()).total == 0
            assert (await client.admission(image=image)).allowed
            assert isinstance(await client.prune(), int)

    run(ask())


def test_a_context_manager_destroys(server, image):
    async def manage():
        async with AsyncClient(server.url) as client:
            async with await client.spawn(image=image) as sandbox:
                pass
            with pytest.raises(SandboxNotFound):
                await client.get(sandbox.id)

    run(manage())


def test_a_server_with_a_key(locked_server):
    async def knock():
        async with AsyncClient(locked_server.url, api_key="wrong") as client:
            with pytest.raises(StacyVMError) as error:
                await client.list()
            assert error.value.code == "UNAUTHORIZED"
        async with AsyncClient(locked_server.url, api_key="k-1f2e3d") as client:
            assert await client.list() == []

    run(knock())
