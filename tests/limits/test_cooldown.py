"""The gate: shut until the latest of the times that it was told."""

from __future__ import annotations

from fanout.limits import Cooldown


def test_a_gate_is_open_until_it_is_shut():
    assert Cooldown().wait(123.0) == 0.0


def test_a_shut_gate_tells_how_long_it_stays_shut():
    cooldown = Cooldown()
    cooldown.shut_until(10.0)
    assert [cooldown.wait(now) for now in (4.0, 9.5, 10.0, 11.0)] == [6.0, 0.5, 0.0, 0.0]


def test_a_shorter_pause_does_not_open_the_gate_sooner():
    cooldown = Cooldown()
    cooldown.shut_until(10.0)
    cooldown.shut_until(5.0)
    assert cooldown.wait(4.0) == 6.0
    cooldown.shut_until(12.0)
    assert cooldown.wait(4.0) == 8.0
