"""Which request gets which fault: scripted, or by chance that is the same in every run."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.serving.faults.names import Fault

_MOST_IN_A_ROW = 2
_RANGE = 2.0**64


class FaultSampler:
    """Throws for a fault by the seed, the request's body and how often that body came in a row, and nothing else.

    So two runs with the same seed see the same faults, whatever the order in which their requests arrive. No body has
    a fault more than twice in a row: a client that makes three attempts comes through.
    """

    def __init__(self, faults: Mapping[Fault, float], seed: int) -> None:
        self._faults = dict(faults)
        self._key = seed.to_bytes(16, "little", signed=True)
        self._in_a_row: dict[bytes, int] = {}

    def throw(self, body: bytes) -> Fault | None:
        """The fault for a request with this body, or None."""
        name = blake2b(body, digest_size=16, key=self._key).digest()
        before = self._in_a_row.get(name, 0)
        fault = self._fault(name, before) if before < _MOST_IN_A_ROW else None
        if fault is None:
            self._in_a_row.pop(name, None)
        else:
            self._in_a_row[name] = before + 1
        return fault

    def _fault(self, name: bytes, before: int) -> Fault | None:
        thrown = int.from_bytes(blake2b(name + bytes([before]), digest_size=8).digest()) / _RANGE
        for fault, probability in self._faults.items():
            if thrown < probability:
                return fault
            thrown -= probability
        return None
