"""The messages of a chat, in both directions.

Those that are sent are the rows themselves, or templates of a prompt or a conversation over the columns of a row. Of an
answer it is the text in its choice, or the reason for which the row gets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import shortened
from fanout.codecs import _options
from fanout.codecs._placeholders import Document, Text, as_text
from fanout.codecs._request import each_row, single_rows
from fanout.codecs._rows import to_json, value_to_json
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError, InputError
from fanout.rows import count_rows

if TYPE_CHECKING:
    from fanout.types import Rows

_EMPTY = b'""'

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


class Messages:
    """Writes the ``messages`` of each row. The arguments are options of `OpenAIChat`.

    Raises `ConfigError` for a template that cannot be used.
    """

    def __init__(self, prompt: object, system: object, messages: object) -> None:
        before = [] if system is None else [_message("system", _options.text("system", system), "system")]
        self._template: list[_Filled] | None = None
        if prompt is not None and messages is not None:
            raise ConfigError("messages take the place of a prompt: leave one of them out", key="messages")
        if prompt is not None:
            self._template = [*before, _message("user", _content(prompt), "prompt")]
        elif messages is not None:
            self._template = [*before, *_conversation(messages)]
        texts = [
            text for part in (before if self._template is None else self._template) for text in part.document.texts
        ]
        names = {one.name: one.shown for text in texts for one in text.placeholders}
        if many := [one.shown for text in texts for one in text.placeholders if one.many]:
            raise ConfigError(f"{texts[0].key} has {many[0]}, but a chat request carries one row", key=texts[0].key)
        if names and self._template is None:
            shown = next(iter(names.values()))
            raise ConfigError(
                f"system has {shown}, a value of the row: write the prompt as a template too, such as prompt = "
                '"{{text}}"',
                key="system",
            )
        if self._template is not None and not names:
            key = "messages" if prompt is None else "prompt"
            raise ConfigError(f"{key} has no placeholder such as {{{{text}}}}: all rows would be the same", key=key)
        # Without a template the messages of a row are written together, which takes half the time.
        self._system: list[Any] = [orjson.loads(part.of(None)) for part in before] if self._template is None else []
        self.columns: frozenset[str] | None = None if self._template is None or "" in names else frozenset(names)
        """The columns that the templates name; None where a row is the prompt or the messages."""

    def of(self, rows: Rows) -> bytes:
        """The messages of the only row as a JSON list.

        Raises:
            EncodeError: rows without a value for a placeholder, or that are no prompt, no messages or no JSON.
            InputError: the rows have not the columns of the templates; columns or numbers without a template; or more
                than one row.
        """
        # Every row is written, so that every row at fault is named before the number of rows is checked.
        if self._template is not None:
            written = b",".join(each_row(single_rows(rows, self.columns), self._filled))
        else:
            written = to_json(each_row(_without_columns(rows), lambda row: [*self._system, *_messages(row)]))[1:-1]
        if (n_rows := count_rows(rows)) != 1:
            raise InputError(f"a chat request carries one row, not {n_rows}")
        return written

    def _filled(self, row: Any) -> bytes:
        assert self._template is not None
        return b"[%b]" % b",".join([part.of(row) for part in self._template])


class _Filled:
    """One message with placeholders.

    Args:
        around: JSON before and behind the document.
        may_be_empty: an empty text is a valid value of the document.
    """

    def __init__(self, document: Document, around: tuple[bytes, bytes] = (b"", b""), *, may_be_empty: bool) -> None:
        self.document = document
        self._around = around
        self._may_be_empty = may_be_empty

    def of(self, row: Any) -> bytes:
        """The message for ``row`` as JSON. Raises `Unfit`."""
        before, after = self._around
        content = b"".join(self.document.filled(lambda text: _value(text, row)))
        if content == _EMPTY and not self._may_be_empty:
            raise Unfit("makes an empty prompt")
        return b"%b%b%b" % (before, content, after)


def _message(role: str, content: Any, key: str) -> _Filled:
    around = (b'{"role":"%b","content":' % role.encode(), b"}")
    return _Filled(Document(content, key), around, may_be_empty=False)


def _content(prompt: object) -> Any:
    is_parts = isinstance(prompt, list | tuple) and all(isinstance(part, Mapping) for part in prompt)
    if not prompt or not (isinstance(prompt, str) or is_parts):
        raise ConfigError(f"prompt must be a text or a list of parts of a message, not {prompt!r}", key="prompt")
    return prompt


def _conversation(messages: object) -> list[_Filled]:
    if not isinstance(messages, list | tuple) or not messages:
        raise ConfigError(f"messages must be a list of messages, not {messages!r}", key="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ConfigError(f"messages[{i}] must be a table with a role and content, not {message!r}", key="messages")
    return [_Filled(Document(one, f"messages[{i}]"), may_be_empty=True) for i, one in enumerate(messages)]


def _value(text: Text, row: Any) -> bytes:
    """The value of a text for ``row``: lists and objects as they are, for they may be the parts of a content."""
    if text.alone is not None:
        value = text.alone.value(row)
        if isinstance(value, list | tuple | Mapping):
            return value_to_json(value)
        return value_to_json(as_text(value, text.alone))
    return value_to_json(text.text(row))


def _without_columns(rows: Rows) -> Sequence[Any]:
    if isinstance(rows, Mapping):
        raise InputError(
            f"a chat is made of texts or messages: give one column, or a template of the columns {sorted(rows)}, such "
            'as prompt = "{{text}}"'
        )
    if not isinstance(rows, np.ndarray):
        return rows
    if rows.ndim != 1 or rows.dtype.kind not in "USTO":
        raise InputError(f"a chat is made of texts, not of {rows.dtype} rows of shape {list(rows.shape[1:])}")
    texts: list[Any] = rows.tolist()
    return texts


def _messages(row: object) -> list[Any]:
    """A row as a list of messages. Raises `Unfit` where it is none."""
    if isinstance(row, bytes):
        try:
            row = row.decode()
        except UnicodeDecodeError:
            raise Unfit("is a prompt that is not UTF-8") from None
    if isinstance(row, str):
        if not row:
            raise Unfit("is an empty prompt")
        return [{"role": "user", "content": row}]
    if row is None or (isinstance(row, float) and row != row):  # pandas has NaN for a missing text
        raise Unfit("is missing: it has no prompt")
    if not isinstance(row, list | tuple | np.ndarray):
        kind = "one message, which belongs into a list" if isinstance(row, Mapping) else type(row).__name__
        raise Unfit(f"must be a text or a list of messages, not {kind}")
    if not len(row):
        raise Unfit("is a conversation without messages")
    for message in row:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise Unfit("has a message that is not a dict with a role and content, for instance role 'user'")
    return list(row)


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
    kinds = _kinds(content)
    texts = [part.get("text") for part, kind in zip(_parts(content), kinds, strict=True) if kind in _TEXT_PARTS]
    # A part of an unknown type may be a part of the answer, so that the rest is not the whole text.
    whole = {*kinds} <= _TEXT_PARTS | _THINKING_PARTS and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if whole and texts else None


def _parts(content: object) -> list[Any]:
    return content if isinstance(content, list) else []


def _kinds(content: object) -> list[Any]:
    return [part.get("type") if isinstance(part, dict) else None for part in _parts(content)]


def _refusal(message: Any) -> str | None:
    """The refusal of the model, a field of the message or parts of its content; None if there is none."""
    refusal = message.get("refusal")
    texts = [refusal, *(part.get("refusal") for part in _parts(message.get("content")) if isinstance(part, dict))]
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
        why, kinds = _refusal(message) or (reason if is_blocked(reason) else None), _kinds(content)
        if why is None and (content is None or (kinds and {*kinds} <= _THINKING_PARTS)):
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
    metadata = error.get("metadata")
    # OpenRouter's error for an input that a moderator has flagged.
    flagged = isinstance(metadata, dict) and ("flagged_input" in metadata or metadata.get("reasons"))
    return message or ", ".join(codes) if is_fatal or flagged else None
