"""LiteLLM: a worker loop around ``acompletion``, the call that its users know, with its default retries."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.contenders._chat import request
from benchmarks.session import Session
from benchmarks.workloads import MODEL, Array, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


litellm: Any = import_module("litellm")  # the name of a folder of this repository, too, which mypy would take


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Use LiteLLM's own clients, which it keeps by itself."""
    litellm.suppress_debug_info = True
    options = {"model": f"openai/{MODEL}", "api_base": f"{origin}{workload.base}/v1", "api_key": "none"}

    async def send(rows: Any) -> Array:
        out, todo = workload.blank(len(rows)), iter(range(len(rows)))
        await asyncio.gather(*(worker(rows, out, todo) for _ in range(workload.concurrency)))
        return out

    async def worker(rows: Any, out: Array, todo: Iterator[int]) -> None:
        for i in todo:
            answer = await litellm.acompletion(**options, messages=request(rows[i])["messages"])
            out[i] = answer.choices[0].message.content

    yield Session(send)
