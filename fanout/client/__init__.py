"""The face of the library: one client, and the ways to send rows through it."""

from fanout.client.client import Client
from fanout.client.content import content_of
from fanout.client.options import ClientOptions
from fanout.client.preview import Preview, Survey
from fanout.client.resuming import carry_over, complete, reopen_failures
from fanout.client.sinking import Sink
from fanout.client.stream import Stream
from fanout.client.target import replaced_target, target
from fanout.client.verdicts import pending_row, raise_if_failed

__all__ = [
    "Client", "ClientOptions", "Preview", "Sink", "Stream", "Survey", "carry_over", "complete", "content_of",
    "pending_row", "raise_if_failed", "reopen_failures", "replaced_target", "target",
]  # fmt: skip
