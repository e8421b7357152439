"""One request taken apart: every step does its work, and the parts add up to the whole."""

from __future__ import annotations

import re

from benchmarks.apart import FLOOR, OFFLINE, TRANSPORT, WHOLE, measured, table
from benchmarks.servers import Served, server


async def test_every_step_is_measured_and_the_parts_add_up():
    with server(Served(), nginx=False) as origin:
        seconds = await measured(origin, 40, 1)
    assert all(value > 0 for value in seconds.values())
    assert set(seconds) >= {FLOOR, OFFLINE, TRANSPORT, WHOLE}
    *parts, whole, _ = (float(value) for value in re.findall(r"(-?[\d.]+) us", table(seconds)))
    assert abs(sum(parts) - whole) < 1
