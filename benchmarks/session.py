"""The interface between a contender and the measurement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from benchmarks.workloads import Array


@dataclass(frozen=True, slots=True)
class Session:
    """A client with its connections."""

    send: Callable[[Any], Awaitable[Array]]
    """Sends rows and returns the answers as one array, in the order of the input."""

    units: Callable[[], int] | None = None
    """Returns the units sent so far, if a unit is not a request."""


Opener: TypeAlias = Callable[..., AbstractAsyncContextManager[Session]]
"""Called with a `Workload`, the origin of the server (``http://host:port``), and the options of the entry."""
