"""Settings of all tests: the number of examples, optional modules, and virtual time on request."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import sys
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from fanout.serving.local import LocalServer
from fanout.testing import VirtualClock
from tests.expected_tests import ExpectedTests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

# Thousands of tests are collected, and live to the end: see pytest_collection_finish.
gc.disable()

# Hundreds of processes import the package: it is compiled once, also where PYTHONDONTWRITEBYTECODE is set.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A process that a shell has started in the background ignores SIGINT, and so do its children. The tests interrupt both.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One leg of CI tests a plain install, without extras: it leaves out the files that import one, and the parameters that
# need one.
_EXTRAS = ("pyarrow", "pandas", "polars", "uvloop", "opentelemetry", "prometheus_client")
_WORDS = {
    "parquet": "pyarrow", "arrow": "pyarrow", "data-frames": "pandas", "monitoring.md": "opentelemetry",
    **{extra: extra for extra in _EXTRAS},
}  # fmt: skip


def _is_missing(module: str) -> bool:
    # The tests need the SDK too. The API alone may be there for another package.
    return not find_spec(module) or (module == "opentelemetry" and not find_spec("opentelemetry.sdk"))


_MISSING = {word for word, module in _WORDS.items() if _is_missing(module)}
_IMPORT = re.compile(rf"^(?:import|from) ({'|'.join(_EXTRAS)})\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if not _MISSING or collection_path.suffix != ".py":
        return None
    return bool(_MISSING.intersection(_IMPORT.findall(collection_path.read_text("utf-8")))) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        parameters = item.nodeid.partition("[")[2]
        for word in _MISSING:
            if word in parameters:
                item.add_marker(pytest.mark.skip(f"{_WORDS[word]} is not installed"))


# pytest --hypothesis-profile=thorough is for CI. A busy machine may take its time over an example.
# The quick examples are always the same, so that a failure in CI can be repeated.
settings.register_profile("quick", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile("quick")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expected", metavar="NAME", help="hold the run to this section of tests/expected.toml")


def pytest_configure(config: pytest.Config) -> None:
    section = config.getoption("--expected")
    if section and not hasattr(config, "workerinput"):  # the workers of pytest-xdist report to one place
        config.pluginmanager.register(ExpectedTests(section))


def pytest_collection_finish() -> None:
    """No garbage collection looks at the tests again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """A test marked ``virtual_time`` runs on a clock that jumps to the next timer; the others in real time."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualClock}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(scope="module")
def few_objects() -> None:
    """Let the collections of a module's tests look at their own objects, and not at all modules that were imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def local_server() -> Iterator[Callable[[str], str]]:
    """Starts one server of a packaged model, which all tests of the process share; returns its base URL."""
    with ExitStack() as servers:

        @cache
        def url_of(name: str) -> str:
            command = [sys.executable, "-P", "-m", "fanout.serving.local", "--stdin-guard", "--", name]
            # The end of the context closes its stdin, and so ends it.
            server = servers.enter_context(Popen(command, stdin=PIPE, stdout=PIPE, text=True))
            assert server.stdout is not None
            return str(json.loads(server.stdout.readline())["url"])

        yield url_of


@pytest.fixture
def shared_local(local_server: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``local://digits`` and ``local://echo`` mean the shared servers; a process for each test costs 0.3 s."""
    start_own = LocalServer.start

    async def start(server: LocalServer) -> str:
        if server.model not in ("digits", "echo"):
            return await start_own(server)
        server.url = local_server(server.model)
        return server.url

    monkeypatch.setattr(LocalServer, "start", start)
