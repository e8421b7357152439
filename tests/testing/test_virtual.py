"""An async function as a plain one, in virtual time."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from fanout.testing import in_virtual_time


@in_virtual_time
async def test_a_test_in_virtual_time_runs_without_a_marker_and_gets_fixtures(tmp_path) -> None:
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600
    assert tmp_path.exists()


def test_its_results_and_errors_are_passed_on() -> None:
    @in_virtual_time
    async def half(x: int) -> float:
        await asyncio.sleep(1)
        return 1 / x

    assert not inspect.iscoroutinefunction(half)
    assert half(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        half(0)
