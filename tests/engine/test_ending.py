"""Whatever ends a part of a run otherwise than by a return stops the run, with a reason or an error."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fanout.engine.ending import Ending
from fanout.errors import CallbackError, InputError
from fanout.stop import Stop

if TYPE_CHECKING:
    from fanout.results import Event


def ending(events: list[Event] | None = None) -> tuple[Ending, list[BaseException]]:
    """The ending of a run, and the errors whose texts it has redacted."""
    redacted: list[BaseException] = []
    balancer: Any = SimpleNamespace(conceal=str, conceal_lines=str, redact=redacted.append)
    return Ending(balancer, None if events is None else events.append, isolated=False), redacted


def caused_by(cause: BaseException) -> CallbackError:
    error = CallbackError("on_event raised an error")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "is_raised"),
    [
        (ValueError("no"), "rejected", True),
        (InputError("no"), "rejected", True),
        (caused_by(ValueError("no")), "error", False),
        (caused_by(KeyboardInterrupt()), "interrupted", False),
        (KeyboardInterrupt(), "interrupted", False),
        (asyncio.CancelledError(), "error", False),
        (StopIteration(), "error", False),
        (SystemExit(1), "error", False),
    ],
)
async def test_each_way_to_end_is_a_stop_and_an_exception_is_raised_at_the_end(
    error: BaseException, kind: str, is_raised: bool
) -> None:
    end, redacted = ending()
    end.report(error)
    assert end.stop_event.stopped is not None
    assert end.stop_event.stopped.kind == kind
    assert end.error is (error if is_raised else None)
    assert redacted == ([error] if isinstance(error, InputError) else [])


async def test_the_first_reason_and_the_first_error_count() -> None:
    end, _ = ending()
    first = ValueError("first")
    end.report(first)
    end.report(ValueError("second"))
    end.abandon()
    assert end.error is first
    assert end.stop_event.stopped is not None
    assert end.stop_event.stopped.reason == "ValueError: first"


async def test_a_stop_is_one_event_and_ends_the_wait_for_input_alone_unless_it_cuts() -> None:
    events: list[Event] = []
    end, _ = ending(events)
    worker = end.tasks.start(lambda: asyncio.sleep(60))
    reader = end.tasks.start(lambda: asyncio.sleep(60))
    end.scheduler = SimpleNamespace(reader=reader)  # type: ignore[assignment]
    await asyncio.sleep(0)
    end.stop(Stop("interrupted", "enough"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (reader.cancelled(), worker.done()) == (True, False)
    end.stop(Stop("interrupted", "now"), cut=True)
    await end.tasks.join()
    assert worker.cancelled()
    assert [(event.kind, event.reason) for event in events] == [("stop", "enough")]
