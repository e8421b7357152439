"""The answers that a run knows without a request: keys of requests, and the store that holds their answers.

The store belongs to a client (a cache file) or to one run (duplicates). One helper thread reads and writes it.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import orjson

from fanout.callbacks import abnormal
from fanout.io.cache import KEY_BYTES
from fanout.rows import count_rows, take_rows
from fanout.threads import DaemonThread, ended
from fanout.types import Payload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codecs.base import Codec
    from fanout.io.cache import AnswerCache, Found, Origin
    from fanout.types import Buffer, Rows, Values

T = TypeVar("T")

_log = logging.getLogger("fanout")

# Bytes of answers that may wait to be written before the input has to wait.
_MOST_UNWRITTEN = 32 * 2**20

# Answers that are written together: their keys are random, so each of a few changes a page of its own.
_GROUP_ROWS, _GROUP_SECONDS = 2048, 0.5


class LookedUp(NamedTuple):
    """The requests of some rows.

    Attributes:
        number: the number of the look-up.
        keys: one for each row; None for a row that cannot be sent alone.
        found: the answers that are known.
    """

    number: int
    keys: list[bytes | None]
    found: list[Found]


class _Entry(NamedTuple):
    keys: Sequence[bytes]
    outputs: Values
    written: Callable[[], None]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.outputs.values())


class AnswerStore:
    """Proven answers by the key of their request, beside the event loop.

    If the store cannot be read or written, the run goes on without it: only money is at stake, no answer.

    Args:
        cache: the database, which `close` closes.
        origin: the source of the answers that are put.
        context: digest of everything that changes answers beside the row's request; at most 64 bytes.
        lasting: the answers are those of a cache, and not only of this run.
    """

    def __init__(self, cache: AnswerCache, origin: Origin, context: bytes, *, lasting: bool) -> None:
        self._cache = cache
        self._origin = origin
        self._context = context
        self.lasting = lasting
        self.lookups = 0
        """Number of look-ups that were begun."""
        self._thread = DaemonThread("fanout-answers")
        self._waiting: list[_Entry] = []
        self._rows_waiting = 0
        self._unwritten = 0
        self._writing: asyncio.Future[None] | None = None
        self._broken = False
        self._closed = False

    def look_up(self, rows: Rows, codec: Codec, call: bytes = b"") -> asyncio.Future[LookedUp]:
        """Look up the requests of rows, each by itself. ``call`` identifies that which only they have in common."""
        self.lookups += 1
        # The context is the key of a digest, which has 64 bytes at most.
        context = blake2b(self._context + call, digest_size=32).digest() if call else self._context
        return asyncio.get_running_loop().run_in_executor(
            self._thread, self._look_up, self.lookups, rows, codec, context
        )

    def put(self, keys: Sequence[bytes], outputs: Values, written: Callable[[], None]) -> None:
        """Store answers in the background, and call ``written`` once `look_up` finds them, or never will."""
        entry = _Entry(keys, outputs, written)
        self._waiting.append(entry)
        self._unwritten += entry.nbytes
        self._rows_waiting += len(keys)
        if self._rows_waiting >= _GROUP_ROWS:
            self._write_waiting()
        # Only the first of a group sets the timer, for all that come before it fires.
        elif len(self._waiting) == 1:
            asyncio.get_running_loop().call_later(_GROUP_SECONDS, self._write_waiting)

    def distrust(self) -> None:
        """Forget all answers that were put: they may be those of other rows."""
        self._unwritten -= sum(entry.nbytes for entry in self._waiting)
        self._waiting, self._rows_waiting = [], 0
        # On the thread of the writes, so that it comes after all of them.
        self._thread.submit(self._forget)

    async def make_room(self) -> None:
        """Wait while many answers are not yet written."""
        if self._unwritten > _MOST_UNWRITTEN:
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything is written, also if this wait is cancelled."""
        if self._writing is not None or self._waiting:
            # A task of its own: the cancellation of the caller must not lose answers that were paid for.
            await ended(asyncio.ensure_future(self._write_all()))

    async def close(self) -> None:
        """Write what is left, and close the database, also if this wait is cancelled. A second call does nothing."""
        try:
            await self.flush()
        finally:
            if not self._closed:
                # Set first: a second call during the wait must not close the database twice.
                self._closed = True
                closing = asyncio.get_running_loop().run_in_executor(self._thread, self._cache.close)
                self._thread.shutdown()
                await ended(closing)

    async def _write_all(self) -> None:
        while self._writing is not None or self._waiting:
            self._write_waiting()
            if self._writing is not None:
                await ended(self._writing)
            # The callback after a write runs in the next step of the loop.
            await asyncio.sleep(0)

    def _look_up(self, number: int, rows: Rows, codec: Codec, context: bytes) -> LookedUp:
        keys, found = request_keys(rows, codec, context), []
        if not self._broken:
            try:
                found = self._cache.get(keys)
            except sqlite3.Error as error:
                self._give_up(error)
        return LookedUp(number, keys, found)

    def _write_waiting(self) -> None:
        # One transaction at a time: the next group gathers meanwhile.
        if self._writing is not None or not self._waiting:
            return
        # All that has come since the last group was begun is one transaction.
        entries, self._waiting, self._rows_waiting = self._waiting, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._thread, self._write, entries)
        self._writing.add_done_callback(lambda _: self._after_write(entries))

    def _after_write(self, entries: list[_Entry]) -> None:
        self._writing = None
        # Also after a failed write: the answers will never be found, and nothing may wait for them.
        for entry in entries:
            self._unwritten -= entry.nbytes
            entry.written()
        if self._rows_waiting >= _GROUP_ROWS:
            self._write_waiting()
        elif self._waiting:
            asyncio.get_running_loop().call_later(_GROUP_SECONDS, self._write_waiting)

    def _write(self, entries: list[_Entry]) -> None:
        # Groups that were handed to the thread before the failure come here, too.
        if self._broken:
            return
        try:
            self._cache.put(self._origin, [(entry.keys, entry.outputs) for entry in entries])
        except (sqlite3.Error, ValueError) as error:
            self._give_up(error)

    def _forget(self) -> None:
        try:
            self._cache.forget_own()
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        name = self._cache.path or "the store of answers to duplicates"
        _log.warning("%s cannot be used any more, and the run goes on without it: %s", name, error)


