"""Cassettes: the exchanges of a run recorded in one file, to be replayed without the endpoint."""

from fanout.cassettes.cassette import CassetteReader, Interaction
from fanout.cassettes.recorder import ObservedTransport, Recorder, is_kept_header
from fanout.cassettes.replayer import Replayer

__all__ = ["CassetteReader", "Interaction", "ObservedTransport", "Recorder", "Replayer", "is_kept_header"]
