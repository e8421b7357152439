"""The runs of a session: those under way, and the counters of all."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

from fanout.engine import Stop
from fanout.engine.logs import level_of_phases, log, log_begin, log_end
from fanout.statistics import Counters, Latencies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fanout.engine import RowStatus, Run


class Counted(Protocol):
    """A run, or attempts without one."""

    @property
    def counters(self) -> Counters:
        """Its counters."""
        ...

    def up_to_date_counters(self) -> Counters:
        """Its counters, those included that others keep."""
        ...

    def stop(self, stop: Stop, *, cut: bool = False) -> None:
        """Send nothing new; abandon the requests in flight if ``cut``."""
        ...


class Runs:
    """Executes the runs of a session, and adds up their counters."""

    def __init__(self) -> None:
        self.running: set[Counted] = set()
        # An event instead of a task group: runs belong to their callers' tasks.
        self._idle = asyncio.Event()
        self._idle.set()
        self._totals = Counters()

    async def execute(self, run: Run, settle: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run ``run`` to its end, await ``settle``, however it ends, and add the run's counters to those of all."""
        self.begin(run)
        level = level_of_phases(isolated=run.recovery.isolation is not None)
        log_begin(run.chunker.total, level=level)
        try:
            with nullcontext() if run.trace is None else run.trace.following(run):
                try:
                    await run.execute()
                finally:
                    if settle is not None:
                        await settle()
        finally:
            # In the finally block, so that a cancelled run is counted too.
            self.end(run)
            if log.isEnabledFor(level):
                log_end(run.statistics(), level=level)

    def begin(self, run: Counted) -> None:
        """Count ``run`` among those under way."""
        self.running.add(run)
        self._idle.clear()

    def end(self, run: Counted) -> None:
        """Add the counters of ``run``, which has ended, to those of all."""
        self.running.discard(run)
        if not self.running:
            self._idle.set()
        self._totals.add(run.up_to_date_counters())

    def move_counts(self, run: Counted) -> None:
        """Add the counters of ``run`` to those of all, and set them to zero: it goes on with something else."""
        self._totals.add(run.counters)
        run.counters.reset()

    def withdraw(self, run: Run, account: RowStatus) -> None:
        """Count rows of an ended run as pending if their answers may belong to other rows."""
        withdrawn = account.withdraw(run.collector.suspect)
        # The rows were counted as ok when their chunk arrived.
        run.counters.ok -= withdrawn
        # The run has ended, so that its counters are among the totals already.
        self._totals.ok -= withdrawn

    async def close(self) -> None:
        """Stop all runs, and wait until they have ended."""
        for run in self.running:
            run.stop(Stop("interrupted", "the client was closed"), cut=True)
        await self._idle.wait()

    def counters(self) -> Counters:
        """Return the counters of all runs, those under way included."""
        counters = Counters()
        counters.add(self._totals)
        for run in self.running:
            counters.add(run.up_to_date_counters())
        return counters

    def latencies(self) -> Latencies:
        """Return the latencies of all runs, those under way included."""
        latencies = Latencies()
        latencies.add(self._totals.traffic.latencies)
        for run in self.running:
            latencies.add(run.counters.traffic.latencies)
        return latencies
