"""Runs of one job in many processes, on one machine or on a cluster.

The driver divides the rows among workers. A worker reads its rows from the job's input and runs them into a part of its
own, beside the output; the driver merges the parts into the output and its journal. Rows, orders and progress pass
through the shared disk, so that Ray, Dask and plain processes differ in a few lines: they only carry the description of
a shard to a worker.
"""

from fanout.cluster.driver import Cluster
from fanout.cluster.engines import open_engine

__all__ = ["Cluster", "open_engine"]
