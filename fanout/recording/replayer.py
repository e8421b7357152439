"""The replayer: answers from a recording, strictly."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING

from multidict import CIMultiDict

from fanout import errors
from fanout.clock import VirtualClock
from fanout.errors import ReplayError, TransportError
from fanout.recording.format import Pages, digest, key_of, path_of
from fanout.recording.nearest import nearest
from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from fanout.recording.format import Interaction
    from fanout.tape import Send, Sent


class Replayer:
    """Answers in the endpoint's place, as a recording has it: ``Client(..., tape=replayer)``. Opens no connection.

    A request is known by its method, its path with the names in its query, and its body; neither host nor headers
    matter, nor the order in which requests come. Where one was recorded several times, the answers come in their
    order, each once. Failures are raised again.

    Args:
        path: what a `Recorder` has written.
        latencies: let answers take as long as they did. If not given, they do on a `VirtualClock`, where it costs
            nothing, and come at once on any other loop.

    Raises:
        InputError: the file cannot be read, is no recording, or is damaged.
    """

    replaces = True

    def __init__(self, path: str | PathLike[str], *, latencies: bool | None = None) -> None:
        self.path = Path(path)
        self._pages = Pages(self.path)
        self._latencies = latencies
        self._left: defaultdict[str, deque[Interaction]] = defaultdict(deque)
        for interaction in self._pages.interactions:
            self._left[interaction.key].append(interaction)
        self.remaining = len(self._pages.interactions)
        """Recorded exchanges that have not been asked for yet."""

    async def exchange(self, sent: Sent, send: Send, hide: Callable[[bytes], bytes]) -> Response:
        """What was recorded for this request. Raises `ReplayError` if nothing was, or no more; `TransportError`."""
        body, path = digest(sent.body), path_of(sent.url)
        answers = self._left.get(key_of(sent.method, path, body))
        if not answers:
            raise ReplayError(self._refusal(sent, path, body, hide))
        found = answers.popleft()
        self.remaining -= 1
        await asyncio.sleep(found.seconds if self._waits() else 0)
        if found.status is None:
            raise _error(found)
        return Response(
            status=found.status, headers=CIMultiDict(found.headers), body=self._pages.body(found.got), url=sent.url
        )

    def __repr__(self) -> str:
        return f"<Replayer {self.path} {self.remaining} exchanges left>"

    def _waits(self) -> bool:
        if self._latencies is None:
            return isinstance(asyncio.get_running_loop(), VirtualClock)
        return self._latencies

    def _refusal(self, sent: Sent, path: str, body: str, hide: Callable[[bytes], bytes]) -> str:
        shown_path = hide(path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
        asked = f"{sent.method} {shown_path}"
        if times := sum(one.key == key_of(sent.method, path, body) for one in self._pages.interactions):
            many = "once" if times == 1 else f"{times} times"
            return f"{asked} was recorded {many} in {self.path}, and is asked once more: {hide(sent.joined())[:80]!r}"
        found = nearest(sent.method, shown_path, hide(sent.joined()), self._pages)
        return f"{asked} was not recorded in {self.path}; {found}"


def _error(found: Interaction) -> TransportError:
    kind = getattr(errors, found.error, TransportError)
    made: TransportError = kind(found.text) if issubclass(kind, TransportError) else TransportError(found.text)
    return made
