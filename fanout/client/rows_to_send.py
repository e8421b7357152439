"""The rows of an input that a run would send: not those that the cache knows, nor duplicates of rows before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.engine import request_keys
from fanout.io.cache import AnswerCache, Origin
from fanout.rows import single_rows, take_rows
from fanout.threads import on_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine import AnswerStore, Chunker


class RowsToSend:
    """Counts the other rows.

    Args:
        rows: all rows, in pieces that are looked up together.
        store: the client's cache, if it has one.
        dedupe: rows with equal requests share one.
    """

    def __init__(self, rows: Chunker, codec: Codec, store: AnswerStore | None, *, dedupe: bool) -> None:
        self._rows = rows
        self._codec = codec
        self._store = store
        self._dedupe = dedupe
        self.cached = 0
        self.shared = 0

    @property
    def n_rows(self) -> int:
        """Rows that were read so far, sent or not."""
        return self._rows.position

    @property
    def remaining(self) -> int | None:
        """Rows yet to be read, if that is known."""
        return self._rows.remaining

    async def __aiter__(self) -> AsyncIterator[Any]:
        # The requests so far, of which memory holds a part only: a store of answers without a byte.
        requests: AnswerCache | None = None
        try:
            # Opened here, where it is sure to be closed: a generator that is never entered runs no `finally`.
            requests = AnswerCache() if self._dedupe else None
            while (task := await self._rows.get()) is not None:
                sent = np.ones(task.n, bool)
                keys: Sequence[bytes | None]
                if self._store is not None:
                    looked_up = await self._store.look_up(task.rows, self._codec)
                    keys = looked_up.keys
                    for found in looked_up.found:
                        sent[found.places] = False
                    self.cached += task.n - int(sent.sum())
                else:
                    keys = await on_thread(request_keys, task.rows, self._codec, b"")
                if requests is not None:
                    repeated = await on_thread(self._repeated, requests, keys, np.flatnonzero(sent).tolist())
                    sent[repeated] = False
                    self.shared += len(repeated)
                for row in single_rows(take_rows(task.rows, np.flatnonzero(sent))):
                    yield row
        finally:
            await self._rows.close()
            if requests is not None:
                await on_thread(requests.close)

    @staticmethod
    def _repeated(requests: AnswerCache, keys: Sequence[bytes | None], places: Sequence[int]) -> list[int]:
        """The places whose request is that of a row before. Blocks on the disk."""
        before = {place for found in requests.get(keys) for place in found.places}
        first: dict[bytes, int] = {}
        repeated = []
        for place in places:
            if (key := keys[place]) is None:  # it cannot be sent alone, and nothing is known about it
                continue
            if place in before or first.setdefault(key, place) != place:
                repeated.append(place)
        new = [key for key, place in first.items() if place not in before]
        requests.put(Origin(), [(new, {"": np.empty((len(new), 0), bool)})])
        return repeated
