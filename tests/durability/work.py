"""A small run with a journal, as the tests of kills and crashes start it again and again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from fanout import Client, Codec, Limits, Payload, RetryPolicy, open_sink, open_source
from fanout.client import content_of, open_journal, reopen_failures
from fanout.io.journal.format import read_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout import Event, Response, Result, RunControl
    from fanout.io.readers.base import Source

WIDTH = 3
_GROWTH_BYTES = 128
"""Small runs are to need room more than once, as large ones do."""


class Raw(Codec):
    """Rows of float32 numbers as they lie in memory, there and back; the first is the number of the row."""

    name = "raw"

    def __init__(self, *, outputs: int = 1, width: int = WIDTH) -> None:
        super().__init__()
        self._outputs = outputs
        self._width = width

    def encode(self, rows: Any) -> Payload:
        body = np.asarray(rows, "<f4").tobytes()
        return Payload(body=body, content_type="application/octet-stream", headers={"x-width": str(self._width)})

    def decode(self, reply: Response, n_rows: int) -> Any:
        values = np.frombuffer(reply.body, "<f4").reshape(-1, self._width)
        return values if self._outputs == 1 else {f"part{i}": values[:, i] for i in range(self._outputs)}


def rows_of(n_rows: int, first: int = 0) -> np.ndarray:
    """Row i is (i, i, i), or one of them that begins with ``first``."""
    return np.repeat(np.arange(first, first + n_rows, dtype="<f4"), WIDTH).reshape(-1, WIDTH)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The settings of a run. Two that differ in ``salt`` alone are runs of different inputs."""

    suffix: str = ".npy"
    outputs: int = 1
    refused: str = ""
    """Rows that the server refuses, with commas between them."""

    sized: bool = True
    fresh: bool = False
    only_failed: bool = False
    carry: bool = False
    keep: bool = False
    """The rows come from a file beside the folder, whose column ``label`` the output keeps."""

    first: int = 0
    """Number that the first row has."""

    salt: str = ""
    n_rows: int = 40
    chunk_rows: int = 4
    group_chunks: int = 2
    concurrency: int = 2

    def output(self, folder: Path) -> Path:
        """The output file."""
        return folder / f"y{self.suffix}"

    def journal(self, folder: Path) -> Path:
        """The journal beside it."""
        return folder / f"y{self.suffix}.journal"


async def send(
    folder: Path,
    kind: Kind,
    url: str,
    *,
    run: str = "",
    on_event: Callable[[Event], None] | None = None,
    control: RunControl | None = None,
) -> Result:
    """Run it to its end. Blocking calls are made on one thread, so that they come in one order."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    client = Client(
        url,
        codec=Raw(outputs=kind.outputs),
        chunk_rows=kind.chunk_rows,
        limits=Limits(concurrency=kind.concurrency),
        retry=RetryPolicy(initial_backoff=0.001, max_backoff=0.001),
        headers={"x-run": run, "x-refused": kind.refused},
        on_event=on_event,
    )
    rows = _kept_rows(folder.parent, kind) if kind.keep else rows_of(kind.n_rows, kind.first)
    sink = open_sink(kind.output(folder))
    identity = {**client.identity(rows), "salt": kind.salt}
    with (
        patch("fanout.client.writing._GROUP_CHUNKS", kind.group_chunks),
        patch("fanout.client.writing._COMMIT_SECONDS", 0.0),
        patch("fanout.io.writers.npy._GROWTH_BYTES", _GROWTH_BYTES),
        ExitStack() as opened,
    ):
        options = {"fresh": kind.fresh, "carry": kind.carry}
        arguments = (kind.journal(folder), identity, content_of(rows), sink)
        journal = await asyncio.to_thread(open_journal, *arguments, **options)
        opened.callback(journal.close)
        if kind.only_failed and journal.state.failures:
            await asyncio.to_thread(reopen_failures, sink, journal)
        async with client:
            return await client.run(rows if kind.sized else iter(rows), sink, journal=journal, control=control)


def _kept_rows(folder: Path, kind: Kind) -> Source:
    """The rows of ``kind`` as a source with a column to keep. All runs of one kind read one file."""
    path = folder / f"rows-{kind.first}-{kind.n_rows}.jsonl"
    if not path.exists():
        rows = rows_of(kind.n_rows, kind.first).tolist()
        path.write_text("".join(f'{{"x": {row}, "label": "row {row[0]:g}"}}\n' for row in rows))
    return open_source(path, "x", keep=["label"])


def resolved(folder: Path, kind: Kind) -> set[int]:
    """The rows that the journal knows to be done, and that are not to be sent again."""
    state = read_state(kind.journal(folder))
    if state is None:
        return set()
    rows = state.ok if kind.only_failed and state.complete else state.resolved
    return {row for start, stop in rows for row in range(start, stop)}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of the folder except the journal: the result of a run."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".journal"
    }


def is_of_one_run(left: dict[str, bytes], before: dict[str, bytes], after: dict[str, bytes]) -> bool:
    """True if the values that are in place, and the mask and failures beside them, are all of the same run.

    The only file of a run is always there. Where several belong together, some may be missing, but never a part of
    those that say which values count.
    """
    names = before.keys() | after.keys()
    reports = {name for name in names if name.endswith((".ok.npy", ".failures.jsonl"))}
    values = {name: left[name] for name in names - reports if name in left}
    if not values:
        return len(names) > 1
    return any(
        all(run.get(name) == content for name, content in values.items())
        and all(run.get(name) == left.get(name) for name in reports)
        for run in (before, after)
    )
