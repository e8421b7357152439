"""What users need to test their own code, and we ours, without a network. Needs the extra ``fanout-ml[test]``."""

from fanout.testing.clock import VirtualClock
from fanout.testing.mock import MockEndpoint, Scripted

__all__ = ["MockEndpoint", "Scripted", "VirtualClock"]
