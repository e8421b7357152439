"""The store of answers beside the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanout.engine import AnswerStore
from fanout.io.cache import AnswerCache, Origin

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = b"the first key ..", b"the second key ."
ANSWER = {"": np.zeros((1, 1))}


async def test_a_cancelled_close_still_writes_all_answers_and_closes_the_database(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    store = AnswerStore(cache, Origin(), b"", lasting=True)
    store.put([FIRST], ANSWER, lambda: None)
    ending = asyncio.create_task(store.close())
    # The first answer is being written. The second one comes while the task waits for that.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    store.put([SECOND], ANSWER, lambda: None)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        cache.entries()
    with closing(AnswerCache(tmp_path / "answers.sqlite")) as again:
        (found,) = again.get([FIRST, SECOND])
    assert sorted(found.places) == [0, 1]
