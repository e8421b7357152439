"""The client: sends rows through `map`, `stream`, `run` and `predict`, on one session with its endpoints."""

from fanout.client.client import Client
from fanout.client.content import content_of
from fanout.client.endpoints import offline_url, request_url
from fanout.client.inspect import Preview, Survey
from fanout.client.options import ClientOptions
from fanout.client.resuming import carry_over, complete, reopen_failures
from fanout.client.sinking import Sink
from fanout.client.stream import Stream

__all__ = [
    "Client", "ClientOptions", "Preview", "Sink", "Stream", "Survey", "carry_over", "complete", "content_of",
    "offline_url", "reopen_failures", "request_url",
]  # fmt: skip
