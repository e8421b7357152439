"""Row 64 of the fault matrix: wherever a publication breaks off, values and mask in place are of the same run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fanout.io import publication as module
from tests.durability.work import is_of_one_run
from tests.io.writers.runs import done, failure, opened, result

if TYPE_CHECKING:
    from fanout.io.publication import Publication

RUNS = {
    "whole": ([""], []),
    "a row failed": ([""], [failure(1, 2)]),
    "two outputs": (["a", "b"], []),
    "two outputs, a row failed": (["a", "b"], [failure(0, 1)]),
}


class Killed(BaseException):
    """The process is gone."""


def finished(path: Path, kind: str, value: float, earlier: Publication | None = None) -> Publication:
    names, failures = RUNS[kind]
    sink = opened(path, 3)
    sink.write([done(0, {name: np.full(3, value) for name in names}, failures=tuple(failures))])
    replaced = [] if earlier is None else [target for _, target in earlier.moves]
    publication = sink.finish(result(3, failures), replaced)
    sink.close()
    return publication


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".partial"}


def killed_at(publication: Publication, nth: int) -> bool:
    """Carry it out up to the nth step that changes a folder; True if that many are needed."""
    steps = itertools.count()

    def step(usual):
        def taken(*args, **keywords):
            if next(steps) == nth:
                raise Killed
            return usual(*args, **keywords)

        return taken

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((Path, "replace"), (Path, "unlink"), (module, "sync_folder")):
            patch.setattr(owner, name, step(getattr(owner, name)))
        try:
            publication.carry_out()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
@pytest.mark.parametrize("new", RUNS)
@pytest.mark.parametrize("old", RUNS)
def test_values_and_mask_are_always_of_the_same_run(tmp_path: Path, suffix: str, old: str, new: str) -> None:
    def first(folder: Path) -> Publication:
        folder.mkdir()
        publication = finished(folder / f"y{suffix}", old, 1.0)
        publication.carry_out()
        return publication

    whole = tmp_path / "whole"
    earlier = first(whole)
    before = content(whole)
    finished(whole / f"y{suffix}", new, 2.0, earlier).carry_out()
    after = content(whole)
    for nth in itertools.count():
        folder = tmp_path / str(nth)
        publication = finished(folder / f"y{suffix}", new, 2.0, first(folder))
        was_killed = killed_at(publication, nth)
        assert is_of_one_run(content(folder), before, after), f"killed at step {nth}"
        publication.carry_out()
        assert content(folder) == after, f"killed at step {nth}"
        if not was_killed:
            break
    assert nth > 1
