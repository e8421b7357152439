"""The jobs of an asynchronous API in the journal of a run: a process that resumes it goes on waiting for them."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from fanout._url import credentials_in
from fanout.engine import Stop
from fanout.io.journal.state import RecordedJob
from fanout.io.row_digests import row_digests
from fanout.rows import RowSet
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from fanout._redact import Redactor
    from fanout.client.identity import Content
    from fanout.io.journal.journal import Journal
    from fanout.types import Array, Rows


class JournalledJobs:
    """Records jobs, and gives those of an earlier process.

    Args:
        redactor: a URL with a secret in it is not recorded, since a journal holds none.
    """

    def __init__(self, journal: Journal, redactor: Redactor) -> None:
        self._journal = journal
        self._redactor = redactor
        self._earlier = journal.state.jobs_under_way

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
        return _digest_of(row_digests(rows, method=self._journal.digest_method))

    def _holds_secret(self, url: str) -> bool:
        return self._redactor.hide(url) != url or any(credentials_in(url))


def jobs_among(
    content: Content, jobs: Mapping[tuple[int, int], RecordedJob], done: RowSet, method: str
) -> dict[tuple[int, int], RecordedJob]:
    """Return jobs under the numbers that their rows have in another input, without those whose rows it lacks.

    Reads the input if there is a job. ``done`` are its rows that need none, ``method`` is that of the digests.
    """
    if not jobs:
        return {}
    digests = np.concatenate([np.empty((0, 2), np.uint64), *content.digests(method, with_ids=False)])
    starts: dict[int, dict[str, list[int]]] = {}
    taken, among = RowSet(done), {}
    for (start, stop), job in jobs.items():
        n_rows = stop - start
        if n_rows not in starts:
            wanted = {job.digest for (a, b), job in jobs.items() if b - a == n_rows}
            starts[n_rows] = _starts(digests, n_rows, wanted)
        # Among equal rows, those in the same place come first.
        for place in sorted(starts[n_rows].get(job.digest, ()), key=lambda place: place != start):
            if not taken.overlaps(place, place + n_rows):
                among[place, place + n_rows] = job
                taken.add(place, place + n_rows)
                break
    return among


def _starts(digests: Array, n_rows: int, wanted: Collection[str]) -> dict[str, list[int]]:
    """Return the first rows of all ranges of ``n_rows`` rows that have one of the ``wanted`` digests."""
    starts: dict[str, list[int]] = {}
    for start in range(len(digests) - n_rows + 1):
        if (digest := _digest_of(digests[start : start + n_rows])) in wanted:
            starts.setdefault(digest, []).append(start)
    return starts


def _digest_of(digests: Array) -> str:
    return blake2b(digests.tobytes(), digest_size=16).hexdigest()
