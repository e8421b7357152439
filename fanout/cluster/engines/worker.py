"""The process of a worker, which reads shards from its standard input: ``python -m fanout.cluster.engines.worker``."""

from __future__ import annotations

import os
import sys
from queue import SimpleQueue
from threading import Thread

from fanout.cluster.shard import run_shard
from fanout.engine import RunControl


def main() -> None:
    """Run shards until the input ends. The driver is gone then, and a shard under way stops, resumably."""
    # Only outcomes may be on the pipe: what a codec prints goes to stderr.
    outcomes = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    shards: SimpleQueue[tuple[str, RunControl]] = SimpleQueue()

    def read() -> None:
        control = RunControl()
        for line in sys.stdin:
            # The driver sends a shard only after the outcome of the one before.
            control = RunControl()
            shards.put((line, control))
        control.drain("the driver is gone", "interrupted")
        shards.put(("", control))

    Thread(target=read, daemon=True).start()
    while (taken := shards.get())[0]:
        outcomes.write(run_shard(*taken) + "\n")


if __name__ == "__main__":
    main()