def request_keys(rows: Rows, codec: Codec, context: bytes) -> list[bytes | None]:
    """Return the digest of each row's own request; None for rows that cannot be sent alone.

    Equal keys are equal bytes: body, content type, path and header fields of the request for this row.
    """
    base = blake2b(digest_size=KEY_BYTES, key=context)
    n_rows, bodies = count_rows(rows), _called(codec.row_bodies, rows)
    if bodies is not None and len(bodies) == n_rows:
        started = _after_fields(base, Payload(body=b""))
        return [_digest(started, body) for body in bodies]
    # Rows of one template differ in the body alone, so the state after the other fields is computed once.
    plain: dict[str, blake2b] = {}
    keys: list[bytes | None] = []
    for row in range(n_rows):
        one = slice(row, row + 1)
        # Most rows are texts in a list; the general way takes as long as the digest.
        payload = _called(codec.encode, rows[one] if isinstance(rows, list) else take_rows(rows, one))
        keys.append(_key(payload, base, plain) if isinstance(payload, Payload) else None)
    return keys


def _called(method: Callable[[Rows], T], rows: Rows) -> T | None:
    """Call a method of a codec. None if it raises: the chunk of these rows says why."""
    try:
        return method(rows)
    except Exception:  # noqa: BLE001 - whatever it is, a request of these rows meets it again
        return None
    except BaseException as error:
        raise abnormal(f"the codec's {method.__name__}", error) from error


def _key(payload: Payload, base: blake2b, plain: dict[str, blake2b]) -> bytes:
    """The digest of a request. ``plain`` keeps the states after the fields that most requests share."""
    if payload.path or payload.headers:
        started = _after_fields(base, payload)
    elif (known := plain.get(payload.content_type)) is not None:
        started = known
    else:
        started = plain[payload.content_type] = _after_fields(base, payload)
    return _digest(started, *payload.body) if isinstance(payload.body, tuple) else _digest(started, payload.body)


def _after_fields(base: blake2b, payload: Payload) -> blake2b:
    digest = base.copy()
    # A JSON list ends where it ends, so no field can be taken for a part of the body.
    digest.update(orjson.dumps([payload.content_type, payload.path, sorted(payload.headers.items())]))
    return digest


def _digest(started: blake2b, *body: Buffer) -> bytes:
    digest = started.copy()
    for part in body:
        digest.update(part)
    return digest.digest()
