"""The base of all fake endpoints: a model, a plan of faults, and a log of the requests.

The plan decides which request meets which fault, by a script, a function, or reproducible chance.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fanout.codecs import codec as codec_by_name
from fanout.errors import ConfigError
from fanout.faults.names import Fault, parse_fault, probabilities
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse
from fanout.serving.models import Model
from fanout.serving.protocol import ServedModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator
    from concurrent.futures import Executor

    from fanout.codecs.base import Codec

T = TypeVar("T")

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
    """A response in place of the model's, as a step of a script.

    Attributes:
        headers: `MockEndpoint` adds a Content-Type of JSON if there is none.
    """


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

    Raises `ConfigError` for an unknown fault, or a probability that is none.
    """

    def __init__(self, faults: Faults = None, seed: int = 0, *, check: Check = checked_step) -> None:
        self._seed = seed
        self._check = check
        self._steps: deque[PlannedStep] = deque()
        self._metadata_steps: deque[PlannedStep] = deque()
        self.set_faults(faults)

    def script(self, steps: Iterable[object], *, metadata: bool = False) -> None:
        """Add steps for the next POST requests, or GET requests for ``metadata``. Raises `ConfigError`."""
        listed = list(steps)
        # One step is often meant for thousands of requests, and to check it encodes its header.
        checked = {key: self._check(step) for key, step in {id(step): step for step in listed}.items()}
        (self._metadata_steps if metadata else self._steps).extend(checked[id(step)] for step in listed)

    def set_faults(self, faults: Faults) -> None:
        """From now on, ``faults`` decide on requests for which nothing is scripted. Raises `ConfigError`."""
        self.chosen: Callable[[ServerRequest], PlannedStep]
        """Gives the step for a POST request for which nothing is scripted."""

        if callable(faults):
            self.chosen = lambda request: self._check(faults(request))
        else:
            sampler = FaultSampler(probabilities(faults or {}), self._seed)
            self.chosen = lambda request: sampler.sample(request.body)

    def scripted(self, method: str) -> tuple[bool, PlannedStep]:
        """Take the next scripted step for a request of that method: True and the step, or False if there is none."""
        steps = self._metadata_steps if method == "GET" else self._steps
        return (True, steps.popleft()) if steps else (False, None)


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


class FakeEndpoint(ServedModel):
    """A model that answers requests, and meets them with faults. `FaultServer` describes its arguments.

    Raises `ConfigError` for an unknown fault, or a probability that is none.

    Args:
        name: the name of a model that is a bare function.
        check: gives the meaning of a scripted step.
    """

    def __init__(
        self,
        model: Callable[[Any], Any] | Model,
        *,
        name: str,
        faults: Faults = None,
        seed: int = 0,
        latency: float | Callable[[int], float] = 0.0,
        record: bool = True,
        worker: Executor | None = None,
        check: Check = checked_step,
    ) -> None:
        whole = model if isinstance(model, Model) else Model(name=name, function=model, embed=model)
        super().__init__(whole, latency=latency, worker=worker)
        self.requests: list[ServerRequest] = []
        """All POST requests in the order in which they came; metadata requests are not among them."""

        self.times: list[float] = []
        """The event loop's time at which each of them came."""

        self.hits: Counter[str] = Counter()
        """The number of requests that met each fault."""

        self._plan = FaultPlan(faults, seed, check=check)
        self._record = record
        self._arrivals: list[tuple[int, asyncio.Future[None]]] = []

    @property
    def origin(self) -> str:
        """The scheme, host and port of the endpoint."""
        raise NotImplementedError

    def url(self, codec: str | Codec | type[Codec] = "json") -> str:
        """The URL at which ``codec`` finds the model."""
        known = codec_by_name(codec) if isinstance(codec, str) else codec
        return self.origin + known.path.replace("{model}", self.model.name)

    def script(self, *steps: Any) -> None:
        """Set the steps of the next POST requests, one each. They go before faults by chance.

        Raises `ConfigError` for an unknown fault, and for a step that cannot be played.
        """
        self._plan.script(steps)

    def script_metadata(self, *steps: Any) -> None:
        """The same for GET requests, with which codecs ask about the model."""
        self._plan.script(steps, metadata=True)

    def misbehave(self, faults: Faults) -> None:
        """Replace the faults of requests for which nothing is scripted. Raises `ConfigError`."""
        self._plan.set_faults(faults)

    async def arrived(self, number: int) -> None:
        """Wait until so many POST requests have come in all."""
        if self.received < number:
            arrival = asyncio.get_running_loop().create_future()
            self._arrivals.append((number, arrival))
            await arrival

    async def _play(
        self, request: ServerRequest, planned: tuple[bool, PlannedStep], act: Callable[[PlannedStep], Awaitable[T]]
    ) -> T:
        """Let ``act`` answer a request under its step: the ``planned`` one if that is scripted, else one by chance."""
        scripted, step = planned
        # Requests for metadata have no latency and no faults by chance: a test of them scripts its steps.
        if request.method != "POST":
            self._count_hit(step)
            return await act(step)
        with self.counted(request) as latency:
            await asyncio.sleep(latency)
            # Chosen after the latency, so that a change of the faults meets the requests in flight, too.
            step = step if scripted else self._plan.chosen(request)
            self._count_hit(step)
            return await act(step)

    def _count_hit(self, step: PlannedStep) -> None:
        if isinstance(step, Fault):
            self.hits[step.name] += 1

    @contextmanager
    def counted(self, request: ServerRequest) -> Iterator[float]:
        """Count a POST request as in flight, and record it. Gives the seconds that its response takes."""
        if self._record:  # first, as a function of the latency may look at the request
            self.requests.append(request)
            self.times.append(asyncio.get_running_loop().time())
        with super().counted(request) as latency:
            # A cancelled waiter is done already, and must not be set again.
            for awaited, arrival in self._arrivals:
                if self.received >= awaited and not arrival.done():
                    arrival.set_result(None)
            yield latency
