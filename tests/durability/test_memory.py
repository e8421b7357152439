"""Promise 4: the memory of a run with a journal does not grow with its rows, nor does the cost of a chunk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.durability.long_run import WIDE
from tests.durability.processes import ROOT
from tests.durability.work import WIDTH

if TYPE_CHECKING:
    from pathlib import Path

    from tests.durability.processes import Model

pytestmark = pytest.mark.timeout(1200)
FEW = 500_000
MANY = pytest.mark.parametrize(
    "many_rows", [pytest.param(10_000_000, marks=pytest.mark.soak), pytest.param(3_000_000, marks=pytest.mark.slow)]
)
WIDE_MANY = pytest.mark.parametrize(
    "many_rows", [pytest.param(10_000_000, marks=pytest.mark.soak), pytest.param(1_000_000, marks=pytest.mark.slow)]
)


def assert_flat(few: dict[str, Any], many: dict[str, Any], many_rows: int, bytes_of_a_row: int) -> None:
    """Hold the growth to less than the values alone would take, and, at length, the CPU time of a row to a constant."""
    assert many["rows"] == many_rows
    assert many["peak"] - few["peak"] < min(64 * 2**20, 0.7 * bytes_of_a_row * many_rows)
    if many_rows >= 10_000_000:
        assert many["cpu"] / many_rows < 1.5 * few["cpu"] / FEW


def measured(folder: Path, model: Model, *arguments: object) -> dict[str, Any]:
    """Run `tests.durability.long_run` in a process of its own; peak memory in bytes, seconds of CPU, rows."""
    command = [sys.executable, "-m", "tests.durability.long_run", model.url, str(folder), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


@MANY
@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_rows_of_a_generator(
    tmp_path: Path, model: Model, suffix: str, many_rows: int
) -> None:
    few = measured(tmp_path, model, "generator", FEW, f"few{suffix}")
    many = measured(tmp_path, model, "generator", many_rows, f"many{suffix}")
    assert_flat(few, many, many_rows, 4 * WIDTH)
    if suffix == ".npy":
        written = np.load(tmp_path / "many.npy", mmap_mode="r")
        assert written.shape == (many_rows, WIDTH)
        step = many_rows // 100
        assert np.array_equal(written[::step, 0], 2 * np.arange(0, many_rows, step, dtype="f4"))


@WIDE_MANY
def test_memory_does_not_grow_with_a_large_file(tmp_path: Path, model: Model, many_rows: int) -> None:
    """At length of 2 GB."""
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.dtype("<f4"), (many_rows, WIDE))
    for start in range(0, many_rows, FEW):
        array[start : start + FEW] = np.arange(start, start + FEW)[:, None]
    np.save(tmp_path / "x-few.npy", array[:FEW])
    del array
    few = measured(tmp_path, model, "x-few.npy", FEW, "few.npy")
    many = measured(tmp_path, model, "x.npy", many_rows, "many.npy")
    assert_flat(few, many, many_rows, 4 * WIDE)
    written = np.load(tmp_path / "many.npy", mmap_mode="r")
    assert written.shape == (many_rows, WIDE)
    step = many_rows // 100
    assert np.array_equal(written[::step, -1], 2 * np.arange(0, many_rows, step, dtype="f4"))
