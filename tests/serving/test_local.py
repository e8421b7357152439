"""The child process behind ``local://NAME``: it starts, answers, and always ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from fanout.errors import ConfigError
from fanout.serving import local
from fanout.serving.local import LocalServer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, from which the package is still found."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def alive(pid: int) -> bool:
    """Return True if the process runs; a zombie, which only waits for its parent, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> bool:
    """Wait for the process to end."""
    while alive(pid):  # noqa: ASYNC110 - another process's end is no event
        await asyncio.sleep(0.02)
    return True


async def ask(url, rows):
    async with aiohttp.ClientSession() as session, session.post(url, json=rows) as response:
        return response.status, await response.json()


async def test_it_starts_answers_and_ends(monkeypatch):
    """A real server on a loopback port, for as long as it is wanted; it ends by itself, and is not killed."""
    monkeypatch.setattr(local, "_STOPPED_WITHIN", 1000.0)
    server = LocalServer("echo")
    assert repr(server) == "<LocalServer 'echo' stopped>"
    url = await server.start()
    pid = server.pid
    assert url == server.url
    assert url.startswith("http://127.0.0.1:")
    assert repr(server) == f"<LocalServer 'echo' {url}>"
    assert server.model == "echo"
    assert alive(pid)
    assert await ask(url, [[1, 2]]) == (200, [[1, 2]])
    await server.stop()
    assert await gone(pid)
    assert (server.url, server.pid) == ("", None)
    await server.stop()
    gc.collect()


@pytest.mark.parametrize("name", ["echo", "nobody"])
def test_nothing_is_left_for_the_garbage_collector(name):
    """A loop that closes at once after the stop: asyncio's transports warn when they are not closed by then."""

    async def run():
        with suppress(ConfigError):
            async with asyncio.timeout(20):
                server = LocalServer(name)
                await server.start()
                await server.stop()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


@pytest.mark.slow
async def test_it_can_start_again():
    """As a new process."""
    server = LocalServer("echo")
    for _ in range(2):
        assert await ask(await server.start(), [1]) == (200, [1])
        await server.stop()


async def test_the_users_function_may_print_and_fail(here, capfd):
    """Both go to stderr: stdout belongs to the parent, and a full pipe must not stop the child."""
    (here / "mine.py").write_text(
        "import os\n"
        "print('imported')\n"
        "def f(rows):\n"
        "    print('x' * 100_000)\n"
        "    if rows[0] < 0: raise ValueError('negative')\n"
        "    return rows * int(os.environ['OPENBLAS_NUM_THREADS'])\n"
    )
    server = LocalServer("mine:f")
    url = await server.start()
    try:
        assert await ask(url, [2, 3]) == (200, [2, 3])
        assert await ask(url, [-1]) == (500, {"error": "model 'mine:f' failed: ValueError: negative"})
    finally:
        await server.stop()
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "imported" in printed.err
    assert "ValueError: negative" in printed.err
    assert "x" * 100_000 in printed.err


@pytest.mark.slow
async def test_files_of_the_current_directory_do_not_hide_the_server(here, monkeypatch):
    """A user's fanout.py or numpy.py is not imported in place of ours."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(here))])
    for name in ("fanout", "numpy"):
        (here / f"{name}.py").write_text("raise SystemExit('hidden')")
    (here / "mine.py").write_text("def f(rows): return rows + 1")
    server = LocalServer("mine:f")
    try:
        assert await ask(await server.start(), [1]) == (200, [2])
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dgits", "local://dgits: there is no model 'dgits' .did you mean 'digits'"),
        ("nowhere:f", "no module 'nowhere'"),
        ("--help", "no model '--help'"),
    ],
)
async def test_a_model_that_cannot_be_served_is_a_config_error(name, text):
    """The child's reason, raised here; nothing is left behind."""
    server = LocalServer(name)
    with pytest.raises(ConfigError, match=text):
        await server.start()
    assert server.pid is None
    gc.collect()


