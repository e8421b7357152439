"""Second answers: an endpoint that answers one request twice may give the answers of others to all that follow.

HTTP/1.1 matches an answer with its request by their order on a connection alone, so that each connection to such an
endpoint is in doubt, with the last rows that were answered over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.rows import RowSet
from fanout.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.engine.chunker import Chunker
    from fanout.engine.results import ResultCollector
    from fanout.transport import RowsSent
    from fanout.upstream.admission import Dispatcher
    from fanout.upstream.group import EndpointGroup, EndpointState

TWICE = "it answered a request twice"


class SecondAnswers:
    """Keeps rows pending whose answers are in doubt, and ends the run where no other endpoint can go on.

    It follows the endpoints while entered.

    Args:
        stop: stops the run at once.
    """

    def __init__(
        self,
        group: EndpointGroup,
        dispatcher: Dispatcher,
        chunker: Chunker,
        collector: ResultCollector,
        stop: Callable[[Stop], None],
    ) -> None:
        self._group = group
        self._dispatcher = dispatcher
        self._chunker = chunker
        self._collector = collector
        self._stop = stop
        self._excluded_for: Stop | None = None

    def __enter__(self) -> SecondAnswers:
        self._group.on_second_answer[self._distrust] = None
        return self

    def __exit__(self, *_: object) -> None:
        del self._group.on_second_answer[self._distrust]

    @property
    def stop_at_end(self) -> Stop | None:
        """The stop of a run whose other endpoints went on: rows are pending, which the next run sends again."""
        return self._excluded_for if self._collector.suspect else None

    def _distrust(self, endpoint: EndpointState, answered: Sequence[RowsSent]) -> None:
        rows = RowSet((start, stop) for whose, start, stop, _ in answered if whose is self._dispatcher.owner)
        self._collector.distrust(rows)
        self._collector.distrust(self._chunker.distrust())
        named = f"rows {rows.listed()} of this run" if rows else "rows of an earlier run"
        stop = answered_twice(endpoint, named)
        if not self._group.balancer.has_alternative(endpoint):
            self._stop(stop)
            return
        # The others go on; rows in doubt are those of this endpoint's connections alone.
        self._dispatcher.reporter.exclude(endpoint, TWICE)
        self._excluded_for = self._excluded_for or stop


def answered_twice(endpoint: EndpointState, named: str) -> Stop:
    """Return the stop for an endpoint that answered a request twice. The answers of ``named`` rows are in doubt."""
    return Stop(
        "duplicate",
        f"{endpoint.transport.shown_url} answered a request twice, so the answers for {named}, which came over its "
        "connections, may be those of other rows; where the server repeats a request's id in its answer, set "
        "request_id_header",
    )
