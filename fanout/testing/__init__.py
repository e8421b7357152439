"""What users need to test their own code, and we ours, without a network. Needs the extra ``fanout-ml[test]``."""

from fanout.cassettes import Recorder, Replayer
from fanout.clock import VirtualClock
from fanout.testing.assertions import (
    assert_attempts,
    assert_headers,
    assert_in_flight,
    assert_rate,
    attempts_per_chunk,
    most_in_window,
)
from fanout.testing.background import Background
from fanout.testing.codecs import CodecTests
from fanout.testing.faults import FAULTS, FaultServer, FaultServerError
from fanout.testing.guard import NetworkUseError, NoNetwork
from fanout.testing.mock import MockEndpoint, Scripted
from fanout.testing.virtual import in_virtual_time

__all__ = [
    "FAULTS",
    "Background",
    "CodecTests",
    "FaultServer",
    "FaultServerError",
    "MockEndpoint",
    "NetworkUseError",
    "NoNetwork",
    "Recorder",
    "Replayer",
    "Scripted",
    "VirtualClock",
    "assert_attempts",
    "assert_headers",
    "assert_in_flight",
    "assert_rate",
    "attempts_per_chunk",
    "in_virtual_time",
    "most_in_window",
]
