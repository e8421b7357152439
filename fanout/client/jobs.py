"""The jobs of an asynchronous API in the journal of a run: a process that resumes it goes on waiting for them."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from fanout._url import credentials_in
from fanout.engine import Stop
from fanout.io.journal.state import RecordedJob
from fanout.io.row_digests import row_digests
from fanout.rows import RowSet
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Collection

    from fanout._redact import Redactor
    from fanout.io.journal import Journal, JournalState
    from fanout.types import Rows


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

    async def record(self, start: int, stop: int, rows: Rows, url: str) -> Stop | None:
        """Record the URL of the job for some rows, durably. Returns a stop if the journal cannot be written."""
        # Without a record, a process that resumes the run pays for the job again; a secret on a disk would be worse.
        if not self._holds_secret(url):
            try:
                job = RecordedJob(url, await on_thread(self._digest, rows))
                await on_thread(self._journal.record_job, start, stop, job)
            except OSError as error:
                return Stop("output", f"the journal cannot be written: {error}")
        return None

    async def take(self, start: int, stop: int, rows: Rows) -> str | None:
        """The URL of the job that an earlier process has started for exactly these rows, once."""
        job = self._earlier.pop((start, stop), None)
        # Rows without an answer may have been corrected since, or the files that they name.
        return job.url if job is not None and await on_thread(self._digest, rows) == job.digest else None

    def _digest(self, rows: Rows) -> str:
        digests = row_digests(rows, method=self._journal.digest_method)
        return blake2b(digests.tobytes(), digest_size=16).hexdigest()

    def _holds_secret(self, url: str) -> bool:
        return self._redactor.hide(url) != url or any(credentials_in(url))


def _under_way(state: JournalState) -> dict[tuple[int, int], RecordedJob]:
    """The jobs of rows that are not done. Where a chunk was split, the jobs of its parts replace its own."""
    taken = RowSet(state.resolved)
    jobs: dict[tuple[int, int], RecordedJob] = {}
    # The latest first: each job replaces those before it of the same rows.
    for (start, stop), job in reversed(state.jobs.items()):
        if not taken.overlaps(start, stop):
            jobs[start, stop] = job
            taken.add(start, stop)
    return jobs
