"""What users need to test their own code, and we ours, without a network. Needs the extra ``fanout-ml[test]``."""

from fanout.testing.clock import VirtualClock
from fanout.testing.faults import FAULTS, FaultServer
from fanout.testing.mock import MockEndpoint, Scripted

__all__ = ["FAULTS", "FaultServer", "MockEndpoint", "Scripted", "VirtualClock"]
