"""URLs of files in rows: which of them are fetched, which are passed on to the model, and which are refused.

A cell of a table may come from an untrusted author. So a URL is fetched from a host that the user has named only, also
after a redirect, and it is passed on only if its host is a public one: a model server inside a network must not be led
to another server there.
"""

from __future__ import annotations

import re
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fanout._url import USUAL_PORTS, as_resolved, is_internal, redact_url
from fanout.deadline import Deadline, WatchedRedirects, WatchedRequest, watched_opener
from fanout.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from urllib.parse import SplitResult

# Schemes that some model servers read by themselves, with credentials of their own.
_STORES = ("gs", "s3")
_HOST = re.compile(r"((?:\*\.)?[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]+))?")
_PIECE = 64 * 2**10
_CONTROL = re.compile(r"[\x00-\x20\x7f\\]")


class Unfetched(Exception):  # noqa: N818 - the caller turns it into the reason of one row
    """A URL that is refused, or whose file could not be fetched. The text goes on after "the file"."""


class UrlFetcher:
    """Fetches URLs from named hosts. It blocks, and may be used from several threads.

    Args:
        hosts: ``images.example.com``, or ``*.example.com`` for all hosts below it; with ``:PORT`` for another port
            than that of the scheme.
        timeout: seconds for one file, redirects included.
        most_bytes: largest file.

    Raises:
        InputError: a host that is none.
    """

    def __init__(self, hosts: Sequence[str], timeout: float, most_bytes: int) -> None:
        self._hosts: list[tuple[str, int | None]] = []
        for host in hosts:
            if not isinstance(host, str) or not (parts := _HOST.fullmatch(host)):
                raise InputError(
                    f"{host!r} is not a host, such as images.example.com, 10.0.0.7:8080 or *.example.com",
                    key="input.fetch_hosts",
                )
            self._hosts.append((parts[1].strip("[]").lower(), int(parts[2]) if parts[2] else None))
        self._timeout = timeout
        self._most_bytes = most_bytes
        self._opener = watched_opener(WatchedRedirects(self._check_redirect))

    def allows(self, url: str) -> bool:
        """True if the URL is fetched. False if it may be passed on as it is. Raises `Unfetched` if it is refused."""
        if url[:5].lower() == "data:":
            return False
        # Servers and libraries disagree on where such a URL ends, so that the host that is checked may be another one.
        if _CONTROL.search(url):
            raise Unfetched("has a URL with a space or a control character in it")
        try:
            parts = urlsplit(url)
            host, port = as_resolved(parts.hostname or ""), parts.port
        except ValueError:
            raise Unfetched("has a URL that cannot be read") from None
        if parts.scheme in _STORES:
            return False
        if parts.scheme not in USUAL_PORTS:
            raise Unfetched(f"has a URL of the scheme {parts.scheme!r}, which is neither fetched nor passed on")
        if not host or "@" in parts.netloc:
            raise Unfetched("has a URL without a host, or with credentials before it")
        if self._is_named(host, port or USUAL_PORTS[parts.scheme], USUAL_PORTS[parts.scheme]):
            return True
        if is_internal(host):
            raise Unfetched(f"has a URL of the host {host!r}, which is not a public one: {_remedy(parts)}")
        return False

    def fetch(self, url: str) -> bytes:
        """The bytes at a URL that `allows` returned True for. Raises `Unfetched`."""
        deadline, shown = Deadline(self._timeout), redact_url(url)
        try:
            with deadline:
                return self._body(url, deadline, shown)
        except Unfetched:
            raise
        except HTTPError as error:
            error.close()
            raise Unfetched(f"at {shown} cannot be fetched: HTTP {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if deadline.passed or isinstance(reason, TimeoutError):
                problem = f"did not arrive within input.fetch_timeout = {self._timeout:g} s"
                raise Unfetched(f"at {shown} {problem}") from None
            text = str(reason) if isinstance(error, URLError) else f"{type(error).__name__}: {error}"
            raise Unfetched(f"at {shown} cannot be fetched: {text}") from None

    def _body(self, url: str, deadline: Deadline, shown: str) -> bytes:
        # No credentials of the job go to these hosts, and the bytes of a file have to come as they are.
        request = WatchedRequest(url, deadline, {"User-Agent": "fanout", "Accept-Encoding": "identity"})
        with self._opener.open(request, timeout=self._timeout) as response:
            data = bytearray()
            while piece := response.read1(_PIECE):
                data += piece
                if len(data) > self._most_bytes:
                    raise Unfetched(f"at {shown} is larger than input.file_max_bytes = {self._most_bytes:,}")
            if deadline.passed:
                raise TimeoutError
            # A body without a length ends where its connection does, whoever has closed it, and `read1` reports no
            # connection that breaks before the end.
            if response.length or (response.length is None and not response.chunked):
                raise Unfetched(f"at {shown} came without a sign of its end: a part of it may be missing")
            return bytes(data)

    def _is_named(self, host: str, port: int, usual_port: int) -> bool:
        names = [name for name, wanted in self._hosts if port == (usual_port if wanted is None else wanted)]
        # A pattern stands for public names: a host inside the network has to be named itself.
        patterns = [] if is_internal(host) else [name[1:] for name in names if name.startswith("*.")]
        return host in names or host.endswith(tuple(patterns))

    def _check_redirect(self, old: str, new: str) -> None:
        try:
            if not self.allows(new):
                raise Unfetched(f"has the URL {redact_url(new)}: {_remedy(urlsplit(new))}")
        except Unfetched as error:
            raise Unfetched(f"at {redact_url(old)} is redirected, and {error}") from None


def _remedy(url: SplitResult) -> str:
    return f'if that is right, add "{url.netloc}" to input.fetch_hosts'
