"""The sessions of a run on one time axis."""

from __future__ import annotations

from fanout.report.recording import EndpointTotals, RecordedSession, Sample, Session, Totals
from fanout.report.timeline import Timeline


def sample(seconds: float, *requests: int) -> Sample:
    return Sample(seconds, 0, 0, 0, 0, 0, 0, 1, None, requests, {})


def session(urls: tuple[str, ...], *samples: Sample) -> RecordedSession:
    endpoints = [EndpointTotals(url, 0, None, "in use", "") for url in urls]
    totals = Totals(2.0, 0, 0, 0, [], 1, 0, 0, endpoints, [], {}, 0)
    return RecordedSession(Session(0.0, None, 0, {}), list(samples), totals=totals)


def test_requests_stay_with_their_endpoint_when_a_later_session_names_the_endpoints_in_another_order():
    before = session(("a", "b"), sample(1.0, 10, 0), sample(2.0, 20, 0))
    after = session(("b", "a"), sample(1.0, 0, 30), sample(2.0, 0, 60))
    series = {one.name: [value for _, value in one.points] for one in Timeline([before, after]).endpoint_series()}
    assert series == {"b": [0, 0, 0, None, 0, 0, 0], "a": [10, 10, 10, None, 30, 30, 30]}
