"""Choose cores for client and server, and describe the machine."""

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
    "baseten-performance-client", "tritonclient", "httpx", "httpx2", "requests", "litellm",
    "reqstorm", "async-batch-llm", "daft", "ray",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cores:
    """A core for the contender and another one for the server; None leaves the choice to the system."""

    client: int | None = None
    server: int | None = None


def cores() -> Cores:
    """Return two cores that this process may use, if there are two and the system allows a choice."""
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
    """Pin processes that are started inside to this core."""
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
    """Describe the machine for a reader of the figures."""
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "load before": load,
        "python": platform.python_version(),
    }


def packages() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
