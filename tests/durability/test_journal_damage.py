"""Rows 45 and 46 of the fault matrix, through a whole run: a torn tail is sent again, anything else is loud."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from fanout import ConfigError, RunControl, RunStopped
from fanout.io.journal.format import read_state
from tests.durability.work import Kind, files_of, resolved, send
from tests.support import records

if TYPE_CHECKING:
    from pathlib import Path

    from tests.durability.processes import Model

pytestmark = [pytest.mark.timeout(600)]
KIND = Kind(group_chunks=1, concurrency=1, n_rows=200)
STEPS = pytest.mark.parametrize(
    "step", [pytest.param(1, marks=pytest.mark.soak), pytest.param(19, marks=pytest.mark.slow), 61]
)


async def stopped(folder: Path, model: Model, chunks: int = 6) -> None:
    """A run of which some groups are committed, and no more."""
    folder.mkdir()
    control, done = RunControl(), []

    def stop(event: object) -> None:
        done.append(event)
        if len(done) == chunks:
            control.drain()

    with pytest.raises(RunStopped):
        await send(folder, KIND, model.url, on_event=stop, control=control)


async def whole(folder: Path, model: Model) -> dict[str, bytes]:
    folder.mkdir()
    await send(folder, KIND, model.url)
    return files_of(folder)


@STEPS
async def test_45_a_torn_tail_is_cut_at_every_byte_and_its_rows_are_sent_again(
    tmp_path: Path, model: Model, step: int
) -> None:
    expected = await whole(tmp_path / "whole", model)
    await stopped(tmp_path / "stopped", model)
    data = KIND.journal(tmp_path / "stopped").read_bytes()
    for size in range(0, len(data), step):
        folder = tmp_path / str(size)
        shutil.copytree(tmp_path / "stopped", folder)
        KIND.journal(folder).write_bytes(data[:size])
        known = resolved(folder, KIND)
        await send(folder, KIND, model.url, run=str(folder))
        assert model.asked(str(folder)) == set(range(KIND.n_rows)) - known, f"cut at {size}"
        assert files_of(folder) == expected, f"cut at {size}"


@STEPS
async def test_46_a_flipped_bit_is_never_believed(tmp_path: Path, model: Model, step: int) -> None:
    expected = await whole(tmp_path / "whole", model)
    await stopped(tmp_path / "stopped", model)
    before = read_state(KIND.journal(tmp_path / "stopped"))
    data = KIND.journal(tmp_path / "stopped").read_bytes()
    last = records(data[:-1])[1]
    refused = 0
    for at in range(0, len(data), step):
        folder = tmp_path / str(at)
        shutil.copytree(tmp_path / "stopped", folder)
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        KIND.journal(folder).write_bytes(flipped)
        if at < last:
            with pytest.raises(ConfigError, match=r"y\.npy\.journal is damaged: .*--fresh"):
                await send(folder, KIND, model.url, run=str(folder))
            assert KIND.journal(folder).read_bytes() == flipped
            assert not model.asked(str(folder))
            refused += 1
        else:
            known = resolved(folder, KIND)
            assert len(known) < len(before.resolved)
            await send(folder, KIND, model.url, run=str(folder))
            assert model.asked(str(folder)) == set(range(KIND.n_rows)) - known
            assert files_of(folder) == expected
    assert refused


async def test_46_a_file_that_is_no_journal_is_not_written_over(tmp_path: Path, model: Model) -> None:
    KIND.journal(tmp_path).write_bytes(b"the user's own")
    with pytest.raises(ConfigError, match="is damaged: it does not begin as a journal does"):
        await send(tmp_path, KIND, model.url)
    assert KIND.journal(tmp_path).read_bytes() == b"the user's own"
