"""Rows of several callers leave their run where one of them may be to blame, and not for a fault of the endpoint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fanout.engine.chunker import ChunkTask
from fanout.engine.isolation import Isolation
from fanout.types import Action, Chunk, Payload, Verdict


def isolation(handed: list[Any], successes: int = 0) -> Isolation:
    answered = SimpleNamespace(chunks=0)
    made = Isolation(SimpleNamespace(answered=answered), lambda *rows: handed.append(rows))  # type: ignore[arg-type]
    answered.chunks = successes
    return made


def task(n: int = 4) -> ChunkTask:
    return ChunkTask(Chunk(10, 10 + n), np.zeros((n, 1)))


@pytest.mark.parametrize(
    ("how", "before", "after"),
    [
        ({"action": Action.SPLIT, "status": 400}, True, True),
        ({"action": Action.SPLIT, "status": 403}, False, False),
        ({"action": Action.RETRY, "status": 200, "error_kind": "model"}, False, False),
        ({"action": Action.RETRY, "status": 500}, True, True),
        ({"action": Action.RETRY, "status": 200, "error_kind": "rows"}, True, True),
        ({"action": Action.RETRY, "status": 503}, False, False),
        ({"action": Action.RETRY, "unreachable": True}, False, True),
        ({"action": Action.FAIL, "status": 404}, True, True),
        ({"action": Action.FAIL, "status": 502}, False, True),
    ],
)
def test_rows_leave_where_one_of_them_may_be_to_blame(how: Any, before: bool, after: bool) -> None:
    failure = Verdict(reason="no", **how)
    assert isolation([]).concerns(task(), failure) is before
    assert isolation([], successes=1).concerns(task(), failure) is after, "since others succeeded"
    assert not isolation([], successes=1).concerns(task(1), failure), "a single row has no other to spare"


def test_rows_that_were_never_encoded_or_differ_in_shape_are_sent_alone() -> None:
    handed: list[Any] = []
    rows, left = isolation(handed), task()
    rows.leave(left, Verdict(action=Action.SPLIT, reason="no"))
    left.payload = Payload(body=b"")
    left.sent = 2
    rows.leave(left, Verdict(action=Action.SPLIT, reason="no", status=400))
    rows.leave(left, Verdict(action=Action.RETRY, reason="no", error_kind="shape"))
    assert handed == [([10, 11, 12, 13], 0, True), ([10, 11, 12, 13], 2, False), ([10, 11, 12, 13], 2, True)]
    assert rows.n_rows == 12
