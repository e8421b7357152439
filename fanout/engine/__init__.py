"""The life of a chunk, from the source's rows to a proven place in the output."""

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
