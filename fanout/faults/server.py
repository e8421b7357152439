"""The faulty server: a model server on a real socket that answers correctly, except where its plan has a fault.

`Background` runs it, or any other server, for code that is not async.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from fanout.errors import ConfigError
from fanout.faults.connection import Connection, Traffic, bound
from fanout.faults.endpoint import FakeEndpoint
from fanout.faults.names import Fault
from fanout.options import checks_options
from fanout.serving.exchange import ServerRequest, ServerResponse

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Executor
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from fanout.faults.endpoint import Faults, PlannedStep
    from fanout.serving.models import Model

_BACKLOG = 1024

T = TypeVar("T")


class FaultServerError(AssertionError):
    """The server of a test failed, so the test proves nothing."""


@checks_options
class FaultServer(FakeEndpoint):
    """A model server on a real socket that misbehaves on purpose. An async context manager.

    ::

        async with FaultServer(lambda x: x * 2) as server:
            server.script("reset-before-headers", None, "drip:0.01", 503)
            async with fanout.Client(server.url("v1"), codec="v1") as client:
                y = await client.map(X)

    With ``faults={"reset-mid-body": 0.05, "503": 0.1}, seed=1`` requests meet faults by chance: the same bodies meet
    the same faults in every run, and no body more than two in a row. ``refused`` alone strikes all requests in flight.
    `FAULTS` names them all. A step is a fault's name, a status, a whole response, or None: the model answers.

    Args:
        model: takes the rows of a request (an array, or a list of texts) and returns an array or a dict of arrays; or a
            whole `fanout.serving.models.Model`, which can describe its inputs and outputs.
        faults: probabilities by fault, or a function that gives the step for each request.
        seed: another one brings other faults.
        latency: seconds that every response takes.
        host, port: the address to listen on; port 0 takes a free one.
        tls: the server's certificate; without it, it speaks plain HTTP.
        record: keep every request in `requests`, with its time in `times`.
        worker: calls the model, so that a slow one does not block the server; by default the event loop calls it.

    Raises:
        FaultServerError: at the end, if the model or a function of faults failed; a client saw no more of that than a
            lost connection.
    """

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
        super().__init__(model, name="faulty", faults=faults, seed=seed, latency=latency, record=record, worker=worker)
        self.connections = 0
        """The number of connections that clients have made."""

        self._address = host, port
        self._tls = tls
        self._traffic = Traffic()
        self._broken: BaseException | None = None
        self._ending = False
        self._listener: socket.socket | None = None
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def origin(self) -> str:
        """``http://host:port``."""
        host, port = self._holder.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http{'s' if self._tls else ''}://{shown}:{port}"

    def statistics(self) -> dict[str, Any]:
        """The counts that ``GET /stats`` gives."""
        return {**super().statistics(), "connections": self.connections, "faults": dict(self.hits)}

    @property
    def bytes_received(self) -> int:
        """Bytes of requests, headers included."""
        return self._traffic.received

    @property
    def bytes_sent(self) -> int:
        """Bytes of answers, headers included."""
        return self._traffic.sent

    async def refuse(self, seconds: float) -> None:
        """Reset every connection, and refuse new ones for a while."""
        # The listener goes first, so that a client that is reset cannot connect again at once.
        self._hang_up()
        self._start(self._listen_after(seconds))
        for connection in self._open:
            connection.reset()

    async def __aenter__(self) -> Self:
        self._holder = bound(*self._address)
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
        # From now on a cancelled task is no fault of the server.
        self._ending = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await asyncio.sleep(0)  # sockets close one turn of the loop after their ends
        if self._broken is not None:
            message = f"the server broke as it answered: {type(self._broken).__name__}: {self._broken}"
            if error is None:
                raise FaultServerError(message) from self._broken
            error.add_note(message)

    def _listen(self) -> None:
        # The holder keeps the port while no socket listens, so that the system gives it to no other process.
        listener = bound(*self._holder.getsockname()[:2])
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
        try:
            connection = await Connection.accepted(peer, self._tls, self._traffic)
        except OSError:  # no TLS was to be had with this client
            return
        await self._serve(connection)

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
        # The first error is the cause of those after it.
        self._broken = self._broken or error

    async def _serve(self, connection: Connection) -> None:
        self._open.add(connection)
        try:
            while not connection.closed and (head := await connection.head()) is not None and not connection.doomed:
                await self._exchange(connection, head)
        except ConnectionError:
            pass  # the client had enough
        except asyncio.CancelledError:
            connection.abandon()
            raise
        finally:
            self._open.discard(connection)
            await connection.end()

    async def _exchange(self, connection: Connection, head: ServerRequest) -> None:
        planned = self._plan.scripted(head.method)
        # Such a fault strikes before the body is read: that is its point.
        early = isinstance(planned[1], Fault) and planned[1].early
        request = head if early else await connection.whole(head)

        async def respond(step: PlannedStep) -> None:
            if isinstance(step, Fault):
                await step.strike(connection, request, self.answer, self.refuse)
            else:
                response = step if isinstance(step, ServerResponse) else await self.answer(request)
                await connection.send(response.encoded())

        await self._play(request, planned, respond)
        if (head.header("Connection") or "").lower() == "close":
            connection.close()


@checks_options
class Background(Generic[T]):
    """Enters an async context manager, such as a `FaultServer`, on a thread of its own: ``with Background(server)``.

    Exceptions of entering and leaving it are raised here.
    """

    def __init__(self, entered: AbstractAsyncContextManager[T]) -> None:
        self._entered = entered
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="fanout-server", daemon=True)
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._value: T

    def __enter__(self) -> T:
        self._thread.start()
        # The server's port is known, or its error raised, before the test goes on.
        self._ready.wait()
        self._raise()
        return self._value

    def __exit__(self, *_: object) -> None:
        # An asyncio event may be set on its own thread only.
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._raise()

    async def _live(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._entered as self._value:
                self._ready.set()
                await self._end.wait()
        # Without the event in the finally block below, a failed start would block the test for ever.
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            self._error = error
        finally:
            self._ready.set()

    def _raise(self) -> None:
        if self._error is not None:
            self._thread.join()
            raise self._error
