"""Tell from the options of a codec whether a model draws its answers at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TEMPERATURE = "temperature"
# A request with one of these fields goes to a language model, whose temperature is above 0 unless it is given.
_OF_CHATS = frozenset({
    "messages", "contents", "instructions",
    "max_tokens", "max_output_tokens", "max_completion_tokens", "maxOutputTokens", "num_predict",
})  # fmt: skip


def sampled_by(options: Any) -> str:
    """Return the reason why answers to requests with these constants are drawn at random; empty if they are not."""
    fields = dict(_fields(options))
    if _TEMPERATURE not in fields:
        return "a chat without a temperature has one above 0" if _OF_CHATS & fields.keys() else ""
    temperature = fields[_TEMPERATURE]
    # A number of NumPy compares as Python's do; a placeholder is a text, whatever its rows hold.
    return "" if not isinstance(temperature, str) and temperature == 0 else f"temperature is {temperature!r}"


def _fields(value: Any) -> list[tuple[str, Any]]:
    """Return the fields of all objects in ``value``."""
    if isinstance(value, Mapping):
        return [pair for name, item in value.items() for pair in ((str(name), item), *_fields(item))]
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [pair for item in value for pair in _fields(item)]
    return []
