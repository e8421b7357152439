"""The path of one chunk stays short: a maintainer reads it, and every call on it costs every request."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "chunk_path"

MOST_FILES = 10
MOST_FUNCTIONS = 35


def test_a_warm_chunk_passes_few_functions_in_few_files():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    *lines, summary = done.stdout.splitlines()
    assert summary == f"{len(lines)} functions in {len({line.split()[1] for line in lines})} files"
    functions, files = int(summary.split()[0]), int(summary.split()[3])
    assert functions <= MOST_FUNCTIONS, done.stdout
    assert files <= MOST_FILES, done.stdout
