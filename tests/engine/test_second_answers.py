"""An endpoint that answers a request twice puts rows in doubt, and ends the run unless another one can go on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fanout.engine.second_answers import SecondAnswers
from fanout.rows import RowSet
from fanout.stop import Stop

OWNER = object()


class Parts:
    """The parts of a run that second answers concern, as a test sees them."""

    def __init__(self, *, has_alternative: bool) -> None:
        self.suspect, self.stops, self.excluded = RowSet(), list[Stop](), list[str]()
        self.listeners: dict[Any, None] = {}
        balancer = SimpleNamespace(has_alternative=lambda endpoint: has_alternative)
        group: Any = SimpleNamespace(balancer=balancer, on_second_answer=self.listeners)
        reporter = SimpleNamespace(exclude=lambda endpoint, reason: self.excluded.append(reason))
        dispatcher: Any = SimpleNamespace(owner=OWNER, reporter=reporter)
        chunker: Any = SimpleNamespace(distrust=lambda: RowSet([(90, 91)]))
        self.answers = SecondAnswers(group, dispatcher, chunker, self, self.stops.append)  # type: ignore[arg-type]

    def distrust(self, rows: RowSet) -> None:
        for start, stop in rows:
            self.suspect.add(start, stop)

    def answer_twice(self) -> None:
        endpoint = SimpleNamespace(transport=SimpleNamespace(shown_url="http://h/m"))
        (report,) = self.listeners
        report(endpoint, [(OWNER, 4, 8, None), (object(), 40, 44, None)])


def test_the_only_endpoint_stops_the_run_at_once() -> None:
    parts = Parts(has_alternative=False)
    with parts.answers:
        parts.answer_twice()
    assert list(parts.suspect) == [(4, 8), (90, 91)], "those of other runs are theirs, and shared answers are in doubt"
    (stop,) = parts.stops
    assert stop.kind == "duplicate"
    assert "http://h/m answered a request twice, so the answers for rows 4:8 of this run" in stop.reason
    assert parts.answers.stop_at_end is None
    assert not parts.listeners, "the endpoints are followed only while entered"


@pytest.mark.parametrize("resent", [False, True])
def test_one_of_several_is_excluded_and_the_run_stops_at_its_end_if_rows_are_still_in_doubt(resent: bool) -> None:
    parts = Parts(has_alternative=True)
    with parts.answers:
        parts.answer_twice()
        parts.answer_twice()
    assert (parts.stops, parts.excluded) == ([], ["it answered a request twice"] * 2)
    if resent:
        parts.suspect.remove(0, 100)
    end = parts.answers.stop_at_end
    assert (end is None) is resent
    assert end is None or end.kind == "duplicate"
