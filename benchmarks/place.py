"""The root of the checkout, and the environment of child processes."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).absolute().parents[1]


def environment() -> dict[str, str]:
    """Return an environment in which a child process finds this package from any folder."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
