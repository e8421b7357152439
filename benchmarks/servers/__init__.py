"""What contenders talk to: servers of static answers on loopback, processes of their own on a core of their own."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NotStarted(Exception):  # noqa: N818 - it says what happened to the server
    """A server does not start; the text is what it says."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """How a server is to answer."""

    fail_share: float = 0.0
    """Share of the requests that get a 503."""

    by_rows: bool = False
    """As many rows come back as were sent (of W1); else the one static answer."""

    own: bool = False
    """The project's own server, also where nginx is installed: to be compared with one of the others above."""


@contextmanager
def server(served: Served, *, nginx: bool) -> Iterator[str]:
    """Start one; gives its origin, ``http://127.0.0.1:PORT``. It ends with the context."""
    if nginx and served == Served():
        from benchmarks.servers.nginx import running

        with running() as origin:
            yield origin
    else:
        from benchmarks.servers.static import running as own_running

        with own_running(served) as origin:
            yield origin


def has_nginx() -> bool:
    """Whether nginx is installed."""
    return nginx_path() is not None


def nginx_path() -> str | None:
    """Where nginx is; Debian installs it outside the PATH of most users."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
