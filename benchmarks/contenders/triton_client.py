"""tritonclient's asyncio client for HTTP: a worker loop around ``infer``, with binary tensors both ways."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import tritonclient.http.aio as triton

from benchmarks.session import Session
from benchmarks.workloads import MODEL, Array, Workload, slices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@asynccontextmanager
async def opened(workload: Workload, origin: str) -> AsyncIterator[Session]:
    """Open an ``InferenceServerClient``."""
    address = origin.removeprefix("http://") + workload.base
    async with triton.InferenceServerClient(address, conn_limit=workload.concurrency) as client:
        outputs = [triton.InferRequestedOutput("output", binary_data=True)]

        async def send(rows: Any) -> Array:
            out = workload.blank(len(rows))
            todo = iter(slices(rows, workload.chunk_rows))
            await asyncio.gather(*(worker(rows, out, todo) for _ in range(workload.concurrency)))
            return out

        async def worker(rows: Any, out: Array, todo: Iterator[slice]) -> None:
            for chunk in todo:
                tensor = triton.InferInput("input", list(rows[chunk].shape), "FP32")
                tensor.set_data_from_numpy(rows[chunk], binary_data=True)
                answer = await client.infer(MODEL, [tensor], outputs=outputs)
                out[chunk] = answer.as_numpy("output")

        yield Session(send)
