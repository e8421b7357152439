"""The recorder: lets every exchange pass, and notes it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fanout._url import redact_url
from fanout.errors import AttemptTimeout, TransportError
from fanout.recording.format import Interaction, Writer, digest, key_of, path_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from os import PathLike
    from types import TracebackType

    from fanout.tape import Send, Sent
    from fanout.types import Response

_NEEDED = re.compile(
    "content-type|date|location|inference-header-content-length|retry-after|retry-after-ms|x-should-retry|.*ratelimit.*",
    re.IGNORECASE,
)
"""Header fields by which fanout decides; no other is kept."""


class Recorder:
    """Notes the exchanges of clients in a new file: ``Client(..., tape=recorder)``. A context manager.

    Request bodies and answers are in the file, whole. Headers of requests are not, of the answers' only those by which
    fanout decides; stars take the place of secrets. The file is its owner's alone (mode 0600), and is written as the
    answers come, from the event loop.

    Args:
        path: the file; it must not be there yet.
        headers: other header fields of answers to keep, because a codec of your own reads them.

    Raises:
        ConfigError: the file is there already, or cannot be written.
    """

    replaces = False

    def __init__(self, path: str | PathLike[str], *, headers: Collection[str] = ()) -> None:
        self.path = Path(path)
        self.recorded = 0
        """Exchanges in the file."""

        self._headers = {name.lower() for name in headers}
        self._file = Writer(self.path)
        self._began: float | None = None

    async def exchange(self, sent: Sent, send: Send, hide: Callable[[bytes], bytes]) -> Response:
        """Send, and note what comes of it. Raises what sending raises, and `ConfigError` for a full disk."""
        started = asyncio.get_running_loop().time()
        try:
            response = await send()
        except TransportError as error:
            self._note(sent, started, hide, error=error)
            raise
        except asyncio.CancelledError:  # by the attempt's deadline, or because the run was cut
            given_up = AttemptTimeout("no whole answer came before the attempt was given up")
            self._note(sent, started, hide, error=given_up)
            raise
        self._note(sent, started, hide, response=response)
        return response

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Recorder {self.path} {self.recorded} exchanges>"

    def _note(
        self,
        sent: Sent,
        started: float,
        hide: Callable[[bytes], bytes],
        *,
        response: Response | None = None,
        error: TransportError | None = None,
    ) -> None:
        if self._began is None:
            self._began = started
        asked = hide(sent.joined())
        answered = b"" if response is None else hide(response.body)
        # Its key is that of the request as it was, by which it will be asked for again.
        original, path = digest(sent.body), path_of(sent.url)
        interaction = Interaction(
            key=key_of(sent.method, path, original),
            method=sent.method,
            path=path_of(_hidden(sent.url, hide)),
            sent=digest([asked]),
            status=None if response is None else response.status,
            headers={} if response is None else self._kept(response, hide),
            got="" if response is None else digest([answered]),
            error="" if error is None else type(error).__name__,
            text="" if error is None else _hidden(str(error), hide),
            at=started - self._began,
            seconds=asyncio.get_running_loop().time() - started,
        )
        bodies = {interaction.sent: asked} | ({} if response is None else {interaction.got: answered})
        self._file.add(interaction, bodies)
        self.recorded += 1

    def _kept(self, response: Response, hide: Callable[[bytes], bytes]) -> dict[str, str]:
        kept = {}
        for name, value in response.headers.items():
            if _NEEDED.fullmatch(name) or name.lower() in self._headers:
                shown = redact_url(value) if name.lower() == "location" else value
                kept[str(name)] = _hidden(shown, hide)
        return kept


def _hidden(text: str, hide: Callable[[bytes], bytes]) -> str:
    return hide(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
