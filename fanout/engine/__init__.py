"""The life of a chunk, from the source's rows to a proven place in the output."""

from fanout.engine.batching import Batch, Batcher
from fanout.engine.control import RunControl
from fanout.engine.encoding import encode, fitted
from fanout.engine.feed import Feed, as_rows, feed_of, room_for
from fanout.engine.halt import Stop
from fanout.engine.link import Link
from fanout.engine.merge import Ledger, Merger
from fanout.engine.outbox import Outbox
from fanout.engine.packing import Packing, Scale
from fanout.engine.run import Run
from fanout.engine.watch import Until
from fanout.engine.work import Work

__all__ = [
    "Batch", "Batcher", "Feed", "Ledger", "Link", "Merger", "Outbox", "Packing", "Run", "RunControl", "Scale", "Stop",
    "Until", "Work", "as_rows", "encode", "feed_of", "fitted", "room_for",
]  # fmt: skip
