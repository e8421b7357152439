"""Run all entries of a group in turn, round after round, so that a disturbance of the machine affects all alike."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.machine import Cores, on
from benchmarks.processes import Failed, run
from benchmarks.servers import Served, server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.groups import Entry, Group
    from benchmarks.measuring import Cost


@dataclass(frozen=True)
class Measured:
    """A group with its results."""

    group: Group
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    """Entry name -> one cost per round."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Entry name -> the reason that it was not run."""

    failed: dict[str, str] = field(default_factory=dict)
    """Entry name -> its error; it has no costs."""


class Servers:
    """The servers in use, each started once, all on one core."""

    def __init__(self, stack: ExitStack, *, nginx: bool, core: int | None) -> None:
        self._stack, self._nginx, self._core = stack, nginx, core
        self._origins: dict[Served, str] = {}

    def origin(self, served: Served) -> str:
        """Return the origin of the server with these answers; start it on first use."""
        if served not in self._origins:
            with on(self._core):
                self._origins[served] = self._stack.enter_context(server(served, nginx=self._nginx))
        return self._origins[served]


@contextmanager
def servers(*, nginx: bool, core: int | None) -> Iterator[Servers]:
    """Provide servers that end with the context."""
    with ExitStack() as stack:
        yield Servers(stack, nginx=nginx, core=core)


def measure(
    every: Sequence[Group], rounds: int, running: Servers, cores: Cores, log: Callable[[str], None]
) -> list[Measured]:
    """Run all groups. ``log`` is called with a line for each entry that ran or cannot run."""
    return [_group(group, rounds, running, cores, log) for group in every]


def _group(group: Group, rounds: int, running: Servers, cores: Cores, log: Callable[[str], None]) -> Measured:
    measured = Measured(group)
    for entry in group.entries:
        if (reason := entry.unavailable()) is not None:
            measured.skipped[entry.name] = reason
            log(f"{group.name} | {entry.name}: skipped, {reason}")
    for number in range(1, rounds + 1):
        for entry in group.entries:
            if entry.name not in measured.skipped | measured.failed:
                line = _entry(entry, measured, running, cores)
                log(f"{group.name} {number}/{rounds} | {entry.name}: {line}")
    return measured


def _entry(entry: Entry, measured: Measured, running: Servers, cores: Cores) -> str:
    """Run ``entry`` once, keep its result, and return a line about it."""
    needs_server = not entry.command or any("{origin}" in word for word in entry.command)
    origin = running.origin(entry.served) if needs_server else ""
    try:
        with on(cores.client):
            cost = run(entry, origin)
    except Failed as error:
        measured.costs.pop(entry.name, None)
        measured.failed[entry.name] = str(error)
        return f"FAILED, {error}"
    measured.costs.setdefault(entry.name, []).append(cost)
    return f"{1e6 * cost.cpu / cost.units:,.0f} us of CPU per {measured.group.unit}"
