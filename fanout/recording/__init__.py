"""Recordings: the exchanges of a run in one file, and the run again without its endpoint."""

from fanout.recording.recorder import Recorder
from fanout.recording.replayer import Replayer

__all__ = ["Recorder", "Replayer"]
