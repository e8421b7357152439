"""Row 43 of the fault matrix: killed at any system call, a run goes on to the bytes of the undisturbed one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fanout import ConfigError
from tests.durability.work import Kind, files_of, is_of_one_run, resolved, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.durability.processes import Model, Nursery

pytestmark = pytest.mark.timeout(600)
CALLS = [
    "openat", "pwrite64", "write", "fsync", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "unlink",
    "unlinkat", "mkdir", "flock", "close",
]  # fmt: skip
KINDS = {
    "npy": Kind(),
    "jsonl": Kind(suffix=".jsonl"),
    "parquet": Kind(suffix=".parquet"),
    "several outputs": Kind(outputs=3),
    "unsized": Kind(sized=False),
    "failures": Kind(refused="7,20"),
    "failures in parquet": Kind(suffix=".parquet", refused="7,20"),
    "kept columns": Kind(suffix=".jsonl", keep=True),
    "failures with kept columns": Kind(suffix=".parquet", refused="7,20", keep=True),
}
SIGKILL = -9
EVERY = pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.soak), pytest.param(9, marks=pytest.mark.slow)]
)
"""A kill at each system call of a kind, or at the first and at every ninth after it."""


def tracing_works() -> str | None:
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"strace may not trace here: {tried.stderr.strip()}"


WHY_NOT = tracing_works()
traced = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


def killed_at(nursery: Nursery, folder: Path, kind: Kind, run: str, call: str, nth: int) -> bool:
    """Start a run that is killed when one of its threads enters a system call for the nth time; False if none did."""
    pid = nursery.start(folder, kind, run, traced=True)
    options = ["-f", "-qq", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={call}"]
    with subprocess.Popen(["strace", *options, "-e", f"inject={call}:signal=SIGKILL:when={nth}"]):
        code = nursery.ended()
    assert code in (0, SIGKILL), f"the run ended with {code}"
    return code == SIGKILL


async def undisturbed(folder: Path, kind: Kind, model: Model) -> dict[str, bytes]:
    folder.mkdir()
    await send(folder, kind, model.url, run=f"{folder} undisturbed")
    return files_of(folder)


async def gone_on_with(folder: Path, kind: Kind, model: Model, run: str) -> None:
    """Run again to the end; rows that are done in the journal must not be sent again."""
    known = resolved(folder, kind)
    await send(folder, kind, model.url, run=run)
    assert not model.asked(run) & known


def kills(nursery: Nursery, tmp_path: Path, kind: Kind, every: int, *, before: Path | None = None) -> Iterator[Path]:
    """Yield the folder of each killed run of ``kind``, named after the system call; it begins with ``before``."""
    for call in CALLS:
        for nth in range(1, 1000, every):
            folder = tmp_path / f"{call}-{nth}"
            if before is None:
                folder.mkdir()
            else:
                shutil.copytree(before, folder)
            if not killed_at(nursery, folder, kind, f"{folder} killed", call, nth):
                break
            yield folder


@traced
@EVERY
@pytest.mark.parametrize("name", KINDS)
async def test_43_a_kill_at_any_system_call(
    tmp_path: Path, model: Model, nursery: Nursery, name: str, every: int
) -> None:
    kind = KINDS[name]
    whole = await undisturbed(tmp_path / "whole", kind, model)
    n_kills = 0
    for folder in kills(nursery, tmp_path, kind, every):
        n_kills += 1
        await gone_on_with(folder, kind, model, f"{folder} again")
        assert files_of(folder) == whole, f"killed at {folder.name}"
    assert n_kills > 50 / every


@traced
@EVERY
@pytest.mark.parametrize("name", ["npy", "parquet", "several outputs", "kept columns"])
async def test_43_a_kill_while_the_failed_rows_alone_are_sent(
    tmp_path: Path, model: Model, nursery: Nursery, name: str, every: int
) -> None:
    kind = KINDS[name]
    again = replace(kind, only_failed=True)
    for part in ("whole", "before"):
        await undisturbed(tmp_path / part, replace(kind, refused="7,20"), model)
    await send(tmp_path / "whole", again, model.url)
    for folder in kills(nursery, tmp_path, again, every, before=tmp_path / "before"):
        await gone_on_with(folder, again, model, f"{folder} again")
        assert model.asked(f"{folder} again") <= {7, 20}
        assert files_of(folder) == files_of(tmp_path / "whole"), f"killed at {folder.name}"


@traced
@EVERY
@pytest.mark.parametrize("name", ["npy", "jsonl", "parquet", "several outputs", "kept columns"])
@pytest.mark.parametrize("finished", [False, True])
async def test_43_a_kill_while_answers_are_carried_over_to_another_input(
    tmp_path: Path, model: Model, nursery: Nursery, name: str, every: int, finished: bool
) -> None:
    kind = KINDS[name]
    moved = replace(kind, carry=True, first=8)
    whole = await undisturbed(tmp_path / "whole", replace(kind, first=8), model)
    (tmp_path / "before").mkdir()
    if finished:
        await send(tmp_path / "before", kind, model.url)
    else:
        assert killed_at(nursery, tmp_path / "before", kind, "before", "pwrite64", 14)
    done = resolved(tmp_path / "before", kind)
    assert done
    n_kills = 0
    for folder in kills(nursery, tmp_path, moved, every, before=tmp_path / "before"):
        n_kills += 1
        await send(folder, moved, model.url, run=f"{folder} again")
        assert not model.asked(f"{folder} again") & done
        assert files_of(folder) == whole, f"killed at {folder.name}"
    assert n_kills > 20 / every


@traced
@EVERY
@pytest.mark.parametrize("name", ["npy", "jsonl", "failures", "several outputs"])
@pytest.mark.parametrize("fresh", [False, True])
async def test_50_64_an_earlier_output_is_replaced_with_its_mask_or_not_at_all(
    tmp_path: Path, model: Model, nursery: Nursery, name: str, every: int, fresh: bool
) -> None:
    kind = replace(KINDS[name], fresh=fresh)
    before = await undisturbed(tmp_path / "before", replace(kind, salt="other", n_rows=44), model)
    after = await undisturbed(tmp_path / "after", kind, model)
    for folder in kills(nursery, tmp_path, kind, every, before=tmp_path / "before"):
        assert is_of_one_run(files_of(folder), before, after), f"killed at {folder.name}"
        await send(folder, replace(kind, fresh=False), model.url)
        assert files_of(folder) == after


@traced
@EVERY
async def test_43_a_kill_while_an_unfinished_run_is_begun_anew(
    tmp_path: Path, model: Model, nursery: Nursery, every: int
) -> None:
    other, kind = Kind(salt="other"), Kind(fresh=True)
    whole = await undisturbed(tmp_path / "whole", kind, model)
    (tmp_path / "before").mkdir()
    assert killed_at(nursery, tmp_path / "before", other, "other", "pwrite64", 12)
    assert resolved(tmp_path / "before", other)
    for folder in kills(nursery, tmp_path, kind, every, before=tmp_path / "before"):
        try:
            await gone_on_with(folder, replace(kind, fresh=False), model, f"{folder} again")
        except ConfigError:  # nothing of the new run was done yet: it is the other one that is unfinished
            await send(folder, kind, model.url)
        assert files_of(folder) == whole, f"killed at {folder.name}"
