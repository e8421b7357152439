"""The state of a run, as its journal records it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fanout.io.publication import Publication
    from fanout.results import Failure
    from fanout.types import Schema


class Spent(NamedTuple):
    """The spending of a run, of all its processes so far.

    Attributes:
        cost: in the currency of the prices at that time.
        tokens: input and output tokens.
        estimated: part of the cost that is estimated.
        is_known: False if the cost has parts whose usage or price is unknown.
    """

    cost: float = 0.0
    tokens: float = 0.0
    estimated: float = 0.0
    is_known: bool = True


class Spending(NamedTuple):
    """The spending of a run, and the sum up to which its process may spend before the next record.

    Attributes:
        spent: None if it was never counted.
        allowed: cost and tokens; None if no process may spend.
    """

    spent: Spent | None = None
    allowed: tuple[float, float] | None = None

    @property
    def charged(self) -> Spent | None:
        """The spending, with all that a process may have spent that was killed."""
        if self.spent is None or self.allowed is None:
            return self.spent
        cost, tokens = map(max, self.allowed, self.spent)
        return self.spent._replace(cost=cost, tokens=tokens, estimated=self.spent.estimated + cost - self.spent.cost)


class RecordedJob(NamedTuple):
    """The job that an asynchronous API was given for some rows.

    Attributes:
        url: where its state is.
        digest: of the content of its rows; empty in journals that were written before there were any.
    """

    url: str
    digest: str = ""


@dataclass(slots=True)
class JournalState:
    """The sum of a journal's records.

    Attributes:
        identity: input, codec and path of the URL, which identify the run.
        resolved: rows that are answered or have failed.
        schema: dtypes and shapes of the outputs; None before the first answer.
        notes: the sink's notes, in order.
        n_rows: rows of the whole input; None until they are known.
        publication: the files that are whole, once all rows are done.
        replaced: files of earlier runs into the same output, relative to the journal's folder. The publication removes
            those that this run does not replace.
        complete: the files have their final names.
        complete_run: the complete run whose failed rows alone are sent again. Its output stays until that has ended.
        spending: what it has cost, and may cost before the next record.
        jobs: start and stop of rows -> the job that an asynchronous API was given for them. Some may be done.
    """

    identity: Mapping[str, Any]
    resolved: RowSet = field(default_factory=RowSet)
    failures: list[Failure] = field(default_factory=list)
    schema: Schema | None = None
    notes: list[Any] = field(default_factory=list)
    n_rows: int | None = None
    publication: Publication | None = None
    replaced: tuple[str, ...] = ()
    complete: bool = False
    complete_run: JournalState | None = None
    spending: Spending = field(default_factory=Spending)
    jobs: dict[tuple[int, int], RecordedJob] = field(default_factory=dict)

    @property
    def spent(self) -> Spent | None:
        """The spending; None if it was never counted."""
        return self.spending.spent

    @property
    def charged(self) -> Spent | None:
        """The spending, with all that a process may have spent that was killed."""
        return self.spending.charged

    @property
    def ok(self) -> RowSet:
        """Rows that have an answer."""
        rows = RowSet(self.resolved)
        for failure in self.failures:
            rows.remove(failure.start, failure.stop)
        return rows

    @property
    def jobs_under_way(self) -> dict[tuple[int, int], RecordedJob]:
        """The jobs of rows that are not done. Where a chunk was split, the jobs of its parts replace its own."""
        taken = RowSet(self.resolved)
        jobs: dict[tuple[int, int], RecordedJob] = {}
        # The latest first: each job replaces those before it of the same rows.
        for (start, stop), job in reversed(self.jobs.items()):
            if not taken.overlaps(start, stop):
                jobs[start, stop] = job
                taken.add(start, stop)
        return jobs

    @property
    def layout(self) -> Mapping[str, Any] | None:
        """The columns of the published output, for a sink that reads its answers back."""
        return None if self.publication is None else self.publication.layout

    @property
    def failed(self) -> int:
        """Number of failed rows."""
        return sum(failure.n_rows for failure in self.failures)

    @property
    def is_retry(self) -> bool:
        """True while the failed rows of a complete run are sent again; to others that run is still complete."""
        return self.complete_run is not None and self.publication is None

    @property
    def in_place(self) -> JournalState:
        """The run whose output is in place: while failed rows are sent again, the complete one before."""
        return self.complete_run if self.is_retry and self.complete_run is not None else self

    def files(self, folder: Path) -> tuple[str, ...]:
        """Return all files in place, of this run and of those before it, relative to ``folder``."""
        moves = self.publication.moves if self.publication else ()
        return tuple(dict.fromkeys((*self.replaced, *(os.path.relpath(target, folder) for _, target in moves))))

    def retry(self, notes: Sequence[Any]) -> JournalState:
        """Return the state in which only the failed rows of this complete run are left."""
        return JournalState(
            self.identity,
            self.ok,
            schema=self.schema,
            notes=list(notes),
            n_rows=self.n_rows,
            complete_run=self,
            spending=Spending(self.charged),
        )
