"""The plan of a fake endpoint: which request meets which fault, by a script, a function, or reproducible chance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeAlias

from fanout.errors import ConfigError
from fanout.faults.names import Fault, parse_fault, probabilities
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

Step: TypeAlias = str | int | ServerResponse | None
"""A fault's name (with a parameter: ``"drip:0.01"``), a status, a whole response, or None: the model answers."""

Faults: TypeAlias = Mapping[str, float] | Callable[[ServerRequest], Step] | None
"""Probabilities by fault, or a function that decides for each request."""

PlannedStep: TypeAlias = Fault | ServerResponse | Exception | type[Exception] | None
"""A step that has been checked. A fake without connections raises an exception in place of a response."""

Check: TypeAlias = Callable[[object], PlannedStep]

_MOST_IN_A_ROW = 2
_RANGE = 2.0**64


@checks_options
@dataclass(frozen=True, kw_only=True)
class Scripted(ServerResponse):
    """A response in place of the model's, as a step of a script."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    """Header fields. `MockEndpoint` adds a Content-Type of JSON if there is none."""

    body: bytes = b""


def checked_step(step: object) -> PlannedStep:
    """The meaning of a scripted step. Raises `ConfigError` for one that cannot be played."""
    if step is None or isinstance(step, Fault):
        return step
    if isinstance(step, str | int) and not isinstance(step, bool):
        return parse_fault(step)
    if not isinstance(step, ServerResponse):
        raise ConfigError(
            f"a step is a fault's name, a status, a response (Scripted) or None, not {step!r} of type "
            f"{type(step).__name__}",
            key="script",
        )
    if not _can_be_sent(step):
        raise ConfigError(
            f"{step!r} cannot be sent: status must be a number of three digits, headers a mapping of latin-1 texts, "
            "body bytes",
            key="script",
        )
    return step


def _can_be_sent(response: ServerResponse) -> bool:
    try:
        # Encoding the head finds header fields that HTTP cannot carry.
        response.head()
        values = all(isinstance(value, str) for value in response.headers.values())
        return values and 100 <= response.status <= 999 and isinstance(response.body, bytes)
    except (AttributeError, TypeError, ValueError):
        return False


class FaultPlan:
    """Gives each request its step: the next scripted one, else that of ``faults``.

    Args:
        faults: probabilities by fault, or a function that gives a step for each request.
        seed: another one brings other faults.
        check: gives the meaning of a scripted step.

    Raises:
        ConfigError: an unknown fault, or a probability that is none.
    """

    def __init__(self, faults: Faults = None, seed: int = 0, *, check: Check = checked_step) -> None:
        self._seed = seed
        self._check = check
        self._steps: deque[PlannedStep] = deque()
        self._metadata_steps: deque[PlannedStep] = deque()
        self.set_faults(faults)

    def script(self, steps: Iterable[object], *, metadata: bool = False) -> None:
        """Add steps for the next POST requests, or GET requests for ``metadata``. Raises `ConfigError`."""
        (self._metadata_steps if metadata else self._steps).extend([self._check(step) for step in steps])

    def set_faults(self, faults: Faults) -> None:
        """From now on, ``faults`` decide on requests for which nothing is scripted. Raises `ConfigError`."""
        self._choose = faults if callable(faults) else None
        self._sampler = FaultSampler({} if faults is None or callable(faults) else probabilities(faults), self._seed)

    def scripted(self, method: str) -> tuple[bool, PlannedStep]:
        """Take the next scripted step for a request of that method: True and the step, or False if there is none."""
        steps = self._metadata_steps if method == "GET" else self._steps
        return (True, steps.popleft()) if steps else (False, None)

    def chosen(self, request: ServerRequest) -> PlannedStep:
        """The step for a POST request for which nothing is scripted."""
        if request.method != "POST":
            return None
        if self._choose is not None:
            return self._check(self._choose(request))
        return self._sampler.sample(request.body)


class FaultSampler:
    """Draws faults by the seed, the request's body and the faults that the body has met in a row, and nothing else.

    So two runs with the same seed meet the same faults, in whatever order their requests arrive. No body meets a fault
    more than twice in a row: a client that makes three attempts comes through.
    """

    def __init__(self, faults: Mapping[Fault, float], seed: int) -> None:
        self._faults = dict(faults)
        self._key = seed.to_bytes(16, "little", signed=True)
        self._in_a_row: dict[bytes, int] = {}

    def sample(self, body: bytes) -> Fault | None:
        """The fault for a request with this body, or None."""
        # Digests, because the bodies of a long run would fill the memory.
        name = blake2b(body, digest_size=16, key=self._key).digest()
        before = self._in_a_row.get(name, 0)
        fault = self._fault(name, before) if before < _MOST_IN_A_ROW else None
        if fault is None:
            # Forgotten after a success, so that the table holds no more than the requests that fail now.
            self._in_a_row.pop(name, None)
        else:
            self._in_a_row[name] = before + 1
        return fault

    def _fault(self, name: bytes, before: int) -> Fault | None:
        # A number from 0 to 1 that depends on the seed, the body and the faults before it.
        drawn = int.from_bytes(blake2b(name + bytes([before]), digest_size=8).digest()) / _RANGE
        for fault, probability in self._faults.items():
            if drawn < probability:
                return fault
            drawn -= probability
        return None
