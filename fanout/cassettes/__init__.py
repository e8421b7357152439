"""Cassettes: the exchanges of a run recorded in one file, to be replayed without the endpoint."""

from fanout.cassettes.recorder import Recorder
from fanout.cassettes.replayer import Replayer

__all__ = ["Recorder", "Replayer"]
