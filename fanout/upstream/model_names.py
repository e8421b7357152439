"""The names that responses give their model: those of several endpoints have to be one model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.errors import InvalidResponse

if TYPE_CHECKING:
    from fanout.upstream.endpoint import EndpointState

_NO_ROUTER = 8
"""As many responses in a row of another model, for each name among them, are not those of a router."""

_MANY_NAMES = 4
"""More names do not excuse more responses."""

_MOST = 64
"""Names of one endpoint that are remembered."""


class _Foreign:
    """Responses of one endpoint with names that do not count."""

    __slots__ = ("in_a_row", "names", "since")

    def __init__(self, since: float) -> None:
        self.names: set[str] = set()
        self.since = since
        """The time of the first such response."""

        self.in_a_row = 0
        """Such responses without another in between, to requests sent after the first one came."""

    @property
    def limit(self) -> int:
        """A router gives fewer such responses in a row."""
        return _NO_ROUTER * min(len(self.names), _MANY_NAMES)


class ModelNames:
    """Decides which responses are of the same model.

    The first name counts. A router chooses among models and names another one in every response, so an endpoint that
    returns to a name that counts, in a request sent after a response of another name, alternates: all its names count
    then. An endpoint whose name changed for good was given another model.

    Args:
        single: there is one endpoint, so that only a pinned name (``endpoint.model``) is checked.
    """

    def __init__(self, *, single: bool = False) -> None:
        self._single = single
        self._counting: set[str] = set()
        self._foreign: dict[EndpointState, _Foreign] = {}

    def check(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        """Raise `InvalidResponse` for another model's response, from ``endpoint``, to a request sent at ``sent``."""
        pinned = endpoint.transport.model
        if pinned is None:
            if self._single:
                return
            if not self._counting:
                self._counting.add(name)
        if name != pinned if pinned is not None else name not in self._counting:
            self._note(endpoint, name, sent, now)
            raise InvalidResponse(self._objection(name, pinned), error_kind="model")
        if (foreign := self._foreign.get(endpoint)) is not None:
            foreign.in_a_row = 0
            if pinned is None and sent >= foreign.since:
                self._counting |= foreign.names
                del self._foreign[endpoint]

    def is_another(self, endpoint: EndpointState) -> bool:
        """True if ``endpoint`` serves another model: by now a router would have named one that counts.

        The more models a router chooses among, the longer it may avoid those that count. While another endpoint
        shares a name with ``endpoint`` and may still turn out to be a router, ``endpoint`` has twice as long.
        """
        foreign = self._foreign.get(endpoint)
        if foreign is None or foreign.in_a_row < foreign.limit:
            return False
        undecided = (other for other in self._foreign.values() if other.in_a_row < other.limit)
        related = any(not foreign.names.isdisjoint(other.names) for other in undecided)
        return foreign.in_a_row >= (2 if related else 1) * foreign.limit

    def _note(self, endpoint: EndpointState, name: str, sent: float, now: float) -> None:
        foreign = self._foreign.get(endpoint)
        if foreign is None:
            foreign = self._foreign[endpoint] = _Foreign(now)
        if len(foreign.names) < _MOST:
            foreign.names.add(name)
        foreign.in_a_row += sent >= foreign.since

    def _objection(self, name: str, pinned: str | None) -> str:
        if pinned is not None:
            return f"the answer is of model {name!r}, not of {pinned!r} (endpoint.model)"
        others = ", ".join(map(repr, sorted(self._counting)[:3]))
        remedy = "all endpoints have to serve the same one; endpoint.model says which"
        return f"the answer is of model {name!r}, others are of {others}: {remedy}"
