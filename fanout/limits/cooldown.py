"""The gate: no request at all before a time that the endpoint has named."""

from __future__ import annotations


class Cooldown:
    """Shut while the endpoint wants no request at all. One was told to wait, so all wait."""

    def __init__(self) -> None:
        self._opens_at = 0.0

    def shut_until(self, when: float) -> None:
        """Shut the gate; a later opening that was already promised stays."""
        self._opens_at = max(self._opens_at, when)

    def wait(self, now: float) -> float:
        """Seconds until the gate opens; 0 when it is open."""
        return self._opens_at - now if self._opens_at > now else 0.0
