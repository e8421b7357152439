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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
FEW, MANY = 100_000, 10_000_000
BOUND = 64 * 2**20


def measured(folder: Path, model: Model, *arguments: object) -> dict[str, Any]:
    """Run `tests.durability.long_run` in a process of its own; peak memory in bytes, seconds of CPU, rows."""
    command = [sys.executable, "-m", "tests.durability.long_run", model.url, str(folder), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(ended.stdout)
    return told


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_rows_of_a_generator(tmp_path: Path, model: Model, suffix: str) -> None:
    few = measured(tmp_path, model, "generator", FEW, f"few{suffix}")
    many = measured(tmp_path, model, "generator", MANY, f"many{suffix}")
    assert many["rows"] == MANY
    assert many["peak"] - few["peak"] < BOUND
    assert many["cpu"] / MANY < 1.5 * few["cpu"] / FEW
    if suffix == ".npy":
        written = np.load(tmp_path / "many.npy", mmap_mode="r")
        assert written.shape == (MANY, WIDTH)
        assert np.array_equal(written[:: MANY // 100, 0], 2 * np.arange(0, MANY, MANY // 100, dtype="f4"))


def test_memory_does_not_grow_with_a_file_of_2_gb(tmp_path: Path, model: Model) -> None:
    made = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.dtype("<f4"), (MANY, WIDE))
    for start in range(0, MANY, FEW):
        made[start : start + FEW] = np.arange(start, start + FEW)[:, None]
    np.save(tmp_path / "x-few.npy", made[:FEW])
    del made
    few = measured(tmp_path, model, "x-few.npy", FEW, "few.npy")
    many = measured(tmp_path, model, "x.npy", MANY, "many.npy")
    assert (tmp_path / "x.npy").stat().st_size >= 2e9
    assert many["rows"] == MANY
    assert many["peak"] - few["peak"] < BOUND
    assert many["cpu"] / MANY < 1.5 * few["cpu"] / FEW
    written = np.load(tmp_path / "many.npy", mmap_mode="r")
    assert written.shape == (MANY, WIDE)
    assert np.array_equal(written[:: MANY // 100, -1], 2 * np.arange(0, MANY, MANY // 100, dtype="f4"))
