"""A server that answers rightly through `fanout.serving.protocol`, and wrongly where it is told to."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from fanout.errors import ConfigError
from fanout.serving.exchange import ServerRequest, ServerResponse, json_answer
from fanout.serving.faults.acts import Turn
from fanout.serving.faults.answers import in_json
from fanout.serving.faults.chance import FaultSampler
from fanout.serving.faults.line import LONGEST_HEAD, Line, Traffic, framed
from fanout.serving.faults.names import Fault, checked_step, probabilities
from fanout.serving.models import Model
from fanout.serving.protocol import answer

if TYPE_CHECKING:
    import ssl
    from concurrent.futures import Executor
    from types import TracebackType

Step: TypeAlias = str | int | ServerResponse | None
"""A fault's name (with a parameter: ``"drip:0.01"``), a status, a whole answer, or None: the model answers."""

_Meaning: TypeAlias = Fault | ServerResponse | None

Faults: TypeAlias = Mapping[str, float] | Callable[[ServerRequest], Step] | None
"""Probabilities by fault, or a function that decides for each request."""

_BACKLOG = 1024
_BY_CHANCE = ServerResponse(status=0, headers={}, body=b"")
"""Stands where nothing is scripted."""


class FaultServerError(AssertionError):
    """A test's server broke: what the test has seen of it says nothing."""


