"""The replayer: a transport that answers from a cassette, strictly."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from multidict import CIMultiDict

from fanout import errors
from fanout._escape import shortened
from fanout.cassettes.cassette import CassetteReader, digest, key_of, path_of
from fanout.clock import VirtualClock
from fanout.errors import ReplayError, TransportError
from fanout.options import checks_options
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from fanout.cassettes.cassette import Interaction
    from fanout.transport import Request

# Bytes from either end of two bodies that are compared to find the most similar request.
_COMPARED = 2**16

# Differences that a message shows.
_SHOWN = 3

_EXCERPT = 20
_LONGEST = 60


@checks_options
class Replayer:
    """Answers in the endpoint's place from a cassette: ``Client(..., transport=replayer)``. Opens no connection.

    A request is looked up by its method, its path with the names in its query, and its body; neither host nor header
    fields matter, nor the order in which requests come. Where one was recorded several times, its responses come in
    their order, each once. Failures are raised again.

    Args:
        path: a file that a `Recorder` has written.
        latencies: let responses take as long as they did. If not given, they do on a `VirtualClock`, where it costs
            nothing, and come at once on any other loop.

    Raises:
        InputError: the file cannot be read, is no cassette, or is damaged.
    """

    offline = True
    """No credentials are obtained for requests to it."""

    def __init__(self, path: str | PathLike[str], *, latencies: bool | None = None) -> None:
        self.path = Path(path)
        self._cassette = CassetteReader(self.path)
        self._latencies = latencies
        self._left: defaultdict[str, deque[Interaction]] = defaultdict(deque)
        for interaction in self._cassette.interactions:
            self._left[interaction.key].append(interaction)
        self.remaining = len(self._cassette.interactions)
        """Recorded exchanges that no request has asked for yet."""

    async def send(self, request: Request) -> Response:
        """The response that was recorded for ``request``.

        Raises `ReplayError` if there is none, or none is left; and the `TransportError` that was recorded.
        """
        path = path_of(request.url)
        key = key_of(request.method, path, digest(request.body))
        # `get`, because a defaultdict would keep a key for each unknown request.
        interactions = self._left.get(key)
        if not interactions:
            raise ReplayError(self._refusal(request, path, key))
        interaction = interactions.popleft()
        self.remaining -= 1
        # At least one turn of the loop, as with every real transport: other tasks get their turn.
        waits = isinstance(asyncio.get_running_loop(), VirtualClock) if self._latencies is None else self._latencies
        await asyncio.sleep(interaction.seconds if waits else 0)
        if interaction.status is None:
            raise _error(interaction)
        return Response(
            status=interaction.status,
            headers=CIMultiDict(interaction.headers),
            body=self._cassette.body(interaction.got),
            url=request.url,
        )

    def __repr__(self) -> str:
        return f"<Replayer {self.path} {self.remaining} exchanges left>"

    def _refusal(self, request: Request, path: str, key: str) -> str:
        shown_path = request.redact(path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        asked, body = f"{request.method} {shown_path}", request.redact(request.joined())
        if times := sum(one.key == key for one in self._cassette.interactions):
            often = "once" if times == 1 else f"{times} times"
            return f"{asked} was recorded {often} in {self.path}, and is asked once more: {body[:80]!r}"
        return f"{asked} was not recorded in {self.path}; {nearest(request.method, shown_path, body, self._cassette)}"


def _error(interaction: Interaction) -> TransportError:
    # A cassette of a later version may name errors that this one does not have.
    kind = getattr(errors, interaction.error, TransportError)
    error: TransportError = (kind if issubclass(kind, TransportError) else TransportError)(interaction.text)
    return error


def nearest(method: str, path: str, body: bytes, cassette: CassetteReader) -> str:
    """The recorded request that is most like this one, and the differences, in words."""
    if not cassette.interactions:
        return "the cassette is empty"
    # A request recorded many times is compared once: bodies are read from the disk.
    once = {one.key: one for one in cassette.interactions}.values()

    def likeness(one: Interaction) -> tuple[bool, bool, float]:
        return one.method == method, one.path == path, _alike(body, cassette.body(one.sent))

    best = max(once, key=likeness)
    place, differences = (
        cassette.interactions.index(best) + 1,
        "; ".join(_differences(method, path, body, best, cassette)),
    )
    return f"the nearest is exchange {place} of {len(cassette.interactions)}, {differences}"


def _alike(one: bytes, other: bytes) -> float:
    """The share of bytes, 0 to 1, in which two bodies agree, counted from either end."""
    if one == other:
        return 1.0
    a, b = np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8)
    n = min(len(a), len(b), _COMPARED)
    if not n:
        return 0.0
    # From both ends, because an inserted row shifts all bytes behind it.
    same = max(np.count_nonzero(a[:n] == b[:n]), np.count_nonzero(a[-n:] == b[-n:]))
    return float(same) / min(max(len(a), len(b)), _COMPARED)


def _differences(method: str, path: str, body: bytes, best: Interaction, cassette: CassetteReader) -> Iterator[str]:
    if (method, path) != (best.method, best.path):
        yield f"which is {best.method} {best.path}"
    recorded = cassette.body(best.sent)
    if body == recorded:
        yield "with the same body"
        return
    try:
        differences = list(_of_json(orjson.loads(recorded), orjson.loads(body), "body"))
    except orjson.JSONDecodeError:
        differences = [_of_bytes(recorded, body)]
    # Two texts may be one document: numbers or spaces written in another way.
    yield from differences[:_SHOWN] or [_of_bytes(recorded, body)]
    if len(differences) > _SHOWN:
        yield f"and {len(differences) - _SHOWN} differences more"


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
        shown, known = (shortened(repr(value), _LONGEST) for value in (asked, recorded))
        yield f"{place} is {shown} where {known} was recorded"


def _of_bytes(recorded: bytes, asked: bytes) -> str:
    n = min(len(recorded), len(asked))
    unlike = np.flatnonzero(np.frombuffer(recorded, np.uint8, n) != np.frombuffer(asked, np.uint8, n))
    at = int(unlike[0]) if unlike.size else n
    lengths = f" ({len(asked):,} bytes where {len(recorded):,} were recorded)" if len(asked) != len(recorded) else ""
    here = slice(at, at + _EXCERPT)
    return f"bodies differ from byte {at:,} on{lengths}: {asked[here]!r} where {recorded[here]!r} was recorded"
