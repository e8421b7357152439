"""Where the benchmarks are, for the processes that they start."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]


def environment() -> dict[str, str]:
    """The environment of a child process that finds this package, whatever folder it runs in."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
