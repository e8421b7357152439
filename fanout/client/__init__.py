"""The client: sends rows through `map`, `stream`, `run` and `predict`, on one session with its endpoints."""

from fanout.client.caching import require_repeatable
from fanout.client.client import Client
from fanout.client.endpoints import offline_url, request_url
from fanout.client.file_run import Sink, finished
from fanout.client.identity import codec_name, content_of
from fanout.client.inspect import Preview, Survey
from fanout.client.options import ClientOptions
from fanout.client.resuming import open_journal, reopen_failures
from fanout.client.stream import Stream

__all__ = [
    "Client", "ClientOptions", "Preview", "Sink", "Stream", "Survey", "codec_name", "content_of", "finished",
    "offline_url", "open_journal", "reopen_failures", "request_url",
    "require_repeatable",
]  # fmt: skip
