"""What answers leave is kept for the next ones."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
from fanout.process import retain_heap

{keep}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [bytearray(2**20) for _ in range(8)]
        del blocks
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 10

faults()
print(faults())
"""


def pages_cleared(keep: str) -> int:
    """For every 8 MiB that were freed and are asked for again, in a process of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    command = [sys.executable, "-c", COUNT.format(keep=keep)]
    return int(subprocess.run(command, env=plain, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_not_cleared_again() -> None:
    assert pages_cleared("") > 500
    assert pages_cleared("retain_heap()") < 50
