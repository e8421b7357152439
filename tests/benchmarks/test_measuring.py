"""Tests of the measurement of CPU time and memory."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from benchmarks import machine
from benchmarks.measuring import Clock, Memory

MIB = 1 << 20


def burn() -> int:
    return sum(range(1_000_000))


def test_the_cpu_time_of_other_threads_counts():
    clock = Clock()
    threads = [threading.Thread(target=burn) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    of_three, _ = clock.read()
    alone = Clock()
    burn()
    assert of_three > 1.5 * alone.read()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is set back on Linux alone")
def test_the_peak_belongs_to_the_workload_and_not_to_earlier_memory():
    np.ones(200 * MIB, np.uint8)
    memory = Memory()
    if memory.beyond(0) is None:
        pytest.skip("this system does not let the peak be set back")
    np.ones(50 * MIB, np.uint8)
    kept = np.ones(20 * MIB, np.uint8)
    assert 45 * MIB < memory.beyond(0) < 100 * MIB
    assert memory.beyond(0) - memory.beyond(kept.nbytes) == kept.nbytes
    assert memory.peak() > memory.beyond(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is set back on Linux alone")
def test_memory_freed_before_the_workload_counts_when_the_workload_takes_it_again():
    np.ones(30 * MIB, np.uint8)  # glibc serves later allocations from its heap
    freed = [np.ones(8 * MIB, np.uint8) for _ in range(20)]
    last = np.ones(8 * MIB, np.uint8)  # at the end of the heap: it cannot shrink by itself
    del freed
    memory = Memory()
    if memory.beyond(0) is None:
        pytest.skip("this system does not let the peak be set back")
    np.ones(50 * MIB, np.uint8)
    assert memory.beyond(0) > 45 * MIB
    assert last.all()


@pytest.mark.skipif(machine.cores().client is None, reason="there is one core, or none can be chosen")
def test_a_process_is_put_on_a_core_and_let_go():
    import os

    cores, before = machine.cores(), os.sched_getaffinity(0)
    assert cores.client != cores.server
    with machine.on(cores.client):
        assert os.sched_getaffinity(0) == {cores.client}
    assert os.sched_getaffinity(0) == before
