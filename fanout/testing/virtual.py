"""Tests in virtual time, whatever runs them."""

from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from fanout.clock import VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


def in_virtual_time(test: Callable[P, Coroutine[None, None, T]]) -> Callable[P, T]:
    """Make a plain function of an async one: called, it runs on a `VirtualClock`, where waiting takes no time.

    A decorator for tests; neither pytest-asyncio nor its mode matters to it, and pytest's fixtures are passed on. Async
    fixtures are not: they live on another loop.
    """

    @wraps(test)
    def run(*arguments: P.args, **options: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            return runner.run(test(*arguments, **options))

    return run
