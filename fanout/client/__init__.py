"""The client: sends rows through `map`, `stream`, `run` and `predict`, on one session with its endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.client.client import Client
    from fanout.client.endpoints import offline_url, request_url
    from fanout.client.file_run import Sink, finished
    from fanout.client.identity import codec_name, content_of
    from fanout.client.inspect import Preview, Survey
    from fanout.client.options import ClientOptions, require_repeatable
    from fanout.client.resuming import open_journal, reopen_failures
    from fanout.client.stream import Stream

__all__ = [
    "Client", "ClientOptions", "Preview", "Sink", "Stream", "Survey", "codec_name", "content_of", "finished",
    "offline_url", "open_journal", "reopen_failures", "request_url",
    "require_repeatable",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "fanout.client.client": ("Client",),
        "fanout.client.endpoints": ("offline_url", "request_url"),
        "fanout.client.file_run": ("Sink", "finished"),
        "fanout.client.identity": ("codec_name", "content_of"),
        "fanout.client.inspect": ("Preview", "Survey"),
        "fanout.client.options": ("ClientOptions", "require_repeatable"),
        "fanout.client.resuming": ("open_journal", "reopen_failures"),
        "fanout.client.stream": ("Stream",),
    },
)
