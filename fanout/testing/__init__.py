"""Tools to test code that uses fanout, without a network. Needs the extra ``fanout-ml[test]``."""

from fanout.cassettes import Recorder, Replayer
from fanout.clock import VirtualClock, in_virtual_time
from fanout.faults.endpoint import Scripted
from fanout.faults.names import FAULTS
from fanout.faults.server import Background, FaultServer, FaultServerError
from fanout.mock import MockTransport
from fanout.testing.assertions import (
    NetworkUseError,
    NoNetwork,
    assert_attempts,
    assert_headers,
    assert_in_flight,
    assert_rate,
    attempts_per_chunk,
    most_in_window,
)
from fanout.testing.codecs import CodecTests
from fanout.testing.mock import MockedResponse, MockEndpoint

__all__ = [
    "FAULTS",
    "Background",
    "CodecTests",
    "FaultServer",
    "FaultServerError",
    "MockEndpoint",
    "MockTransport",
    "MockedResponse",
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
