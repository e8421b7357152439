"""No buffer has two users at once, whatever the holder of a response does with its bytes."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fanout.transport.buffers import Buffers


class Hands(RuleBasedStateMachine):
    """Responses are received into buffers, and their holders keep them, whole or as a view."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.buffers = Buffers(most=50)

    @rule(target=held, length=st.sampled_from([8, 16, 40]), mark=st.integers(0, 2**63), view=st.booleans())
    def receive(self, length: int, mark: int, view: bool) -> tuple[Any, int]:
        buffer = self.buffers.take(length) or bytearray(length)  # none where there would be too much in all
        assert len(buffer) == length
        buffer[-8:] = mark.to_bytes(8)
        return np.frombuffer(buffer, ">u8", offset=length - 8) if view else buffer, mark

    @rule(one=held)
    def look(self, one: tuple[Any, int]) -> None:
        what, mark = one
        assert (int(what[0]) if isinstance(what, np.ndarray) else int.from_bytes(what[-8:])) == mark

    @invariant()
    def is_bounded(self) -> None:
        assert sum(map(len, self.buffers._kept)) <= 50  # noqa: SLF001 - memory that is kept for later shows in nothing else

    @rule(one=consumes(held))
    def drop(self, one: tuple[Any, int]) -> None:
        self.look(one)


TestHands = Hands.TestCase


def test_a_buffer_without_references_is_used_again() -> None:
    buffers = Buffers()
    first = buffers.take(10)
    assert first is not None
    view, address = memoryview(first)[2:], id(first)
    del first
    assert id(buffers.take(10)) != address
    del view
    gc.collect()
    assert id(buffers.take(10)) == address


def test_there_is_no_more_in_all_than_allowed() -> None:
    buffers = Buffers(most=30)
    held = [buffers.take(10), buffers.take(20)]
    assert None not in held
    assert buffers.take(1) is None
    held.pop()
    assert buffers.take(15) is not None, "the place of one that nobody refers to is free"
    assert Buffers(most=30).take(31) is None
