"""What a server says in an error, in its own words and without what it was sent: many repeat the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.types import Reply

_LONGEST = 300
_LOOKED_AT = 10_000
_LARGEST = 2**18
"""Bytes of a body that may be an error's: a larger answer is not parsed once more to find a message in it."""
_TRACEBACK = "Traceback (most recent call last):"
_MESSAGE_KEYS = ("message", "error", "detail", "title", "msg", "OriginalMessage")


def message_of(reply: Reply, error: Mapping[str, Any]) -> str:
    """The messages of an error, or its whole text where it is no JSON; at most some thousand characters."""
    text = "; ".join(_messages(error))
    return (text or reply.body[:_LOOKED_AT].decode("utf-8", "replace"))[:_LOOKED_AT]


def said(reply: Reply, body: Mapping[str, Any] | None = None) -> str:
    """The error's message on one line; the first part of the body where no message can be told from the rest.

    ``body`` is what `error_body` makes of it, where that is known already.
    """
    text = "; ".join(_messages(error_body(reply.body) if body is None else body))
    if _TRACEBACK.encode() in reply.body[:_LOOKED_AT]:
        text = _without_frames(text or reply.body[:_LARGEST].decode("utf-8", "replace"))
    text = " ".join((text or reply.excerpt(_LONGEST)).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def error_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object of an error answer, unwrapped from ``{"error": {...}}`` and from a list; empty if it is none."""
    if len(body) > _LARGEST or body.lstrip()[:1] not in (b"{", b"["):
        return {}
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return _unwrapped(parsed)


def _unwrapped(document: object) -> Mapping[str, Any]:
    if isinstance(document, list):  # Google's streams, and Vertex
        document = document[0] if document else None
    if not isinstance(document, dict):
        return {}
    for name in ("error", "detail"):  # LiteLLM puts its error into FastAPI's detail
        if isinstance(inner := document.get(name), dict):
            return inner
    return document


def _messages(body: Mapping[str, Any]) -> Iterator[str]:
    for key in _MESSAGE_KEYS:
        value = body.get(key)
        if isinstance(value, str) and value.strip():
            yield value
            return
        if isinstance(value, list):  # FastAPI: [{"loc": ["body", "input"], "msg": "...", "input": all that was sent}]
            yield from (
                _located(item) for item in value[:3] if isinstance(item, dict) and isinstance(item.get("msg"), str)
            )
            return


def _without_frames(text: str) -> str:
    """What is left of Python's tracebacks without their frames, which are indented: the errors, and what is around."""
    lines = text.replace(_TRACEBACK, "").splitlines()
    return "\n".join(line for line in lines if not line.startswith(" "))


def _located(item: Mapping[str, Any]) -> str:
    parts = item.get("loc")
    place = ".".join(str(part) for part in parts if isinstance(part, str | int)) if isinstance(parts, list) else ""
    return f"{place}: {item['msg']}" if place else str(item["msg"])
