"""What a server says in an error, in its own words and without what it was sent: many repeat the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import shortened
from fanout.exact_json import without_bom

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.types import Response

_LONGEST = 300
_LOOKED_AT = 10_000
_LARGEST = 2**18
"""Bytes of a body that may be an error's: a larger answer is not parsed once more to find a message in it."""
_TRACEBACK = "Traceback (most recent call last):"
_MESSAGE_KEYS = ("message", "error", "detail", "title", "msg", "OriginalMessage")
_WRAPPERS = ("error", "detail", "errors", "fault")
"""Fields that hold the error: LiteLLM puts its own into FastAPI's detail."""

_DEEPEST = 4
_ABOUT_ERRORS = frozenset({*_WRAPPERS, "details", "metadata", "warnings", "messages", "causes", "stack", "trace"})
"""Fields of an error that may hold lists."""


def message_of(response: Response, error: Mapping[str, Any]) -> str:
    """The messages of an error, or its whole text where it is no JSON; at most some thousand characters."""
    text = "; ".join(messages(error))
    return (text or response.body[:_LOOKED_AT].decode("utf-8", "replace"))[:_LOOKED_AT]


def said(response: Response, body: Mapping[str, Any] | None = None) -> str:
    """The error's message on one line; the first part of the body where no message can be told from the rest.

    ``body`` is what `error_body` makes of it, where that is known already.
    """
    text = "; ".join(messages(error_body(response.body) if body is None else body))
    if _TRACEBACK.encode() in response.body[:_LOOKED_AT]:
        text = _without_frames(text or response.body[:_LARGEST].decode("utf-8", "replace"))
    text = " ".join((text or response.excerpt(_LONGEST)).split())
    return shortened(text, _LONGEST)


def error_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object of an error answer, unwrapped from ``{"error": {...}}`` and from a list; empty if it is none."""
    document = _document(body)
    if isinstance(document, list):  # Google's streams, and Vertex
        document = document[0] if document else None
    return _unwrapped(document) if isinstance(document, dict) else {}


def hidden_error(body: bytes) -> Mapping[str, Any]:
    """The same for the body of an answer that says success; empty where that holds values of rows instead.

    A field ``status`` or ``code`` beside values, or in the items of a list, is an output of the model.
    """
    document = _document(body)
    if isinstance(document, list):
        document = document[0] if len(document) == 1 else None
        if not (isinstance(document, dict) and isinstance(document.get("error"), dict)):
            return {}
    if not isinstance(document, dict):
        return {}
    choices = document.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict) and "error" not in document:
        document = {"error": choices[0].get("error")}  # OpenRouter puts errors of its providers there
    if isinstance(error := document.get("error"), dict):
        return _unwrapped(error if _holds_values(document) else document)
    return {} if _holds_values(document) else _unwrapped(document)


def provider_error(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error of the provider behind OpenRouter, which quotes it as a text; empty where there is none."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str) or not raw.strip():
        return {}
    return error_body(raw.encode("utf-8", "replace")) or {"message": raw[:_LOOKED_AT]}


def _document(body: bytes) -> Any:
    """The JSON document that may be an error; None for anything else."""
    if len(body) > _LARGEST or (text := without_bom(body)).lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _unwrapped(document: dict[str, Any]) -> Mapping[str, Any]:
    """The innermost error, with the fields beside it that it does not have itself."""
    for _ in range(_DEEPEST):
        for name in _WRAPPERS:
            inner = document.get(name)
            if name == "errors" and isinstance(inner, list) and inner:
                inner = inner[0]
            if isinstance(inner, dict):
                has_words = not inner.keys().isdisjoint(_MESSAGE_KEYS)
                hidden = {name, *(_MESSAGE_KEYS if has_words else ())}
                document = {key: value for key, value in document.items() if key not in hidden} | inner
                break
        else:
            break
    return document


def _holds_values(document: dict[str, Any]) -> bool:
    """True if a JSON object has a list that is not part of an error."""
    for name, value in document.items():
        if name not in _ABOUT_ERRORS:
            parts = value.values() if isinstance(value, dict) else (value,)
            if any(isinstance(part, list) and part for part in parts):
                return True
    return False


def messages(body: Mapping[str, Any]) -> Iterator[str]:
    """The messages of an error, and those of the provider's error that it quotes."""
    for key in _MESSAGE_KEYS:
        value = body.get(key)
        if isinstance(value, str) and value.strip():
            yield value
            yield from messages(provider_error(body))
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
