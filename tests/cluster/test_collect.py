"""Parts of attempts into the journal of the output."""

from __future__ import annotations

from fanout.cluster.collect import Collector
from fanout.io.journal.journal import Journal
from fanout.io.journal.state import RecordedJob
from fanout.io.writers.opening import open_sink
from fanout.paths import journal_path


def test_a_driver_that_is_killed_still_knows_the_jobs_of_parts_that_it_has_removed(tmp_path) -> None:
    output, part = tmp_path / "y.npy", tmp_path / "000001.part"
    attempt = Journal(journal_path(part), {"attempt": 1})
    attempt.record_job(4, 8, RecordedJob("http://h/jobs/1", "digest"))
    attempt.close()
    journal = Journal(journal_path(output), {"input": 1})
    Collector(open_sink(output), journal).collect(part, [(0, 8)])
    journal.close()
    resumed = Journal(journal_path(output), {"input": 1})
    assert resumed.state.jobs == {(4, 8): RecordedJob("http://h/jobs/1", "digest")}
    resumed.close()
