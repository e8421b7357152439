"""The memory that a JSON document takes as objects, estimated before it is parsed: up to 75 times its bytes."""

from __future__ import annotations

LIGHT = 512 * 2**10
"""Bytes up to which a document is parsed without a look at what is in it."""

_SIZES = ((b"{", 232), (b"[", 88), (b",", 34), (b'"', 25))
"""Bytes of memory that a parsed object, list, number and text take beside their content (a text has two quotes)."""

_MOST = 128 * 2**20
"""Bytes that the objects of one document may take. To make more takes so long that the event loop would be late."""

_SPARE = 32 * 2**20
_COUNTED_AT_ONCE = 2**20


def too_heavy(text: bytes) -> str:
    """Why ``text`` may not be parsed whole; empty if it may.

    Values are counted by the characters between them. Those within texts are counted too.
    """
    if len(text) <= LIGHT:
        return ""
    most = min(15 * len(text) + _SPARE, _MOST)
    size = 0
    for start in range(0, len(text), _COUNTED_AT_ONCE):
        size += sum(each * text.count(sign, start, start + _COUNTED_AT_ONCE) for sign, each in _SIZES)
        if size > most:
            return (
                f"has so many values in its {len(text):,} bytes that they would take more than {most // 2**20} MiB of "
                "memory: ask for fewer rows at once (chunks.rows)"
            )
    return ""
