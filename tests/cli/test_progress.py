"""Progress is drawn from the client's counters, and never in their way."""

from __future__ import annotations

import asyncio
import sys

import pytest

from fanout.cli.progress import Bar, Display, Lines, Silent, progress_display
from fanout.errors import ClientStateError
from fanout.results import Statistics


class Counting:
    """A client whose counters are given."""

    def __init__(self, *snapshots: Statistics) -> None:
        self.snapshots = list(snapshots)
        self.empty = asyncio.Event()

    def statistics(self) -> Statistics:
        if len(self.snapshots) <= 1:
            self.empty.set()
        if not self.snapshots:
            raise ClientStateError("the client is closed")
        return self.snapshots.pop(0)


HALF = Statistics(ok=48, failed=2, seconds=5.0, in_flight=3, retries=7)


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"), [(True, False, Bar), (False, False, Lines), (True, True, Silent)]
)
def test_the_display_suits_stderr(monkeypatch, terminal, quiet, kind):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert type(progress_display(quiet=quiet)) is kind


def test_a_stderr_that_was_closed_at_the_start_shows_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    display = progress_display()
    display.say("nobody hears this")
    assert type(display) is Silent


async def shown_all(display: Display, client: Counting) -> None:
    display.start(client, 100, 0)
    await asyncio.wait_for(client.empty.wait(), 5)


async def watched(display: Display, client: Counting) -> None:
    await shown_all(display, client)
    await display.stop()


