"""What every contender gives to be measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from benchmarks.works import Array


@dataclass(frozen=True, slots=True)
class Session:
    """A client with its connections."""

    send: Callable[[Any], Awaitable[Array]]
    """Sends rows, gives the answers as one array in the order of the input."""

    units: Callable[[], int] | None = None
    """How many units were sent so far, where they are not one a request."""


Opener: TypeAlias = Callable[..., AbstractAsyncContextManager[Session]]
"""Called with a `ChunkTask`, the origin of the server (``http://host:port``), and the options of the entry."""
