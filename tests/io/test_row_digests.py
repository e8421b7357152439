"""Digests of rows: equal for equal rows wherever they are found, another for any other row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io.fingerprint import row_digests

TEXTS = np.array([f"text {i}" for i in range(50)], np.dtypes.StringDType())
RNG = np.random.default_rng(5)
ROWS = [
    RNG.random((50, 3)),
    RNG.random((50, 3)).astype("f4"),
    RNG.random((50, 300)),
    RNG.random((50, 3000)),
    RNG.integers(0, 2, 50, np.uint8),
    RNG.integers(0, 2, 50).astype(bool),
    np.array([f"{i}" for i in range(50)]),
    np.zeros((50, 0)),
    TEXTS,
    TEXTS.tolist(),
    [{"a": i, "b": [i, None]} for i in range(50)],
    {"a": RNG.random((50, 2)), "b": TEXTS},
    [2**70 + i for i in range(50)],
]


def part(rows: Any, start: int, stop: int) -> Any:
    return {name: column[start:stop] for name, column in rows.items()} if isinstance(rows, dict) else rows[start:stop]


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"{type(rows).__name__}")
@given(start=st.integers(0, 49), n_rows=st.integers(1, 50))
def test_the_rows_around_do_not_count(rows: Any, start: int, n_rows: int) -> None:
    stop = min(50, start + n_rows)
    assert np.array_equal(row_digests(part(rows, start, stop)), row_digests(rows)[start:stop])


def test_they_are_the_same_in_every_release() -> None:
    """A journal is read by other releases than the one that wrote it."""
    digests = row_digests(np.arange(6.0).reshape(3, 2))
    assert [hex(word) for word in digests.ravel()[:2].tolist()] == EXPECTED_ARRAY
    assert [hex(word) for word in row_digests(["a"]).ravel().tolist()] == EXPECTED_TEXT


EXPECTED_ARRAY = ["0x27ede4cf2eddc09b", "0x36261aed6111bcc1"]
EXPECTED_TEXT = ["0xf8301d05d37ef1b", "0x697fe7bb9c66d1d0"]


@pytest.mark.parametrize(
    ("array", "listed"),
    [
        (np.arange(5, dtype="i4"), [*np.arange(5, dtype="i4"), None]),
        (np.arange(10.0).reshape(5, 2), [*np.arange(10.0).reshape(5, 2), np.arange(3.0)]),
        (TEXTS[:5], [*TEXTS[:5].tolist(), None]),
        (
            {"a": np.arange(5), "b": TEXTS[:5]},
            [*({"a": np.int64(i), "b": f"text {i}"} for i in range(5)), {"a": None, "b": "x"}, {}],
        ),
    ],
    ids=["numbers", "lists of numbers", "texts", "columns"],
)
def test_the_container_does_not_count(array: Any, listed: list[Any]) -> None:
    """A block is a list if a value is missing in one of its rows."""
    assert np.array_equal(row_digests(listed)[:5], row_digests(array))


@pytest.mark.parametrize("rows", [rows for rows in ROWS if isinstance(rows, np.ndarray) and rows.dtype.kind in "uf"])
def test_every_bit_of_an_array_counts(rows: Any) -> None:
    if not rows.size:
        return
    row = np.ascontiguousarray(rows[:1])
    data, seen = row.tobytes(), {row_digests(row).tobytes()}
    for bit in range(0, 8 * len(data), 1 if len(data) < 200 else 97):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        seen.add(row_digests(np.frombuffer(flipped, rows.dtype).reshape(row.shape)).tobytes())
    assert len(seen) == 1 + len(range(0, 8 * len(data), 1 if len(data) < 200 else 97))


def test_signs_that_change_in_pairs_and_columns_that_change_places_change_the_digest() -> None:
    ones = np.ones((1, 64), "f4")
    seen = {row_digests(ones).tobytes()}
    for i in range(63):
        other = ones.copy()
        other[0, i : i + 2] *= -1
        seen.add(row_digests(other).tobytes())
    assert len(seen) == 64
    rows = RNG.random((64, 16))
    assert len(np.unique(row_digests(np.concatenate([rows, rows[:, ::-1]])), axis=0)) == 128


def test_other_dtypes_shapes_names_and_ids_change_the_digest() -> None:
    zeros = np.zeros((1, 4), "f4")
    others: list[Any] = [
        zeros, zeros.astype("f8"), zeros.astype("i4"), zeros.reshape(1, 2, 2), np.zeros((1, 5), "f4"), {"a": zeros},
        {"b": zeros}, {"a": zeros, "b": zeros}, [[0.0] * 4], [[0] * 4], [None], ["0"], [0], [0.0], [False], [{}], [""],
    ]  # fmt: skip
    digests = [row_digests(rows).tobytes() for rows in others]
    digests += [row_digests(zeros, ids).tobytes() for ids in (["a"], [0], ["0"])]
    assert len(set(digests)) == len(digests)
