"""Frames in a notebook with a real kernel: the page of the docs, the bar, an interrupt, and the answers after it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.jobs import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]

PAGE = (Path(__file__).absolute().parents[1] / "docs" / "data-frames.md").read_text("utf-8")
CALL = """
import pandas as pd
import fanout

frame = pd.DataFrame({"id": range(1000), "x": [i / 2 for i in range(1000)]})
with fanout.SyncClient("URL", codec="v1", chunk_rows=100, limits=fanout.Limits(concurrency=1)) as client:
    scored = client.map_frame(frame, columns="x", keep=["id"], progress=True)
scored.tail(1)
"""
AFTER = """
import sys

result = sys.last_value.result
print(type(sys.last_value).__name__, int(result.ok.sum()), result.to_pandas()["value"].dropna().tolist()[-1])
result
"""


class Notebook:
    """A notebook whose cells run one after the other in one kernel."""

    def __init__(self, client: Any, new_cell: Any) -> None:
        self.client = client
        self._new_cell = new_cell

    async def run(self, source: str) -> list[Any]:
        """Run a cell; return its outputs."""
        cell = self._new_cell(source)
        self.client.nb.cells.append(cell)
        await self.client.async_execute_cell(cell, len(self.client.nb.cells) - 1)
        return list(cell.outputs)


@contextlib.asynccontextmanager
async def notebook(**options: Any) -> AsyncIterator[Notebook]:
    pytest.importorskip("ipykernel")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(), timeout=60, **options)
    async with client.async_setup_kernel():
        yield Notebook(client, nbformat.v4.new_code_cell)


@contextlib.asynccontextmanager
async def echoing(pause_after: int, reached: asyncio.Event) -> AsyncIterator[str]:
    """Serve the rows as they are; requests after the first ones set ``reached``, and are not answered."""
    requests = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal requests
        requests += 1
        rows = (await request.json())["instances"]
        if requests > pause_after:
            reached.set()
            await asyncio.Event().wait()
        return web.json_response({"predictions": rows})

    async with served(handle) as url:
        yield f"{url}/predict"


async def test_the_page_of_data_frames_runs_in_a_notebook() -> None:
    cells = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(cells) >= 4
    async with notebook() as book:
        outputs = [await book.run(cell) for cell in cells]
    # The last cell shows a bar, which needs no widgets.
    (bar,) = outputs[-1]
    assert bar["data"]["text/plain"] == "1,000/1,000 rows, ETA 0:00:00"
    assert '<progress value="1000" max="1000">' in bar["data"]["text/html"]


async def test_a_frame_goes_in_and_comes_out_with_a_bar() -> None:
    async with echoing(100, asyncio.Event()) as url, notebook() as book:
        bar, frame = await book.run(CALL.replace("URL", url))
    assert bar["data"]["text/plain"].startswith("1,000/1,000 rows")
    assert frame["data"]["text/plain"].split() == ["id", "value", "error", "999", "999", "499.5", "None"]


async def test_the_answers_before_an_interrupt_are_kept_in_the_notebook() -> None:
    reached = asyncio.Event()
    async with echoing(3, reached) as url, notebook(allow_errors=True) as book:
        running = asyncio.ensure_future(book.run(CALL.replace("URL", url)))
        await asyncio.wait_for(reached.wait(), 60)
        await book.client.km.interrupt_kernel()
        *_, error = await running
        assert error["ename"] == "Interrupted"
        printed, shown = await book.run(AFTER)
    # One request at a time: three were answered before the one that was in flight.
    assert printed["text"] == "Interrupted 300 149.5\n"
    assert "<td>1,000</td>" in shown["data"]["text/html"]
