"""The life of a chunk, from the source's rows to a proven place in the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.engine.answer_store import AnswerStore, request_keys
    from fanout.engine.batching import Batch, Batcher
    from fanout.engine.chunker import Chunker, ChunkTask, room_for
    from fanout.engine.inputs import as_rows, chunker_of
    from fanout.engine.packing import Packing, Scale
    from fanout.engine.results import MergedRows, ResultQueue, RowStatus
    from fanout.engine.run import Run
    from fanout.engine.sharing import Shares
    from fanout.engine.sharing_chunker import SharingChunker
    from fanout.engine.workers import Encoder
    from fanout.stop import RunControl, Stop, Until
    from fanout.upstream.group import EndpointGroup

__all__ = [
    "AnswerStore",
    "Batch",
    "Batcher",
    "ChunkTask",
    "Chunker",
    "Encoder",
    "EndpointGroup",
    "MergedRows",
    "Packing",
    "ResultQueue",
    "RowStatus",
    "Run",
    "RunControl",
    "Scale",
    "Shares",
    "SharingChunker",
    "Stop",
    "Until",
    "as_rows",
    "chunker_of",
    "request_keys",
    "room_for",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "fanout.engine.answer_store": ("AnswerStore", "request_keys"),
        "fanout.engine.batching": ("Batch", "Batcher"),
        "fanout.engine.chunker": ("Chunker", "ChunkTask", "room_for"),
        "fanout.engine.inputs": ("as_rows", "chunker_of"),
        "fanout.engine.packing": ("Packing", "Scale"),
        "fanout.engine.results": ("MergedRows", "ResultQueue", "RowStatus"),
        "fanout.engine.run": ("Run",),
        "fanout.engine.sharing": ("Shares",),
        "fanout.engine.sharing_chunker": ("SharingChunker",),
        "fanout.engine.workers": ("Encoder",),
        "fanout.stop": ("RunControl", "Stop", "Until"),
        "fanout.upstream.group": ("EndpointGroup",),
    },
)
