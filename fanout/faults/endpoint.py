"""The base of all fake endpoints: a model, a plan of faults, and a log of the requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fanout.codecs import codec as codec_by_name
from fanout.faults.names import Fault
from fanout.faults.plan import FaultPlan, checked_step
from fanout.serving.models import Model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.codecs.base import Codec
    from fanout.faults.plan import Check, Faults, PlannedStep
    from fanout.serving.exchange import ServerRequest


class FakeEndpoint:
    """A model that answers requests, and meets them with faults.

    Args:
        model: a function on arrays, or a whole `Model`.
        name: the name of a model that is a bare function.
        faults: probabilities by fault, or a function that gives a step for each request.
        seed: another one brings other faults.
        latency: seconds that every response takes, or a function that gives them for each request number.
        record: keep every request in `requests`, with its time in `times`.
        check: gives the meaning of a scripted step.

    Raises:
        ConfigError: an unknown fault, or a probability that is none.
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
        check: Check = checked_step,
    ) -> None:
        self.model = model if isinstance(model, Model) else Model(name=name, function=model, embed=model)
        self.requests: list[ServerRequest] = []
        """All POST requests in the order in which they came; metadata requests are not among them."""

        self.times: list[float] = []
        """The event loop's time at which each of them came."""

        self.received = 0
        """The number of POST requests, recorded or not."""

        self.hits: Counter[str] = Counter()
        """The number of requests that met each fault."""

        self.rows = 0
        """Rows that the model has answered."""

        self.in_flight = 0
        self.max_in_flight = 0
        self._plan = FaultPlan(faults, seed, check=check)
        self._latency = latency if callable(latency) else lambda _: latency
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

    def _count_hit(self, step: PlannedStep) -> None:
        if isinstance(step, Fault):
            self.hits[step.name] += 1

    @contextmanager
    def _logged(self, request: ServerRequest) -> Iterator[float]:
        """Count a POST request as in flight. Gives the seconds that its response takes."""
        number = self.received
        self.received += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self._record:
            self.requests.append(request)
            self.times.append(asyncio.get_running_loop().time())
        for awaited, arrival in self._arrivals:
            if self.received >= awaited and not arrival.done():
                arrival.set_result(None)
        try:
            yield self._latency(number)
        finally:
            self.in_flight -= 1
