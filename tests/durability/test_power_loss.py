"""Rows 44 and 50 of the fault matrix: the power fails at any moment, once and again, and no committed row is lost."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fanout import RunControl, RunStopped
from tests.durability.disk import Power, Recorder
from tests.durability.work import Kind, files_of, is_of_one_run, resolved, send

if TYPE_CHECKING:
    from pathlib import Path

    from fanout import Event
    from tests.durability.processes import Model

pytestmark = pytest.mark.timeout(600)
KINDS = {
    "npy": Kind(),
    "jsonl": Kind(suffix=".jsonl"),
    "parquet": Kind(suffix=".parquet"),
    "several outputs": Kind(outputs=3),
    "unsized": Kind(sized=False),
    "kept columns": Kind(suffix=".jsonl", keep=True),
    "failures": Kind(refused="1,2,3,20"),
    "failures first": Kind(refused="0", chunk_rows=1, concurrency=1, group_chunks=1, outputs=2),
}
LONG = {"several outputs", "failures"}
NAMES = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in KINDS]
)
LIKELY = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.5), (0.5, 0.5), (0.9, 0.2), (0.2, 0.9)]

MOST = pytest.mark.parametrize(
    "most", [pytest.param(10**9, marks=pytest.mark.soak, id="all"), pytest.param(30, marks=pytest.mark.slow), 8]
)


def moments(recorder: Recorder, most: int) -> list[tuple[int, int, tuple[float, float]]]:
    """Every moment of a run with all that a power failure may leave then, or a sample of them, the end included."""
    last = len(recorder.ops)
    every = [(at, number, likely) for at in range(last + 1) for number, likely in enumerate(LIKELY)]
    if most >= len(every):
        return every
    return [*random.Random(last).sample(every[:-1], most - 1), every[-1]]


async def recorded(folder: Path, kind: Kind, model: Model, run: str = "", recorder: Recorder | None = None) -> Recorder:
    """Run to the end, and note every operation, every row reported as done, and the end."""
    recorder = recorder or Recorder(folder)

    def listen(event: Event) -> None:
        if event.kind in ("done", "failed"):
            recorder.mark(range(event.start, event.stop))

    with pytest.MonkeyPatch.context() as patch:
        recorder.watching(patch)
        await send(folder, kind, model.url, run=run, on_event=listen)
        recorder.mark(range(kind.n_rows))
    return recorder


def image(folder: Path, recorder: Recorder, at: int, dice: random.Random, likely: tuple[float, float]) -> set[int]:
    """Fill ``folder`` with the files that a crash leaves; return the rows that were reported as done."""
    power = Power(recorder, at)
    folder.mkdir()
    for name, content in power.fails(dice, data=likely[0], names=likely[1]).items():
        (folder / name).write_bytes(content)
    return {row for rows in power.marks for row in rows}


async def undisturbed(folder: Path, kind: Kind, model: Model) -> Recorder:
    folder.mkdir()
    return await recorded(folder, kind, model)


@MOST
@NAMES
async def test_44_the_power_fails_after_any_operation(tmp_path: Path, model: Model, name: str, most: int) -> None:
    kind = KINDS[name]
    first = await undisturbed(tmp_path / "whole", kind, model)
    whole = files_of(tmp_path / "whole")
    for at, number, likely in moments(first, most):
        folder, dice = tmp_path / f"{at}-{number}", random.Random(f"{at} {number}")
        done = image(folder, first, at, dice, likely)
        await recorded(folder, kind, model, str(folder))
        assert not model.asked(str(folder)) & done, f"after {first.ops[at - 1][:4]}, {number}"
        assert files_of(folder) == whole, f"after {first.ops[at - 1][:4]}, {number}"


@pytest.mark.parametrize("seeds", [pytest.param(range(40), marks=pytest.mark.soak), range(3)], ids=["many", "few"])
@NAMES
async def test_44_the_power_fails_again_and_again(tmp_path: Path, model: Model, name: str, seeds: range) -> None:
    kind = KINDS[name]
    first = await undisturbed(tmp_path / "whole", kind, model)
    whole = files_of(tmp_path / "whole")
    for seed in seeds:
        dice, recorder, done, at = random.Random(seed), first, set(), 0
        for crash in range(4):
            folder = tmp_path / f"{seed}-{crash}"
            at, killed = dice.randint(at, len(recorder.ops)), dice.random() < 0.5
            # A kill leaves all that was written, but for the next power failure it is still on its way to the disk.
            done |= image(folder, recorder, at, dice, (1.0, 1.0) if killed else dice.choice(LIKELY))
            after = recorder.killed(at, folder) if killed else Recorder(folder)
            at = len(after.ops)
            recorder = await recorded(folder, kind, model, str(folder), after)
            assert not model.asked(str(folder)) & done, f"seed {seed}"
            assert files_of(folder) == whole, f"seed {seed}"


@MOST
@pytest.mark.parametrize("name", ["npy", "jsonl", "failures", "several outputs"])
async def test_50_64_an_earlier_output_is_replaced_with_its_mask_or_not_at_all(
    tmp_path: Path, model: Model, name: str, most: int
) -> None:
    kind = KINDS[name]
    folder = tmp_path / "run"
    await undisturbed(folder, replace(kind, salt="other", n_rows=44), model)
    before = files_of(folder)
    second = await recorded(folder, kind, model)
    after = files_of(folder)
    for at, number, likely in moments(second, most):
        folder = tmp_path / f"{at}-{number}"
        image(folder, second, at, random.Random(f"{at} {number}"), likely)
        left = files_of(folder)
        assert is_of_one_run(left, before, after), f"after {second.ops[at - 1][:4]}"
        await recorded(folder, kind, model)
        assert files_of(folder) == after, f"after {second.ops[at - 1][:4]}, {number}"


@MOST
@pytest.mark.parametrize("name", ["npy", "jsonl", "parquet", "several outputs"])
async def test_44_the_power_fails_while_the_failed_rows_alone_are_sent(
    tmp_path: Path, model: Model, name: str, most: int
) -> None:
    kind = KINDS[name]
    again = replace(kind, only_failed=True)
    folder = tmp_path / "run"
    await undisturbed(folder, replace(kind, refused="7,20"), model)
    second = await recorded(folder, again, model)
    after = files_of(folder)
    for at, number, likely in moments(second, most):
        folder = tmp_path / f"{at}-{number}"
        done = image(folder, second, at, random.Random(f"{at} {number}"), likely)
        await recorded(folder, again, model, str(folder))
        assert model.asked(str(folder)) <= {7, 20} - done
        assert files_of(folder) == after, f"after {second.ops[at - 1][:4]}, {number}"


@MOST
@pytest.mark.parametrize("name", ["npy", "jsonl", "parquet", "several outputs"])
@pytest.mark.parametrize("finished", [False, True])
async def test_44_the_power_fails_while_answers_are_carried_over_to_another_input(
    tmp_path: Path, model: Model, name: str, most: int, finished: bool
) -> None:
    kind = replace(KINDS[name], n_rows=400)
    moved = replace(kind, carry=True, first=8)
    await undisturbed(tmp_path / "whole", replace(kind, first=8), model)
    whole = files_of(tmp_path / "whole")
    folder = tmp_path / "run"
    folder.mkdir()
    control, seen = RunControl(), []

    def stop(event: object) -> None:
        seen.append(event)
        if len(seen) == 5 and not finished:
            control.drain()

    with contextlib.suppress(RunStopped):
        await send(folder, kind, model.url, on_event=stop, control=control)
    done = resolved(folder, kind)
    assert finished == (len(done) == kind.n_rows)
    assert len(done) > 8
    second = await recorded(folder, moved, model)
    assert files_of(folder) == whole
    for at, number, likely in moments(second, most):
        folder = tmp_path / f"{at}-{number}"
        image(folder, second, at, random.Random(f"{at} {number}"), likely)
        await recorded(folder, moved, model, str(folder))
        assert not model.asked(str(folder)) & done
        assert files_of(folder) == whole, f"after {second.ops[at - 1][:4]}, {number}"
