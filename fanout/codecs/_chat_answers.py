"""Answers of OpenAI's chat API: the text in a choice, and the reasons for which a row gets none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout._escape import shortened
from fanout.codecs._values import Unfit

if TYPE_CHECKING:
    from collections.abc import Mapping

# Finish reasons of an answer that is withheld for its content, in lower case. Checked in November 2026.
_BLOCKED_REASONS = frozenset({
    "content_filter",  # OpenAI, Azure, and most that speak their API
    "refusal",  # Anthropic
    "safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "language",  # Gemini
    "guardrail_intervened", "content_filtered",  # Bedrock
    "sensitive",  # Zhipu
})  # fmt: skip
# Error codes for a row that will never be answered, in lower case.
_FATAL_CODES = frozenset({
    "context_length_exceeded",  # OpenAI, vLLM
    "exceed_context_size_error",  # llama.cpp
    "content_filter", "responsibleaipolicyviolation",  # Azure
    "content_policy_violation", "moderation_blocked",  # OpenAI, OpenRouter
    "data_inspection_failed", "datainspectionfailed",  # Alibaba
})  # fmt: skip
_FATAL_WORDS = "maximum context length"
_FATAL_STATUS = (200, 400, 403, 413, 422)
_LONGEST = 300
_TEXT_PARTS = frozenset({"text", "output_text"})
# Mistral, Anthropic and Gemini behind compatible APIs, Bedrock.
_THINKING_PARTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "reasoning_content"})
# Reasons for an empty message, beside the blocked ones. A message that ends with "stop" should have a text.
_NO_ACCIDENT = ("tool_calls", "length")


def choice_of(document: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """The only choice of an answer, and its message. Raises `Unfit`."""
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Unfit("has no list 'choices' with an answer in it")
    if len(choices) > 1:
        raise Unfit(f"has {len(choices)} choices where one was asked for", error_kind="rows")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise Unfit("has a choice without a text in its message")
    return choices[0], message


def require_whole(document: object, choice: Mapping[str, Any], text: str) -> None:
    """Raise `Unfit` for a text that is withheld, in part or as a whole, or that broke off."""
    reason = choice.get("finish_reason")
    if is_blocked(reason) or (not text and _refusal(choice["message"])):
        raise Unfit("has no text, or a part of one, for it is blocked")
    if reason == "error" or error_of(document):  # OpenRouter and vLLM report a text that broke off like this
        raise Unfit("has a text that broke off with an error")


def is_blocked(reason: object) -> bool:
    """True if a finish reason says that the text, or a part of it, is withheld for its content."""
    return isinstance(reason, str) and reason.partition(":")[0].lower() in _BLOCKED_REASONS


def text_of(content: object) -> str | None:
    """A message's content, if it is a text or a list of text parts, without the model's thinking; else None."""
    if isinstance(content, str):
        return content
    kinds = [part.get("type") if isinstance(part, dict) else None for part in _parts(content)]
    texts = [part.get("text") for part, kind in zip(_parts(content), kinds, strict=True) if kind in _TEXT_PARTS]
    # A part of an unknown type may be a part of the answer, so that the rest is not the whole text.
    whole = {*kinds} <= _TEXT_PARTS | _THINKING_PARTS and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if whole and texts else None


def _parts(content: object) -> list[Any]:
    return content if isinstance(content, list) else []


def _is_thinking_alone(content: object) -> bool:
    parts = _parts(content)
    return bool(parts) and all(isinstance(part, dict) and part.get("type") in _THINKING_PARTS for part in parts)


def _refusal(message: Any) -> str | None:
    """The refusal of the model, a field of the message or parts of its content; None if there is none."""
    refusal = message.get("refusal")
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    texts = [refusal, *(part.get("refusal") for part in parts if isinstance(part, dict))]
    return shortened(" ".join(text for text in texts if isinstance(text, str) and text), _LONGEST) or None


def no_text(document: Any) -> str | None:
    """Why the server sent no text, or a part of one, on purpose; None if it seems an accident."""
    try:
        (choice,) = document["choices"]
        message = choice["message"]
        content, reason = message.get("content"), choice.get("finish_reason")
        # An error has a meaning of its own, which the general policy knows.
        if error_of(document):
            return None
        if text_of(content):
            return f"the model's text is cut off: {reason}" if is_blocked(reason) else None
        why = _refusal(message) or (reason if is_blocked(reason) else None)
        if why is None and (content is None or _is_thinking_alone(content)):
            why = "tool_calls" if message.get("tool_calls") else reason if reason in _NO_ACCIDENT else None
    except (TypeError, KeyError, ValueError, AttributeError):
        return None
    return f"the model gives no text: {shortened(str(why), _LONGEST)}" if why else None


def error_of(document: Any) -> Any:
    """The error of an answer, or of its choice, which has the provider's error at OpenRouter."""
    if not isinstance(document, dict):
        return None
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return document.get("error") or (choice.get("error") if isinstance(choice, dict) else None)


def fatal(document: Any, status: int) -> str | None:
    """The message of an error that no other attempt with this row can avoid; None for any other."""
    if status not in _FATAL_STATUS:
        return None
    # Some servers send the fields of the error without a wrapper.
    error = error_of(document) or document
    if not isinstance(error, dict):
        return None
    message = shortened(" ".join(str(error.get("message", "")).split()), _LONGEST)
    codes = [str(error.get(field)) for field in ("code", "type")]
    is_fatal = _FATAL_CODES.intersection(code.lower() for code in codes) or _FATAL_WORDS in message
    return message or ", ".join(codes) if is_fatal or _flagged(error) else None


def _flagged(error: Mapping[str, Any]) -> bool:
    """True for OpenRouter's error for an input that a moderator has flagged."""
    metadata = error.get("metadata")
    return isinstance(metadata, dict) and ("flagged_input" in metadata or bool(metadata.get("reasons")))
