"""Fixtures for the tests of code that uses fanout, which pytest loads through the entry point ``pytest11``.

pytest imports this module in every project that has fanout installed, so it imports nothing but pytest.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fanout.testing import FaultServer, MockEndpoint, NoNetwork, Recorder, Replayer

_CASSETTES = "cassettes"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option ``--fanout-record``."""
    parser.getgroup("fanout").addoption(
        "--fanout-record",
        action="store_true",
        help="record the exchanges of tests that use fanout_cassette anew, in place of replaying them",
    )


@pytest.fixture
def fanout_mock() -> Iterator[Callable[..., MockEndpoint]]:
    """Makes a `fanout.testing.MockEndpoint`, in force until the end of the test: ``fanout_mock(lambda x: x * 2)``."""
    with ExitStack() as stack:

        def enter(model: Any, **options: Any) -> MockEndpoint:
            from fanout.testing import MockEndpoint

            return stack.enter_context(MockEndpoint(model, **options))

        yield enter


@pytest.fixture
def fanout_server() -> Iterator[Callable[..., FaultServer]]:
    """Starts a `fanout.testing.FaultServer` on a loopback port and a thread of its own, until the end of the test."""
    with ExitStack() as stack:

        def start(model: Any, **options: Any) -> FaultServer:
            from fanout.testing import Background, FaultServer

            return stack.enter_context(Background(FaultServer(model, **options)))

        yield start


@pytest.fixture
def fanout_cassette(request: pytest.FixtureRequest) -> Iterator[Callable[..., Recorder | Replayer]]:
    """Makes a transport for ``Client(..., transport=fanout_cassette())``: it replays the test's cassette, offline.

    The cassette is ``cassettes/MODULE.TEST.cassette`` beside the test, or ``cassettes/NAME.cassette``. With
    ``pytest --fanout-record`` it is recorded anew, from the real endpoint.
    """
    with ExitStack() as stack:

        def open_cassette(name: str = "", **options: Any) -> Recorder | Replayer:
            file = _cassette_path(request, name)
            if request.config.getoption("--fanout-record"):
                from fanout.testing import Recorder

                # A recorder takes a new file only, so that no recording is overwritten by accident.
                file.unlink(missing_ok=True)
                return stack.enter_context(Recorder(file, **options))
            if not file.exists():
                pytest.fail(f"there is no cassette {file}: record it with pytest --fanout-record", pytrace=False)
            from fanout.testing import Replayer

            return Replayer(file, **options)

        yield open_cassette


@pytest.fixture
def fanout_no_network() -> Iterator[NoNetwork]:
    """Forbids connections while the test runs: an attempt fails it, with the address."""
    from fanout.testing import NoNetwork

    with NoNetwork() as guard:
        yield guard


@pytest.fixture
def fanout_seed() -> Iterator[Callable[[int], None]]:
    """Seeds the jitter of all waits: ``fanout_seed(7)``. The former state returns at the end of the test."""
    import random

    # The generator is the process's: other tests must not depend on this one.
    state = random.getstate()
    yield random.seed
    random.setstate(state)


def _cassette_path(request: pytest.FixtureRequest, name: str) -> Path:
    path = request.node.path
    # The name of a parametrized test may hold slashes and brackets.
    safe = "".join(
        char if char.isalnum() or char in "-_." else "-" for char in name or f"{path.stem}.{request.node.name}"
    )
    folder: Path = path.parent / _CASSETTES
    return folder / f"{safe}.cassette"
