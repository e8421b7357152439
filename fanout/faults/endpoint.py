"""The base of all fake endpoints: a model, a plan of faults, and a log of the requests."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fanout.codecs import codec as codec_by_name
from fanout.faults.names import Fault
from fanout.faults.plan import FaultPlan, checked_step
from fanout.serving.models import Model
from fanout.serving.protocol import ServedModel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Executor

    from fanout.codecs.base import Codec
    from fanout.faults.plan import Check, Faults, PlannedStep
    from fanout.serving.exchange import ServerRequest

T = TypeVar("T")


class FakeEndpoint(ServedModel):
    """A model that answers requests, and meets them with faults.

    Args:
        model: a function on arrays, or a whole `Model`.
        name: the name of a model that is a bare function.
        faults: probabilities by fault, or a function that gives a step for each request.
        seed: another one brings other faults.
        latency: seconds that every response takes, or a function that gives them for each request number.
        record: keep every request in `requests`, with its time in `times`.
        worker: calls the model, so that a slow one does not block the server; by default the event loop calls it.
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
