"""Digests of single rows: equal rows have equal digests wherever they are, and every method keeps its values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io import row_digests as module
from fanout.io.row_digests import BLAKE2B, XXH3


@pytest.fixture(params=[BLAKE2B, XXH3], scope="module")
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def row_digests(rows: Any, method: str, ids: Any = None) -> np.ndarray:
    return module.row_digests(rows, ids, method)


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
def test_the_rows_around_do_not_count(rows: Any, method: str, start: int, n_rows: int) -> None:
    stop = min(50, start + n_rows)
    assert np.array_equal(row_digests(part(rows, start, stop), method), row_digests(rows, method)[start:stop])


@pytest.mark.parametrize(
    ("rows", "blake2b", "xxh3"),
    [
        (np.arange(6.0).reshape(3, 2), "9bc0dd2ecfe4ed27c1bc1161ed1a2636", "9bc0dd2ecfe4ed27c1bc1161ed1a2636"),
        (np.arange(200.0).reshape(2, 100), "c4a71209118fde83e9468fe3317b8580", "41a2512d6825f0e5fdba29891440b265"),
        (np.arange(4096.0).reshape(1, 4096), "6ba2403ff9b0c7f9a01fced9a9b3c663", "f322d64513f94c1a92aada7d4d3cf3e9"),
        (["a"], "1bef375dd001830fd0d1669cbbe77f69", "80a2752fe1ff69c737c0c42919013532"),
        (["\ud800"], "404baef064ff8277bd706023f5031478", "34b5e982ecd6d6842ba515f64dfd4fe3"),
        ([b"a"], "2e8304e6b9e3a70fb5557b6e97ffc85e", "1717f49b1e3c257a201e2ccc5b706af5"),
        ([2**70], "3095d90713588ba8fda2fe1e83dcee07", "29b50ce1b7362e5335976b3886fcdb61"),
        ([{"a": 1, "b": "x"}], "8b91018b8095340adc8983833e862037", "86e46c1df1a97db02be5798ad1cb5f31"),
    ],
    ids=["narrow", "wide for XXH3", "wide", "text", "half a surrogate pair", "bytes", "a large integer", "columns"],
)
def test_they_are_the_same_in_every_release(rows: Any, blake2b: str, xxh3: str) -> None:
    """A journal is read by other releases than the one that wrote it."""
    assert [row_digests(rows, method)[0].tobytes().hex() for method in (BLAKE2B, XXH3)] == [blake2b, xxh3]


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
def test_the_container_does_not_count(array: Any, listed: list[Any], method: str) -> None:
    """A block is a list if a value is missing in one of its rows."""
    assert np.array_equal(row_digests(listed, method)[:5], row_digests(array, method))


@pytest.mark.parametrize("rows", [rows for rows in ROWS if isinstance(rows, np.ndarray) and rows.dtype.kind in "uf"])
def test_every_bit_of_an_array_counts(rows: Any, method: str) -> None:
    if not rows.size:
        return
    row = np.ascontiguousarray(rows[:1])
    data, seen = row.tobytes(), {row_digests(row, method).tobytes()}
    for bit in range(0, 8 * len(data), 1 if len(data) < 200 else 97):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        seen.add(row_digests(np.frombuffer(flipped, rows.dtype).reshape(row.shape), method).tobytes())
    assert len(seen) == 1 + len(range(0, 8 * len(data), 1 if len(data) < 200 else 97))


def test_signs_that_change_in_pairs_and_columns_that_change_places_change_the_digest(method: str) -> None:
    ones = np.ones((1, 64), "f4")
    seen = {row_digests(ones, method).tobytes()}
    for i in range(63):
        other = ones.copy()
        other[0, i : i + 2] *= -1
        seen.add(row_digests(other, method).tobytes())
    assert len(seen) == 64
    rows = RNG.random((64, 16))
    assert len(np.unique(row_digests(np.concatenate([rows, rows[:, ::-1]]), method), axis=0)) == 128


def test_other_dtypes_shapes_names_and_ids_change_the_digest(method: str) -> None:
    zeros = np.zeros((1, 4), "f4")
    others: list[Any] = [
        zeros, zeros.astype("f8"), zeros.astype("i4"), zeros.reshape(1, 2, 2), np.zeros((1, 5), "f4"), {"a": zeros},
        {"b": zeros}, {"a": zeros, "b": zeros}, [[0.0] * 4], [[0] * 4], [None], ["0"], [0], [0.0], [False], [{}], [""],
        [b""], [b"0"],
    ]  # fmt: skip
    digests = [row_digests(rows, method).tobytes() for rows in others]
    digests += [row_digests(zeros, method, ids).tobytes() for ids in (["a"], [0], ["0"])]
    assert len(set(digests)) == len(digests)
