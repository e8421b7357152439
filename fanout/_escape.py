r"""Escapes for control characters in every text that is shown, logged or written to a report.

Servers, input files and file names can hold characters that move the cursor, retitle a terminal, reverse the direction
of a line or start a new one. They are replaced by Python's escapes: ``\x1b``, ``\u202e``.
"""

from __future__ import annotations

import re
from typing import Any

from fanout._lazy import pattern

# C0, DEL and C1; bidirectional and invisible formatting; line separators; surrogates; tags.
_FORMATTING = "\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_BEYOND_ASCII = f"\x7f-\x9f{_FORMATTING}\ud800-\udfff\U000e0000-\U000e007f"
_UNSAFE = pattern(f"[\\x00-\\x1f{_BEYOND_ASCII}]")
_UNSAFE_IN_LINES = pattern(f"[\\x00-\\x09\\x0b-\\x1f{_BEYOND_ASCII}]")
_UNSAFE_IN_TEXT = pattern(f"[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f{_BEYOND_ASCII}]")
_UNSAFE_BYTES = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})
_UNSAFE_IN_JSON = pattern(f"[{_BEYOND_ASCII}]")


def escaped(text: str) -> str:
    """Escape all control characters of ``text``, line breaks included."""
    return _UNSAFE.sub(_visible, text)


def escaped_lines(text: str) -> str:
    """Escape all control characters of ``text`` except line breaks."""
    return _UNSAFE_IN_LINES.sub(_visible, text)


def shortened(text: str, longest: int) -> str:
    """Cut ``text`` to ``longest`` characters. An ellipsis marks the cut, where the redactor looks for secrets."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def is_unicode(text: str) -> bool:
    """False for a text with half of a surrogate pair, which UTF-8 cannot express."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def print_exception() -> None:
    """Print the traceback of the current exception on stderr, with control characters escaped."""
    import sys
    from traceback import format_exc

    sys.stderr.write(escaped_lines(format_exc()))


def safe_json(value: Any, option: int | None = None) -> bytes:
    r"""Return ``value`` as JSON with each control character as ``\uXXXX``; parsing it gives ``value`` again.

    orjson escapes only those below U+0020. A lone surrogate, which JSON cannot express, is escaped as in `escaped`.
    """
    import orjson  # most commands print no JSON, and need not wait for the import

    try:
        data = orjson.dumps(value, option=option)
    except orjson.JSONEncodeError:
        data = orjson.dumps(_without_surrogates(value), option=option)
    if data.isascii() and b"\x7f" not in data:
        return data
    return _UNSAFE_IN_JSON.sub(_in_json, data.decode()).encode()


def holds_control_characters(body: bytes) -> bool:
    """True for UTF-8 text with control characters other than tab and line break; binary data is no text."""
    if body.isascii():
        return len(body.translate(None, _UNSAFE_BYTES)) < len(body)
    try:
        return _UNSAFE_IN_TEXT.search(body.decode()) is not None
    except UnicodeDecodeError:
        return False


def _visible(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _in_json(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", _visible, value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(inner) for inner in value]
    return value
