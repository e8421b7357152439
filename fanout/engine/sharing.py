"""Rows that need no request: their answer is known, or another row's request brings it.

`SharingChunker` looks up the request of each row, and cuts chunks in which only the other rows are sent. The rows come
back together in a `SharedChunk`, which the collector treats as it does a chunk that was split. `Shares` is the account
of the run. A row whose leader is under way in another chunk leaves its own, and is delivered with its leader: no chunk
waits for another.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.engine.partial_chunk import PartialChunk, as_slice, filled, ranges
from fanout.errors import InvalidResponse
from fanout.results import ChunkResult, Failure
from fanout.rows import RowSet
from fanout.types import Chunk, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.answer_store import AnswerStore, LookedUp
    from fanout.engine.chunker import ChunkTask
    from fanout.engine.results import ResultCollector
    from fanout.io.cache import Found
    from fanout.limits import ConcurrencyLimiter
    from fanout.types import Array, Rows

_CACHED = "answers in the cache, from which another cache.namespace keeps apart,"

# Rows that may wait for the answers to others before the input has to wait.
_MOST_FOLLOWERS = 2**20


class Leader:
    """The first row with a request: it is sent, and its followers share its outcome."""

    __slots__ = ("chunk", "followers", "place")

    def __init__(self) -> None:
        self.chunk: SharedChunk | None = None
        self.place = 0
        """Position in its chunk."""
        self.followers: list[tuple[int, Any]] = []
        """Rows of other chunks, with their ids."""


class SharedChunk(PartialChunk):
    """A chunk some of whose rows are not sent."""

    def __init__(self, chunk: Chunk, shares: Shares) -> None:
        super().__init__(chunk)
        self._shares = shares
        self.keys: dict[int, bytes] = {}
        """Position of a row that is sent -> key of its request."""
        self.leaders: list[Leader] = []
        self.own_followers: list[tuple[int, int]] = []
        """Positions of rows, and of their leaders in this chunk."""
        self.cached: Array | None = None
        """Mask of the rows that a cache knew; None for none."""

    def leave_out(self, place: int, leader: int | None = None) -> None:
        """Do not wait for a row: its ``leader`` is in this chunk, or in another, which delivers both."""
        # Rows that are gone do not keep the chunk open: `complete` compares their number with the open ones.
        self._gone += 1
        if leader is not None:
            self.own_followers.append((place, leader))

    def fail_at(self, place: int, failure: Failure) -> None:
        """Fail one row as another has failed."""
        row, ids = self.chunk.start + place, self.chunk.ids
        # The failure names the row that follows, with its own id, and the reason of its leader.
        own = () if ids is None else (ids[place],)
        self._failures.append(replace(failure, start=row, stop=row + 1, ids=own))
        self._open[place] = False

    def is_open(self, place: int) -> bool:
        """True if a row is neither answered nor failed."""
        return bool(self._open[place])

    def closed_keys(self) -> dict[int, bytes]:
        """Return the keys of the rows that were sent and are answered or failed."""
        open_places = set(np.flatnonzero(self._open).tolist())
        return {place: key for place, key in self.keys.items() if place not in open_places}

    def failures_at(self, places: Sequence[int]) -> list[Failure | None]:
        """Return the failure of each row; None for one that has not failed."""
        if not self._failures:
            return [None] * len(places)
        failed = {row: failure for failure in self._failures for row in range(failure.start, failure.stop)}
        return [failed.get(self.chunk.start + place) for place in places]

    def values_at(self, places: Sequence[int]) -> dict[str, Array]:
        """Return the answers of rows that have one."""
        return {name: array[list(places)] for name, array in (self._outputs or {}).items()}

    def take_from(self, other: SharedChunk, pairs: Sequence[tuple[int, int]]) -> None:
        """Give rows the outcomes of their leaders in ``other``. Pairs of positions: row, leader."""
        outcomes = other.failures_at([leader for _, leader in pairs])
        answered = [pair for pair, failure in zip(pairs, outcomes, strict=True) if failure is None]
        if answered:
            values = other.values_at([leader for _, leader in answered])
            self.place(np.array([place for place, _ in answered]), values)
        for (place, _), failure in zip(pairs, outcomes, strict=True):
            if failure is not None:
                self.fail_at(place, failure)

    def results(self) -> Iterator[ChunkResult]:
        """Yield the rows of this chunk that are done, and those of others that share a request with one of them."""
        pairs = [(place, leader) for place, leader in self.own_followers if not self.is_open(leader)]
        self.take_from(self, pairs)
        # They are in their places now, as if they had been sent.
        self._gone -= len(pairs)
        self.own_followers = []
        yield from self._shares.results(self, self.done())


class PlannedRows:
    """Consecutive rows of the input, and what is known about them before they are cut into chunks."""

    def __init__(self, task: ChunkTask, keys: Sequence[bytes | None]) -> None:
        self.rows = task.rows
        self.chunk = task.chunk
        self.keys = keys
        self.outputs: dict[str, Array] = {}
        """Output name -> array for all rows, in which the places in ``known`` hold answers."""
        self.known = np.zeros(task.n, bool)
        self.leaders: dict[int, Leader] = {}
        """Position of a row that others may share -> its place in the run's account."""
        self.followers: deque[tuple[int, Leader | Failure]] = deque()
        """Positions of rows that are not sent, in order, with the leader or its failure."""
        self.to_send: Array = np.empty(0, np.intp)
        self.cut_at = 0
        """Position of the next row to be cut."""
        self.n_cut = 0
        """Number of rows in ``to_send`` that are cut."""

    @property
    def left(self) -> int:
        """Rows that are not cut yet."""
        return len(self.known) - self.cut_at

    def place_known(self, found: Found) -> None:
        """Take answers that are valid."""
        if len(found.places) == len(self.known) and not self.outputs:
            # All rows are known: most look-ups of a run that was made before.
            self.outputs, self.known[:] = dict(found.outputs), True
            return
        for name, array in found.outputs.items():
            if name not in self.outputs:
                self.outputs[name] = filled((len(self.known), *array.shape[1:]), array.dtype)
            self.outputs[name][found.places] = array
        self.known[found.places] = True

    def close(self) -> None:
        """Determine the rows to send, once all others are known."""
        sent = ~self.known
        # A follower is not sent, even if its leader fails: it would fail in the same way.
        sent[[place for place, _ in self.followers]] = False
        self.to_send = np.flatnonzero(sent)


