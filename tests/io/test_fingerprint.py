"""Fingerprints of files and rows, and digests of single rows: equal rows have equal digests wherever they are."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.io.fingerprint import of_file, of_rows, row_digests


@pytest.fixture
def file(tmp_path):
    (tmp_path / "x").write_bytes(bytes(1_000_000))
    os.utime(tmp_path / "x", ns=(0, 0))
    return tmp_path / "x"


def changed(file, place):
    with file.open("r+b") as opened:
        opened.seek(place)
        opened.write(b"\1")
    os.utime(file, ns=(0, 0))
    return of_file(file)


@pytest.mark.parametrize("place", [0, 4095, 1_000_000 - 4096, 1_000_000 - 1, 995_904 // 17, 995_904 * 16 // 17])
def test_a_change_at_a_sampled_place_changes_the_fingerprint_even_with_the_old_time(file, place):
    assert of_file(file) != changed(file, place)


def test_eighteen_samples_are_read_of_a_file_of_any_size(file, monkeypatch):
    sizes = []
    pread = os.pread

    def counted(fd: int, n: int, offset: int) -> bytes:
        sizes.append(n)
        return pread(fd, n, offset)

    monkeypatch.setattr(os, "pread", counted)
    of_file(file)
    assert sizes == [4096] * 18


def test_size_and_time_change_the_fingerprint(file):
    first = of_file(file)
    os.utime(file, ns=(0, 1))
    assert of_file(file) != first
    with file.open("ab") as opened:
        opened.write(b"\0")
    os.utime(file, ns=(0, 0))
    assert of_file(file) != first


def test_name_and_folder_do_not_change_the_fingerprint(file, tmp_path):
    first = of_file(file)
    (tmp_path / "a").mkdir()
    file.rename(tmp_path / "a" / "y")
    assert of_file(tmp_path / "a" / "y") == first


def test_an_empty_file_has_a_fingerprint(tmp_path):
    (tmp_path / "x").touch()
    assert of_file(tmp_path / "x")["size"] == 0


@pytest.mark.parametrize(
    "other",
    [
        np.arange(4, dtype=np.float32),
        np.arange(4).reshape(2, 2),
        np.array([0, 1, 2, 4]),
        [0, 1, 2, None],
        [np.int64(0), None, 2, 3],
        {"a": np.arange(4, dtype=np.int8)},
        ["0", "1", "2", "3"],
        np.array(["0", "1", "2", "3"], np.dtypes.StringDType()),
        [b"0", {1, 2}, 2, 3],
    ],
)
def test_other_values_dtypes_and_shapes_change_the_fingerprint(other):
    assert of_rows([other]) == of_rows([other])
    assert of_rows([other]) != of_rows([np.arange(4)])


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
