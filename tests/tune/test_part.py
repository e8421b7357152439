"""Rows in memory, given again and again."""

from __future__ import annotations

import numpy as np
import pytest

from fanout import InputError
from fanout.engine import chunker_of
from fanout.io.readers import open_source
from fanout.tune.part import read_part
from fanout.types import single_rows


async def chunks(part, size, n):
    chunker = chunker_of(part, size)
    taken = [await chunker.take() for _ in range(n)]
    await chunker.close()
    return [[float(row) for row in single_rows(task.rows)] for task in taken]


async def test_rows_come_again_from_the_first_one_after_the_last(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(5.0))
    part = read_part(open_source(tmp_path / "x.npy"))
    assert (part.length, part.uniform, part.n_rows) == (5, True, None)
    assert await chunks(part, 3, 4) == [[0, 1, 2], [3, 4, 0], [1, 2, 3], [4, 0, 1]]
    assert await chunks(part, 12, 1) == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]]


async def test_a_part_of_an_input_and_a_part_of_that(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(100.0))
    part = read_part(open_source(tmp_path / "x.npy").sliced(slice(10, 12)))
    assert await chunks(part, 3, 1) == [[10, 11, 10]]
    assert await chunks(part.sliced(slice(0, 4)), 3, 2) == [[10, 11, 10], [11]]


def test_no_more_than_64_mib_are_held(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((200, 2**17)))
    part = read_part(open_source(tmp_path / "x.npy"))
    assert 60 <= part.length <= 70


def test_no_rows_are_an_error(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(0))
    with pytest.raises(InputError, match="no rows to send"):
        read_part(open_source(tmp_path / "x.npy"))
