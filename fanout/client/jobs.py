"""The jobs of an asynchronous API in the journal of a run: a process that resumes it goes on waiting for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._url import credentials_in
from fanout.engine import Stop
from fanout.rows import RowSet
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Collection

    from fanout._redact import Redactor
    from fanout.io.journal import Journal, JournalState


class JournalledJobs:
    """Records jobs, and gives those of an earlier process.

    Args:
        redactor: a URL with a secret in it is not recorded, since a journal holds none.
    """

    def __init__(self, journal: Journal, redactor: Redactor) -> None:
        self._journal = journal
        self._redactor = redactor
        self._earlier = _under_way(journal.state)

    @property
    def ranges(self) -> Collection[tuple[int, int]]:
        """Start and stop of the rows of each job that an earlier process has started."""
        return self._earlier.keys()

    async def record(self, start: int, stop: int, url: str) -> Stop | None:
        """Record the URL of the job for some rows, durably. Returns a stop if the journal cannot be written."""
        if not self._holds_secret(url):
            try:
                await on_thread(self._journal.record_job, start, stop, url)
            except OSError as error:
                return Stop("output", f"the journal cannot be written: {error}")
        return None

    def take(self, start: int, stop: int) -> str | None:
        """The URL of the job that an earlier process has started for exactly these rows, once."""
        return self._earlier.pop((start, stop), None)

    def _holds_secret(self, url: str) -> bool:
        return self._redactor.hide(url) != url or any(credentials_in(url))


def _under_way(state: JournalState) -> dict[tuple[int, int], str]:
    """The jobs of rows that are not done. Where a chunk was split, the jobs of its parts replace its own."""
    taken = RowSet(state.resolved)
    jobs: dict[tuple[int, int], str] = {}
    for (start, stop), url in reversed(state.jobs.items()):
        if not taken.overlaps(start, stop):
            jobs[start, stop] = url
            taken.add(start, stop)
    return jobs