class FaultyServer:
    """A model server on a port of its own that misbehaves on purpose. An async context manager.

    Args:
        model: a function on arrays, or a whole `Model`.
        faults: what befalls requests for which nothing is scripted.
        seed: makes the same faults befall the same bodies.
        latency: seconds that every answer takes.
        host, port: where to listen; port 0 takes a free one.
        tls: what the server proves itself by; without it, it speaks plain HTTP.
        record: keep every request in `requests`, with its time in `times`.
        worker: where the model is called, so that a slow one does not hold up the server; by default in the loop.

    Raises:
        FaultServerError: at the end, if the model or a function of faults made it break.
    """

    requests: list[ServerRequest]
    """All POST requests in order of arrival, as they came; metadata requests are not among them."""

    times: list[float]
    """The loop's time at which each of them came."""

    received: int
    """How many came, recorded or not."""

    hits: Counter[str]
    """How often each fault was had."""

    connections: int
    """How many connections clients have made."""

    rows: int
    """Rows that the model has answered."""

    in_flight: int
    max_in_flight: int

    def __init__(
        self,
        model: Callable[[Any], Any] | Model,
        *,
        faults: Faults = None,
        seed: int = 0,
        latency: float = 0.0,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        record: bool = True,
        worker: Executor | None = None,
    ) -> None:
        self.model = model if isinstance(model, Model) else Model(name="faulty", function=model, embed=model)
        self._seed = seed
        self.misbehave(faults)
        self._latency = latency
        self._address = host, port
        self._tls = tls
        self._record = record
        self._worker = worker
        self._steps: deque[_Meaning] = deque()
        self._metadata_steps: deque[_Meaning] = deque()
        self._broken: BaseException | None = None
        self._ending = False
        self._traffic = Traffic()
        self._listener: socket.socket | None = None
        self._lines: set[Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrivals: list[tuple[int, asyncio.Future[None]]] = []
        self.requests = []
        self.times = []
        self.hits = Counter()
        self.received = self.connections = self.rows = self.in_flight = self.max_in_flight = 0

    @property
    def origin(self) -> str:
        """``http://host:port``."""
        host, port = self._holder.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http{'s' if self._tls else ''}://{shown}:{port}"

    @property
    def bytes_received(self) -> int:
        """Bytes of requests, headers included."""
        return self._traffic.received

    @property
    def bytes_sent(self) -> int:
        """Bytes of answers, headers included."""
        return self._traffic.sent

    def script(self, *steps: Step) -> None:
        """What befalls the next POST requests, one step each. It goes before what is left to chance.

        Raises `ConfigError` for a fault that is not known, and for what is no step at all.
        """
        self._steps.extend([checked_step(step) for step in steps])

    def script_metadata(self, *steps: Step) -> None:
        """The same for GET requests, with which codecs ask about the model."""
        self._metadata_steps.extend([checked_step(step) for step in steps])

    def misbehave(self, faults: Faults) -> None:
        """From now on, these are the faults of requests for which nothing is scripted. Raises `ConfigError`."""
        self._choose = faults if callable(faults) else None
        self._dice = FaultSampler({} if faults is None or callable(faults) else probabilities(faults), self._seed)

    async def arrived(self, number: int) -> None:
        """Wait until so many POST requests have come in all."""
        if self.received < number:
            arrival = asyncio.get_running_loop().create_future()
            self._arrivals.append((number, arrival))
            await arrival

    async def refuse(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for a while."""
        self._hang_up()
        self._start(self._listen_after(seconds))
        for line in self._lines:
            line.reset()

    async def __aenter__(self) -> Self:
        self._holder = _bound(*self._address)
        try:
            self._listen()
        except BaseException:
            self._holder.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hang_up()
        self._holder.close()
        self._ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # sockets close one turn of the loop after their ends
        if self._broken is not None:
            what = f"the server broke as it answered: {type(self._broken).__name__}: {self._broken}"
            if error is None:
                raise FaultServerError(what) from self._broken
            error.add_note(what)

    def _listen(self) -> None:
        # The holder keeps the port while nobody listens, so that nobody else can be given it.
        listener = _bound(*self._holder.getsockname()[:2])
        try:
            listener.setblocking(False)
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise ConfigError(f"cannot listen on {self.origin}: {error.strerror}", key="port") from error
        # Not asyncio's server: it loses connections that it has accepted as it is closed.
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)
        self._listener = listener

    def _hang_up(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _listen_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._listener is None:  # another pause, which began later, may be over already
            self._listen()

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:  # it has gone already, or there are no more file descriptors
            return
        self.connections += 1
        task = self._start(self._meet(peer))
        task.add_done_callback(lambda _: peer.close())  # a task that is cancelled before it starts closes nothing

    async def _meet(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(LONGEST_HEAD, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer, ssl=self._tls)
        except OSError:  # no TLS was to be had with this client
            return
        await self._serve(Line(reader, asyncio.StreamWriter(transport, protocol, reader, loop), self._traffic))

    def _start(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Take note of an error: the client sees no more than a lost connection, and tries again."""
        self._tasks.discard(task)
        if task.cancelled():
            error: BaseException | None = None if self._ending else asyncio.CancelledError("its task was cancelled")
        else:
            error = task.exception()
        self._broken = self._broken or error

    async def _serve(self, line: Line) -> None:
        self._lines.add(line)
        try:
            while not line.closed and (head := await line.head()) is not None and not line.doomed:
                await self._exchange(line, head)
        except ConnectionError:
            pass  # the client had enough
        except asyncio.CancelledError:
            line.abandon()
            raise
        finally:
            self._lines.discard(line)
            await line.end()

    async def _exchange(self, line: Line, head: ServerRequest) -> None:
        if head.method != "POST":
            scripted = self._metadata_steps.popleft() if self._metadata_steps else None
            await self._respond(line, await line.whole(head), scripted)
            return
        step = self._steps.popleft() if self._steps else _BY_CHANCE
        request = head if isinstance(step, Fault) and step.early else await line.whole(head)
        self._note(request)
        try:
            await asyncio.sleep(self._latency)
            await self._respond(line, request, self._chosen(request) if step is _BY_CHANCE else step)
        finally:
            self.in_flight -= 1
        if (head.header("Connection") or "").lower() == "close":
            line.close()

    def _chosen(self, request: ServerRequest) -> _Meaning:
        return checked_step(self._choose(request)) if self._choose is not None else self._dice.throw(request.body)

    async def _respond(self, line: Line, request: ServerRequest, step: _Meaning) -> None:
        if isinstance(step, ServerResponse):
            await line.send(framed(step))
        elif step is None:
            await line.send(framed(await self._answer(request)))
        else:
            self.hits[step.name] += 1
            made = await self._answer(in_json(request) if step.in_json else request)
            await step.act(Turn(line, request, made, self, step.value))

    async def _answer(self, request: ServerRequest) -> ServerResponse:
        if (request.method, request.path) == ("GET", "/stats"):
            names = ("received", "in_flight", "max_in_flight", "rows", "connections")
            return json_answer({**{name: getattr(self, name) for name in names}, "faults": dict(self.hits)})
        if self._worker is None:
            made = answer(self.model, request)
        else:
            made = await asyncio.get_running_loop().run_in_executor(self._worker, answer, self.model, request)
        self.rows += made.rows
        return made

    def _note(self, request: ServerRequest) -> None:
        self.received += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        if self._record:
            self.requests.append(request)
            self.times.append(asyncio.get_running_loop().time())
        for number, arrival in self._arrivals:
            if self.received >= number and not arrival.done():
                arrival.set_result(None)


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening. Others may be bound to it as well, as long as one listens."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except BaseException:
            made.close()
            raise
    except (OSError, OverflowError) as error:  # OverflowError: a port above 65535
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}; choose another port", key="port") from error
    return made
