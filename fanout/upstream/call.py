"""The options of one call that concern each of its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fanout.errors import ConfigError
from fanout.transport import CallHeaders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Priority

_PRIORITIES = ("interactive", "bulk")


class Call(NamedTuple):
    """The header fields and the priority of the requests of one call. Rows of equal calls may share a request.

    Attributes:
        headers: fields beside those of the client; None for none.
        urgent: its requests go before those of calls that are not.
    """

    headers: CallHeaders | None = None
    urgent: bool = False

    @classmethod
    def of(cls, headers: Mapping[str, str] | None, priority: Priority) -> Call:
        """Check the options ``headers=`` and ``priority=`` of a call. Raises `ConfigError`."""
        given: Any = priority
        if given not in _PRIORITIES:
            raise ConfigError(f'priority must be "interactive" or "bulk", not {given!r}', key="priority")
        return cls(None if headers is None else CallHeaders(headers), given == "interactive")

    @property
    def has_credentials(self) -> bool:
        """True if a refusal of the credentials may be about those of this call alone."""
        return self.headers is not None and self.headers.has_credentials