async def test_a_module_that_ends_the_process_is_a_config_error(here):
    """No line came: stderr may have the reason."""
    (here / "leaves.py").write_text("import os\nos._exit(7)")
    with pytest.raises(ConfigError, match="ended before it was ready"):
        await LocalServer("leaves:f").start()


@pytest.mark.slow
async def test_a_module_that_never_loads_is_given_up(here, monkeypatch):
    """By deadline, with a likely cause; the child is killed where it does not end."""
    (here / "slow.py").write_text("import time\ntime.sleep(60)")
    monkeypatch.setattr(local, "_STARTED_WITHIN", 1.0)
    monkeypatch.setattr(local, "_STOPPED_WITHIN", 0.1)
    server = LocalServer("slow:f")
    with pytest.raises(ConfigError, match="not ready within 1 s"):
        await server.start()
    gc.collect()


@pytest.mark.slow
async def test_cancelling_the_start_leaves_no_process(here):
    """Cancellation is prompt and clean."""
    (here / "slow.py").write_text("from pathlib import Path\nPath('begun').touch()\nimport time\ntime.sleep(0.5)")
    server = LocalServer("slow:f")
    start = asyncio.create_task(server.start())
    for _ in range(1000):
        await asyncio.sleep(0.01)
        if (here / "begun").exists():
            break
    pid = server.pid
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert await gone(pid)
    gc.collect()


async def hung(here):
    """A server whose function never returns, and the request that waits for it."""
    (here / "hangs.py").write_text("import time\ndef f(rows): time.sleep(3600)")
    server = LocalServer("hangs:f")
    url = await server.start()
    request = asyncio.create_task(ask(url, [1]))
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{url}/stats") as response:
                if (await response.json())["in_flight"]:
                    return server, request


@pytest.mark.slow
async def test_a_function_that_hangs_cannot_keep_the_child(here, monkeypatch):
    """It ends itself, without having to be killed."""
    monkeypatch.setattr(local, "_STOPPED_WITHIN", 1000.0)
    server, request = await hung(here)
    pid = server.pid
    await server.stop()
    assert await gone(pid)
    with pytest.raises(aiohttp.ClientError):
        await request


@pytest.mark.slow
async def test_cancelling_the_stop_kills(here):
    """Promptly, and nothing is left behind."""
    server, request = await hung(here)
    pid, process = server.pid, server._process  # noqa: SLF001 - how the child ended
    stop = asyncio.create_task(server.stop())
    await asyncio.sleep(0.05)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert await gone(pid)
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(aiohttp.ClientError):
        await request
    gc.collect()


async def test_an_interrupt_is_left_to_the_parent():
    """Ctrl-C goes to the whole process group; the child goes on."""
    server = LocalServer("echo")
    url = await server.start()
    try:
        os.kill(server.pid, signal.SIGINT)
        await asyncio.sleep(0.1)
        assert await ask(url, [1]) == (200, [1])
    finally:
        await server.stop()


@pytest.mark.slow
async def test_a_child_that_died_is_stopped_without_complaint():
    """Nothing to end, nothing to kill."""
    server = LocalServer("echo")
    await server.start()
    os.kill(server.pid, signal.SIGKILL)
    await server.stop()
    gc.collect()


PARENT = """
import asyncio, sys
from fanout.serving.local import LocalServer
async def main():
    server = LocalServer("echo")
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_the_child_ends_when_its_parent_is_killed():
    """`kill -9` leaves no orphan."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        child = int(await asyncio.wait_for(parent.stdout.readline(), 20))
        assert alive(child)
    finally:
        parent.kill()
        await parent.stdout.read()
        await parent.wait()
    assert await gone(child)


async def test_the_module_can_be_run_by_hand():
    """Without the guard it serves until Ctrl-C."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "fanout.serving.local", "echo", stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    line = await asyncio.wait_for(process.stdout.readline(), 20)
    assert b'"model": "echo"' in line
    process.send_signal(signal.SIGINT)
    await process.stdout.read()
    assert await process.wait() == 130
