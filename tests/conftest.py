"""What all tests share: how much is tried; on request virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from hypothesis import settings

from fanout.testing import VirtualClock
from tests.expected_tests import ExpectedTests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

# Hundreds of processes import the package: it is compiled once, also where containers are told to keep no bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# One leg of CI tests a plain install, which has no extras.
collect_ignore_glob: list[str] = []
if not all(map(find_spec, ("pyarrow", "pandas", "polars"))):
    collect_ignore_glob += ["durability/*", "io/writers/test_parquet.py", "io/writers/test_resuming.py"]
    collect_ignore_glob += [
        f"io/readers/test_{name}.py" for name in ("arrow*", "sources", "parquet", "objects", "ipc", "frames")
    ]
if not find_spec("simdjson"):
    collect_ignore_glob += ["codecs/test_fast.py"]
if not find_spec("uvloop"):
    collect_ignore_glob += ["transport/test_receiving.py"]

# pytest --hypothesis-profile=thorough is for CI. A busy machine may take its time over an example.
# The quick examples are always the same: what CI finds, it finds again.
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
    """Thousands of tests live to the end: no garbage collection has to look at them again."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, Callable[[], Any]]:
    """A test marked ``virtual_time`` runs on a clock that jumps to the next timer; the others in real time."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualClock}
    return {"real": asyncio.new_event_loop}
