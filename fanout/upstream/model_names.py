"""The names that answers give their model: those of several endpoints have to be one model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.errors import InvalidResponse

if TYPE_CHECKING:
    from fanout.upstream.endpoint import EndpointState

_NO_ROUTER = 8
"""As many answers in a row of another model, for each name among them, are not those of a router."""

_MANY_NAMES = 4
"""More names do not excuse more answers."""

_MOST = 64
"""Names of one endpoint that are remembered."""


class _Strange:
    """Answers of one endpoint with names that do not count."""

    __slots__ = ("in_a_row", "names", "since")

    def __init__(self, since: float) -> None:
        self.names: set[str] = set()
        self.since = since
        """The time of the first such answer."""

        self.in_a_row = 0
        """Such answers without another in between, to requests that were sent after the first one came."""

    @property
    def limit(self) -> int:
        """A router gives fewer such answers in a row."""
        return _NO_ROUTER * min(len(self.names), _MANY_NAMES)


class ModelNames:
    """Decides whose answers are of the same model.

    The first name counts. A router chooses among models and names another one in every answer, so an endpoint that
    comes back to a name that counts, in a request sent after an answer of another name, alternates: all its names count
    then. An endpoint whose name changed for good was given another model.
    """

    def __init__(self) -> None:
        self._counting: set[str] = set()
        self._strange: dict[EndpointState, _Strange] = {}

    def check(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        """Raise `InvalidResponse` for another model's answer, from ``endpoint``, to a request sent at ``sent``."""
        pinned = endpoint.transport.model
        if pinned is None and not self._counting:
            self._counting.add(name)
        if name != pinned if pinned is not None else name not in self._counting:
            self._note(endpoint, name, sent, now)
            raise InvalidResponse(self._objection(name, pinned), error_kind="model")
        if (strange := self._strange.get(endpoint)) is not None:
            strange.in_a_row = 0
            if pinned is None and sent >= strange.since:
                self._counting |= strange.names
                del self._strange[endpoint]

    def is_another(self, endpoint: EndpointState) -> bool:
        """True if ``endpoint`` serves another model: by now a router would have named one that counts.

        The more models a router chooses among, the longer it may not come to one that counts. While another endpoint
        shares a name with ``endpoint`` and may still be found to be a router, ``endpoint`` has twice as long.
        """
        strange = self._strange.get(endpoint)
        if strange is None or strange.in_a_row < strange.limit:
            return False
        undecided = (other for other in self._strange.values() if other.in_a_row < other.limit)
        related = any(not strange.names.isdisjoint(other.names) for other in undecided)
        return strange.in_a_row >= (2 if related else 1) * strange.limit

    def _note(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        strange = self._strange.get(endpoint)
        if strange is None:
            strange = self._strange[endpoint] = _Strange(now)
        if len(strange.names) < _MOST:
            strange.names.add(name)
        strange.in_a_row += sent >= strange.since

    def _objection(self, name: str, pinned: str | None) -> str:
        if pinned is not None:
            return f"the answer is of model {name!r}, not of {pinned!r} (endpoint.model)"
        others = ", ".join(map(repr, sorted(self._counting)[:3]))
        remedy = "all endpoints have to serve the same one; endpoint.model says which"
        return f"the answer is of model {name!r}, others are of {others}: {remedy}"