class Shares:
    """The account of the rows of one run that are known or shared.

    Args:
        store: the answers to earlier requests.
        dedupe: rows with equal requests share one, also while it is in flight.
        window: has one slot for each result that its consumer has not finished.
        call: identifies the header fields of this run alone that may change answers.
    """

    def __init__(
        self, store: AnswerStore, *, dedupe: bool, window: ConcurrencyLimiter | None, call: bytes = b""
    ) -> None:
        self.store = store
        self._call = call
        self._dedupe = dedupe
        self._window = window
        self._collector: ResultCollector
        self._leaders: dict[bytes, Leader] = {}
        self._failed: dict[bytes, Failure] = {}
        self._n_followers = 0
        self._resolved = asyncio.Event()
        self._stored: deque[tuple[int, Sequence[bytes]]] = deque()
        """Keys, and the number of the last look-up that may have missed their answers in the store."""
        self._in_doubt = 0
        """Number of the last look-up whose answers may be those of other rows."""
        self._rows = RowSet()
        """Chunks in which rows were not sent."""

    def open(self, collector: ResultCollector) -> None:
        """Begin, once the outputs are known as far as the codec knows them."""
        self._collector = collector

    def look_up(self, rows: Rows, codec: Codec) -> asyncio.Future[LookedUp]:
        """Look up the requests of rows in the store."""
        return self.store.look_up(rows, codec, self._call)

    def plan(self, task: ChunkTask, looked_up: LookedUp) -> PlannedRows:
        """Find out which rows of ``task`` need a request."""
        planned = PlannedRows(task, looked_up.keys)
        # A look-up that was under way when answers came into doubt may hold some of these.
        for found in looked_up.found if looked_up.number > self._in_doubt else ():
            if self._is_valid(found):
                planned.place_known(found)
        if self._dedupe:
            self._find_duplicates(planned)
        planned.close()
        # Their answers would have been in the store, so nothing else has to remember them.
        while self._stored and self._stored[0][0] < looked_up.number:
            for key in self._stored.popleft()[1]:
                self._leaders.pop(key, None)
        return planned

    async def has_room(self) -> None:
        """Wait while too many rows wait for the outcome of others, or answers for the disk."""
        await self.store.make_room()
        while self._n_followers > _MOST_FOLLOWERS:
            self._resolved.clear()
            await self._resolved.wait()

    def cut(self, planned: PlannedRows, chunk: Chunk, sent: Array) -> SharedChunk:
        """Take the next rows, those of ``chunk``; those at the positions ``sent`` of ``planned`` are sent."""
        shared, start, stop = SharedChunk(chunk, self), planned.cut_at, planned.cut_at + len(chunk)
        known = np.flatnonzero(planned.known[start:stop])
        if len(known):
            answered = as_slice(start + known)
            shared.place(as_slice(known), {name: array[answered] for name, array in planned.outputs.items()})
            self._count_known(shared, known)
        places = sent.tolist()
        shared.keys = {place - start: key for place in places if (key := planned.keys[place]) is not None}
        if planned.leaders:
            for place in places:
                # From here on a follower finds its leader's chunk, and may be delivered with it.
                if (leader := planned.leaders.get(place)) is not None:
                    leader.chunk, leader.place = shared, place - start
                    shared.leaders.append(leader)
        while planned.followers and planned.followers[0][0] < stop:
            place, leader_or_failure = planned.followers.popleft()
            self._follow(shared, place - start, leader_or_failure)
        planned.cut_at, planned.n_cut = stop, planned.n_cut + len(sent)
        return shared

    def results(self, chunk: SharedChunk, done: ChunkResult) -> Iterator[ChunkResult]:
        """Yield the results of a chunk, and of followers elsewhere. Unless its answers are in doubt, store them."""
        results = [*_without_pending(done, chunk.cached), *self._of_followers(chunk)]
        if self._collector.is_suspect(done):  # the outcomes of its followers are in doubt, too
            results = []
        else:
            self._store(chunk)
        # The chunk took one slot, but each of its results occupies the consumer: the window has to count them all.
        if self._window is not None:
            self._window.exchange(len(results))
        yield from results

    async def close(self) -> None:
        """Store what is left. A store of this run alone is deleted."""
        await (self.store.flush() if self.store.lasting else self.store.close())

    def distrust(self) -> RowSet:
        """Return the rows that may have the answers of others, since answers in this run do."""
        # Rows that come later have to be sent, instead of sharing an answer in doubt.
        self._leaders.clear()
        self._in_doubt = self.store.lookups
        self.store.distrust()
        return self._rows

    def _is_valid(self, found: Found) -> bool:
        """True if answers of the store pass every check that the endpoint's have to pass."""
        validator = self._collector.validator
        try:
            found.outputs.update(validator.validate(found.outputs, len(found.places)))
        except InvalidResponse:
            return False
        return validator.settled or self._collector.agree(schema_of(found.outputs) or {}, _CACHED)

    def _find_duplicates(self, planned: PlannedRows) -> None:
        for place, key in enumerate(planned.keys):
            if key is None or planned.known[place]:
                continue
            if (known := self._failed.get(key) or self._leaders.get(key)) is not None:
                planned.followers.append((place, known))
            else:
                planned.leaders[place] = self._leaders[key] = Leader()

    def _follow(self, chunk: SharedChunk, place: int, leader: Leader | Failure) -> None:
        """Let a row share the outcome of its leader, which is known, or comes in this chunk, or in another."""
        self._rows.add(chunk.chunk.start, chunk.chunk.stop)
        self._collector.counters.shared += 1
        if isinstance(leader, Failure):
            chunk.fail_at(place, leader)
            return
        assert leader.chunk is not None
        if leader.chunk is chunk:
            chunk.leave_out(place, leader.place)
        elif not leader.chunk.is_open(leader.place):
            chunk.take_from(leader.chunk, [(place, leader.place)])
        else:
            ids = chunk.chunk.ids
            leader.followers.append((chunk.chunk.start + place, None if ids is None else ids[place]))
            self._n_followers += 1
            chunk.leave_out(place)

    def _of_followers(self, chunk: SharedChunk) -> Iterator[ChunkResult]:
        """The results of rows of other chunks whose leaders are in this one."""
        shared = {
            row: (leader.place, identity)
            for leader in chunk.leaders
            if leader.followers and not chunk.is_open(leader.place)
            for row, identity in leader.followers
        }
        self._n_followers -= len(shared)
        self._resolved.set()
        chunk.leaders = []
        for start, stop in ranges(np.array(sorted(shared))):
            ids = None if chunk.chunk.ids is None else [shared[row][1] for row in range(start, stop)]
            part = SharedChunk(Chunk(start, stop, ids), self)
            part.take_from(chunk, [(row - start, shared[row][0]) for row in range(start, stop)])
            yield part.done()

    def _store(self, chunk: SharedChunk) -> None:
        """Store the proven answers of the rows that were sent, and remember their failures."""
        keys, chunk.keys = chunk.closed_keys(), {}
        outcomes = dict(zip(keys, chunk.failures_at(list(keys)), strict=True))
        answered = [place for place, failure in outcomes.items() if failure is None]
        if self._dedupe:
            failed = {keys[place]: failure for place, failure in outcomes.items() if failure is not None}
            self._failed |= failed
            # A later row with this request fails at once: `_failed` is asked before the leaders.
            for key in failed:
                self._leaders.pop(key, None)
        if answered:
            stored = [keys[place] for place in answered]
            self.store.put(stored, chunk.values_at(answered), lambda: self._after_store(stored))

    def _after_store(self, keys: Sequence[bytes]) -> None:
        if self._dedupe:
            # Look-ups begun up to now may have missed these answers, so their leaders are needed for as long.
            self._stored.append((self.store.lookups, keys))

    def _count_known(self, chunk: SharedChunk, known: Array) -> None:
        self._rows.add(chunk.chunk.start, chunk.chunk.stop)
        counters = self._collector.counters
        if not self.store.lasting:
            counters.shared += len(known)
            return
        counters.cached += len(known)
        chunk.cached = np.zeros(len(chunk.chunk), bool)
        chunk.cached[known] = True


def _without_pending(done: ChunkResult, cached: Array | None) -> Iterator[ChunkResult]:
    """Yield the parts of a result that are not pending: other results may bring the pending ones."""
    if not done.pending:
        yield replace(done, cached=cached)
        return
    left = np.ones(done.stop - done.start, bool)
    for rows in done.pending:
        left[rows.start - done.start : rows.stop - done.start] = False
    for start, stop in ranges(np.flatnonzero(left)):
        part = slice(start, stop)
        yield ChunkResult(
            start=done.start + start,
            stop=done.start + stop,
            outputs=done.outputs and {name: array[part] for name, array in done.outputs.items()},
            failures=tuple(f for f in done.failures if start <= f.start - done.start < stop),
            ids=None if done.ids is None else done.ids[part],
            cached=None if cached is None or not cached[part].any() else cached[part],
            usage=None if done.usage is None else done.usage[part],
        )
