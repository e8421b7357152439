"""The machine: which cores there are, who runs on which, and what the figures were taken on."""

from __future__ import annotations

import os
import platform
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES = (
    "fanout-ml", "aiohttp", "orjson", "numpy", "tenacity", "pysimdjson", "pybase64", "msgspec", "uvloop", "openai",
    "baseten-performance-client", "tritonclient", "httpx", "requests",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cores:
    """A core for the contender and another one for the server; None: wherever the system puts them."""

    client: int | None = None
    server: int | None = None


def cores() -> Cores:
    """Two cores of those that this process may use, if the system has two and lets one choose."""
    if not hasattr(os, "sched_setaffinity"):
        return Cores()
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return Cores()
    try:
        os.sched_setaffinity(0, usable)
    except OSError:
        return Cores()
    return Cores(client=usable[0], server=usable[-1])


@contextmanager
def on(core: int | None) -> Iterator[None]:
    """Processes that are started inside stay on this core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def described() -> dict[str, str]:
    """What a reader of the figures wants to know of the machine."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before": load,
        "python": platform.python_version(),
    }


def packages() -> dict[str, str]:
    """Versions of what takes part, as far as it is installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
