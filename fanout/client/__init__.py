"""The face of the library: one client, and the ways to send rows through it."""

from fanout.client.client import Client
from fanout.client.preview import Preview
from fanout.client.sinking import Sink
from fanout.client.stream import Stream

__all__ = ["Client", "Preview", "Sink", "Stream"]
