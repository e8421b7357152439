"""Servers of static responses on loopback, each in its own process and on its own core."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotStarted(Exception):  # noqa: N818 - it says what happened to the server
    """A server does not start; the text is its error."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The kind of responses of a server."""

    fail_share: float = 0.0
    """Share of the requests that receive a 503."""

    by_rows: bool = False
    """The response has as many rows as the request (of W1); otherwise it is the static one."""

    vectors: bool = False
    """Embeddings that depend on their texts, for any number of them in a request."""

    own: bool = False
    """Use the project's own server even if nginx is installed, to compare with one of the cases above."""


@contextmanager
def server(served: Served, *, nginx: bool) -> Iterator[str]:
    """Start a server and return its origin, ``http://127.0.0.1:PORT``. It ends with the context."""
    if nginx and served == Served():
        from benchmarks.servers.nginx import running

        with running() as origin:
            yield origin
    elif served.vectors:
        from benchmarks.servers.vectors import running as vectors_running

        with vectors_running(served.fail_share) as origin:
            yield origin
    else:
        from benchmarks.servers.static import running as own_running

        with own_running(served) as origin:
            yield origin


def has_nginx() -> bool:
    """True if nginx is installed."""
    return nginx_path() is not None


def nginx_path() -> str | None:
    """Return the path of nginx; Debian installs it outside the PATH of most users."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
