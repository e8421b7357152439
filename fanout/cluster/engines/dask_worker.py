"""Preloaded by the workers of a local Dask cluster."""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Ignore Ctrl-C, which the terminal sends to every process: the driver orders its workers to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