async def test_an_adaptive_limit_is_shown_beside_the_requests_in_flight(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    await watched(Lines(), Counting(Statistics(ok=48, seconds=5.0, in_flight=3, concurrency=12)))
    assert ", 3 of 12 in flight, " in capsys.readouterr().err


async def test_a_pipe_gets_lines_until_the_client_is_closed(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    await watched(Lines(), Counting(Statistics(), HALF))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "0/100 rows, 0 failed, 0.0 rows/s, 0 in flight, 0 retries, ETA unknown"
    assert second == "50/100 rows, 2 failed, 10.0 rows/s, 3 in flight, 7 retries, ETA 0:00:05"


async def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(Bar, "seconds", 0.001)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, pytest's capture is then a terminal
    monkeypatch.setenv("NO_COLOR", "1")
    bar = Bar()
    bar.say("before")
    await shown_all(bar, Counting(Statistics(), HALF))
    bar.say("[above] 1 request")
    await bar.stop()
    shown = capsys.readouterr().err
    assert "\x1b[3" not in shown, "NO_COLOR is set"
    assert shown.startswith("before\n")
    assert "[above] 1 request" in shown
    assert "50/100" in shown
    assert "50/100 rows, 2 failed, 10 rows/s, 3 in flight, 7 retries, ETA 0:00:05" in shown
    shows_cursor, hides_cursor = "\x1b[?25h", "\x1b[?25l"
    assert shown.count(shows_cursor) == shown.count(hides_cursor) == 1
    assert "[above] 1 request" not in shown[shown.index(shows_cursor) :], "the bar is there until it is stopped"


def test_the_display_ends_with_a_run_that_raises(monkeypatch, command, write_job):
    stopped = []

    class Display(Silent):
        async def stop(self) -> None:
            await super().stop()
            stopped.append(self)

    monkeypatch.setattr("fanout.cli.running.progress_display", lambda **_: Display())
    write_job()
    result = command("run", "job.toml", "--set", "input.path=missing.npy")
    assert (result.code, len(stopped)) == (2, 1)


@pytest.mark.parametrize("columns", [20, 30, 44, 60, 80, 100, 200])
async def test_a_narrow_terminal_shows_the_rows_first(monkeypatch, capsys, columns):
    monkeypatch.setattr(Bar, "seconds", 0.001)
    for name, value in {"TERM": "xterm", "COLUMNS": f"{columns}", "FORCE_COLOR": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    bar = Bar()
    await shown_all(bar, Counting(Statistics(), HALF))
    await bar.stop()
    shown = capsys.readouterr().err
    assert "50/100 rows" in shown
    assert ("50/100 rows, 2 failed" in shown) == (columns >= 30)
    assert ("10 rows/s" in shown) == (columns >= 44)
    assert ("ETA 0:00:05" in shown) == (columns >= 80)


async def test_more_rows_than_were_expected_are_no_trouble(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    await watched(Lines(), Counting(Statistics(ok=120, seconds=5.0)))
    assert capsys.readouterr().err.startswith(
        "120/120 rows, 0 failed, 24.0 rows/s, 0 in flight, 0 retries, ETA 0:00:00"
    )


async def test_the_time_left_follows_an_endpoint_that_becomes_slow(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    fast = [Statistics(ok=50, seconds=5.0)]
    slow = [Statistics(ok=50 + n, seconds=5.0 + 10 * n) for n in range(1, 5)]
    await watched(Lines(), Counting(*fast, *slow))
    etas = [line.rpartition("ETA ")[2] for line in capsys.readouterr().err.splitlines()]
    # At the average of the whole run, 45 s for 54 rows, the last would be 38 s.
    assert (etas[0], etas[-1]) == ("0:00:05", "0:07:40")


async def test_rows_of_an_earlier_run_are_neither_left_nor_part_of_the_rate(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    display, client = Lines(), Counting(Statistics(ok=10, seconds=5.0))
    display.start(client, 100, 50)
    await asyncio.wait_for(client.empty.wait(), 5)
    await display.stop()
    assert "60/100 rows, 0 failed, 2.0 rows/s" in (shown := capsys.readouterr().err)
    assert "ETA 0:00:20" in shown


class Finishing:
    """A sink that is at the end of its run; ``end`` is set at the last look."""

    def __init__(self, *rows: int | None) -> None:
        self.rows = list(rows)
        self.end = asyncio.Event()
        self.destination = None

    @property
    def finished_rows(self) -> int | None:
        if len(self.rows) > 1:
            return self.rows.pop(0)
        self.end.set()
        return self.rows[0]


class Uploading:
    """A sink, and its destination, while a file of 1 MB is uploaded; ``end`` is set at the last look."""

    finished_rows = 100

    def __init__(self, *sent: int) -> None:
        self.sent = list(sent)
        self.end = asyncio.Event()
        self.destination = self

    @property
    def progress(self) -> tuple[int, int] | None:
        if len(self.sent) == 1:
            self.end.set()
            return self.sent[0], 1_000_000
        return self.sent.pop(0), 1_000_000


async def phases_shown(display: Display, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, sending, and writing with two looks at it; the run moves on with each look."""
    monkeypatch.setattr(type(display), "seconds", 0.001)
    usual, began = display.show_phase, asyncio.Event()

    def show_phase(*phase: object) -> None:
        usual(*phase)
        began.set()

    monkeypatch.setattr(display, "show_phase", show_phase)
    display.open()
    await asyncio.wait_for(began.wait(), 5)
    sink = Finishing(None, None, 40, 100)
    display.start(Counting(*[HALF] * 2), 100, 0, sink)
    await asyncio.wait_for(sink.end.wait(), 5)
    await display.stop()


async def test_a_pipe_gets_every_phase(monkeypatch, capsys):
    await phases_shown(Lines(), monkeypatch)
    shown = list(dict.fromkeys(capsys.readouterr().err.splitlines()))
    assert shown[0] == "reading the input"
    assert shown[1].startswith("50/100 rows, 2 failed")
    assert shown[2:] == ["writing the output: 40/100 rows", "writing the output: 100/100 rows"]


async def test_a_bar_shows_every_phase(monkeypatch, capsys):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    await phases_shown(Bar(), monkeypatch)
    shown = capsys.readouterr().err
    places = [shown.index(part) for part in ("reading the input", "50/100", "writing the output: 40/100 rows")]
    assert places == sorted(places)
    assert "writing the output: 100/100 rows" in shown


async def test_an_upload_is_a_phase_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(Lines, "seconds", 0.001)
    display, sink = Lines(), Uploading(0, 260_000, 1_000_000)
    display.start(None, None, 0, sink)
    await asyncio.wait_for(sink.end.wait(), 5)
    await display.stop()
    shown = list(dict.fromkeys(capsys.readouterr().err.splitlines()))
    assert shown == [f"uploading the output: {sent}/1.0 MB" for sent in ("0.0", "0.3", "1.0")]


async def test_a_closed_stderr_ends_the_display_only(monkeypatch):
    def gone(*_: object, **__: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Lines, "seconds", 0.001)
    monkeypatch.setattr("click.echo", gone)
    await watched(Lines(), Counting(HALF))


async def test_a_quiet_display_shows_nothing(capsys):
    silent = Silent()
    silent.show(HALF, 100)
    silent.start(Counting(), 100, 0)
    await silent.stop()
    assert capsys.readouterr().err == ""


async def test_a_display_that_was_never_started_stops(capsys):
    bar = Bar()
    await bar.stop()
    assert bar.in_flight() == 0


async def test_requests_in_flight_are_known_as_long_as_the_client_is_open():
    silent = Silent()
    silent.start(Counting(HALF), 100, 0)
    assert silent.in_flight() == 3
    assert silent.in_flight() == 0
    await silent.stop()
