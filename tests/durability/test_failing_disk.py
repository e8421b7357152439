"""Rows 47, 48 and 49 of the fault matrix: a disk that is full, or broken, stops the run and costs no committed row."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fanout import ConfigError, RunStopped
from tests.durability.work import Kind, files_of, resolved, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout import Event
    from tests.durability.processes import Model

KINDS = {
    "npy": Kind(),
    "jsonl": Kind(suffix=".jsonl"),
    "parquet": Kind(suffix=".parquet"),
    "several outputs": Kind(outputs=3),
    "failures": Kind(refused="7,20"),
}
LONG = {"several outputs", "failures"}
NAMES = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in KINDS]
)


class Disk:
    """The real one, until a system call is the nth of its kind on a file whose name ends so."""

    def __init__(self, patch: pytest.MonkeyPatch, call: str, ending: str, nth: int, code: int) -> None:
        self._call: Callable[..., Any] = getattr(os, call)
        self._ending, self._left, self._code = ending, nth, code
        self.failed: list[tuple[int, int]] = []
        """Device and inode of the file that a call has failed on."""

        self.reported: set[int] = set()
        """Rows that the run has reported as done."""

        self.again = 0
        """Calls on that file since then."""
        patch.setattr(os, call, self._made)

    def listen(self, event: Event) -> None:
        """Note rows that are reported as done."""
        if event.kind in ("done", "failed"):
            self.reported |= set(range(event.start, event.stop))

    def _made(self, fd: int, *arguments: Any) -> Any:
        status, name = os.fstat(fd), str(Path(f"/proc/self/fd/{fd}").readlink())
        if (status.st_dev, status.st_ino) in self.failed:
            self.again += 1
        if name.endswith(self._ending):
            self._left -= 1
            if self._left == 0:
                self.failed.append((status.st_dev, status.st_ino))
                raise OSError(self._code, os.strerror(self._code))
        return self._call(fd, *arguments)


async def undisturbed(folder: Path, kind: Kind, model: Model) -> dict[str, bytes]:
    folder.mkdir()
    await send(folder, kind, model.url)
    return files_of(folder)


async def broken_off(folder: Path, kind: Kind, model: Model, **how: Any) -> Disk | None:
    """A run on a disk that fails once; None if the run ended before that."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, **how)
        try:
            await send(folder, kind, model.url, on_event=disk.listen)
        except (RunStopped, ConfigError) as error:
            kind_of_stop = error.kind if isinstance(error, RunStopped) else error.key
            assert kind_of_stop in ("output", "output.path")
            assert os.strerror(how["code"]) in str(error)  # noqa: PT017 - it may also end well
        return disk if disk.failed else None


async def gone_on_with(folder: Path, kind: Kind, model: Model, expected: dict[str, bytes]) -> None:
    known = resolved(folder, kind)
    await send(folder, kind, model.url, run=str(folder))
    assert not model.asked(str(folder)) & known
    assert files_of(folder) == expected


@NAMES
@pytest.mark.parametrize("ending", [".journal", ".journal.new"])
async def test_47_a_disk_that_is_full_for_the_journal(tmp_path: Path, model: Model, name: str, ending: str) -> None:
    expected = await undisturbed(tmp_path / "whole", KINDS[name], model)
    for nth in range(1, 100):
        folder = tmp_path / f"{nth}"
        disk = await broken_off(folder, KINDS[name], model, call="pwrite", ending=ending, nth=nth, code=errno.ENOSPC)
        if disk is None:
            break
        assert resolved(folder, KINDS[name]) == disk.reported
        await gone_on_with(folder, KINDS[name], model, expected)
    assert nth > (1 if ending == ".journal.new" else 3)


@NAMES
@pytest.mark.parametrize("ending", [".journal", ".journal.new", ".partial", ".ordered", "-run"])
async def test_49_an_fsync_that_fails_is_not_tried_again(tmp_path: Path, model: Model, name: str, ending: str) -> None:
    expected = await undisturbed(tmp_path / "whole", KINDS[name], model)
    for nth in range(1, 100):
        folder = tmp_path / f"{nth}-run"
        disk = await broken_off(folder, KINDS[name], model, call="fsync", ending=ending, nth=nth, code=errno.EIO)
        if disk is None:
            break
        # A record that is still in memory, but perhaps not on the disk, is not there for the next process either.
        assert resolved(folder, KINDS[name]) == disk.reported
        assert not disk.again or ending == "-run"
        await gone_on_with(folder, KINDS[name], model, expected)
    assert nth > 1 or (ending == ".ordered" and KINDS[name].suffix == ".npy")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    ended = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "fanout-test", str(folder)], capture_output=True, check=False
    )
    if ended.returncode:
        pytest.skip(f"no file system may be mounted here: {ended.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("suffix", [".npy", ".jsonl", ".parquet"])
async def test_47_a_small_disk_that_fills_up(tmp_path: Path, small: Path, model: Model, suffix: str) -> None:
    kind = Kind(suffix=suffix, n_rows=20_000, chunk_rows=200)
    expected = await undisturbed(tmp_path / "whole", kind, model)
    (small / "other").write_bytes(bytes(850_000))
    with pytest.raises((RunStopped, ConfigError), match="No space left on device"):
        await send(small, kind, model.url)
    (small / "other").unlink()
    shutil.copytree(small, tmp_path / "roomy")
    await gone_on_with(tmp_path / "roomy", kind, model, expected)


async def test_48_a_full_disk_stops_the_run_as_soon_as_the_row_shape_is_known(small: Path, model: Model) -> None:
    kind = Kind(n_rows=100_000, chunk_rows=50)
    with pytest.raises(RunStopped, match=r"the output cannot be written: .*\.npy: No space left on device") as caught:
        await send(small, kind, model.url, run="no room")
    assert caught.value.kind == "output"
    assert len(model.asked("no room")) < 10_000
    assert not files_of(small)
    await send(small, replace(kind, n_rows=1000), model.url)
