"""What a request that was not recorded has in common with one that was, and what not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout._escape import shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.recording.format import Interaction, Pages

_LOOKED_AT = 2**16
_SHOWN = 3
_EXCERPT = 20
_LONGEST = 60


def nearest(method: str, path: str, body: bytes, pages: Pages) -> str:
    """The recorded request that is most like this one, and what differs, in words."""
    if not pages.interactions:
        return "the recording is empty"
    once = {one.key: one for one in pages.interactions}.values()

    def likeness(one: Interaction) -> tuple[bool, bool, float]:
        return one.method == method, one.path == path, _alike(body, pages.body(one.sent))

    best = max(once, key=likeness)
    place, differences = pages.interactions.index(best) + 1, "; ".join(_differences(method, path, body, best, pages))
    return f"the nearest is exchange {place} of {len(pages.interactions)}, {differences}"


def _alike(one: bytes, other: bytes) -> float:
    """0 to 1: how much of two bodies is the same, counted from either end."""
    if one == other:
        return 1.0
    a, b = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    n = min(len(a), len(b), _LOOKED_AT)
    if not n:
        return 0.0
    same = max(np.count_nonzero(a[:n] == b[:n]), np.count_nonzero(a[-n:] == b[-n:]))
    return float(same) / min(max(len(a), len(b)), _LOOKED_AT)


def _differences(method: str, path: str, body: bytes, best: Interaction, pages: Pages) -> Iterator[str]:
    if (method, path) != (best.method, best.path):
        yield f"which is {best.method} {best.path}"
    recorded = pages.body(best.sent)
    if body == recorded:
        yield "with the same body"
        return
    try:
        found = list(_of_json(orjson.loads(recorded), orjson.loads(body), "body"))
    except orjson.JSONDecodeError:
        found = [_of_bytes(recorded, body)]
    # Two texts may be one document: numbers or spaces written in another way.
    yield from found[:_SHOWN] or [_of_bytes(recorded, body)]
    if len(found) > _SHOWN:
        yield f"and {len(found) - _SHOWN} differences more"


def _of_json(recorded: Any, asked: Any, place: str) -> Iterator[str]:
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*recorded, *asked]):
            yield from _of_json(recorded.get(name), asked.get(name), f"{place}.{name}")
    elif isinstance(recorded, list) and isinstance(asked, list):
        if len(recorded) != len(asked):
            yield f"{place} has {len(asked)} items where {len(recorded)} were recorded"
        for i, (one, other) in enumerate(zip(recorded, asked, strict=False)):
            yield from _of_json(one, other, f"{place}[{i}]")
    elif recorded != asked:
        yield f"{place} is {_short(asked)} where {_short(recorded)} was recorded"


def _of_bytes(recorded: bytes, asked: bytes) -> str:
    n = min(len(recorded), len(asked))
    unlike = np.flatnonzero(np.frombuffer(recorded, np.uint8, n) != np.frombuffer(asked, np.uint8, n))
    at = int(unlike[0]) if unlike.size else n
    lengths = f" ({len(asked):,} bytes where {len(recorded):,} were recorded)" if len(asked) != len(recorded) else ""
    here = slice(at, at + _EXCERPT)
    return f"bodies differ from byte {at:,} on{lengths}: {asked[here]!r} where {recorded[here]!r} was recorded"


def _short(value: Any) -> str:
    text = repr(value)
    return shortened(text, _LONGEST)
