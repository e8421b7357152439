"""All entries of a group in turn, round after round: what disturbs the machine for a while disturbs all alike."""

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
    """A group and what came of it."""

    group: Group
    costs: dict[str, list[Cost]] = field(default_factory=dict)
    """Entry name -> one cost a round."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Entry name -> why it was not run."""

    failed: dict[str, str] = field(default_factory=dict)
    """Entry name -> what went wrong; it has no costs."""


class Servers:
    """The servers that are wanted, each started once, all on one core."""

    def __init__(self, stack: ExitStack, *, nginx: bool, core: int | None) -> None:
        self._stack, self._nginx, self._core = stack, nginx, core
        self._origins: dict[Served, str] = {}

    def origin(self, served: Served) -> str:
        """The origin of the one that answers so."""
        if served not in self._origins:
            with on(self._core):
                self._origins[served] = self._stack.enter_context(server(served, nginx=self._nginx))
        return self._origins[served]


@contextmanager
def servers(*, nginx: bool, core: int | None) -> Iterator[Servers]:
    """Servers that end with the context."""
    with ExitStack() as stack:
        yield Servers(stack, nginx=nginx, core=core)


def measure(
    every: Sequence[Group], rounds: int, running: Servers, cores: Cores, tell: Callable[[str], None]
) -> list[Measured]:
    """Run them all; ``tell`` is called with a line for what has been done, and for what cannot."""
    return [_group(group, rounds, running, cores, tell) for group in every]


def _group(group: Group, rounds: int, running: Servers, cores: Cores, tell: Callable[[str], None]) -> Measured:
    measured = Measured(group)
    for entry in group.entries:
        if (why := entry.unavailable()) is not None:
            measured.skipped[entry.name] = why
            tell(f"{group.name} | {entry.name}: skipped, {why}")
    for number in range(1, rounds + 1):
        for entry in group.entries:
            if entry.name not in measured.skipped | measured.failed:
                told = _entry(entry, measured, running, cores)
                tell(f"{group.name} {number}/{rounds} | {entry.name}: {told}")
    return measured


def _entry(entry: Entry, measured: Measured, running: Servers, cores: Cores) -> str:
    """Run it once, note what came of it, and tell."""
    origin = "" if entry.command else running.origin(entry.served)
    try:
        with on(cores.client):
            cost = run(entry, origin)
    except Failed as error:
        measured.costs.pop(entry.name, None)
        measured.failed[entry.name] = str(error)
        return f"FAILED, {error}"
    measured.costs.setdefault(entry.name, []).append(cost)
    return f"{1e6 * cost.cpu / cost.units:,.0f} us of CPU per {measured.group.unit}"
