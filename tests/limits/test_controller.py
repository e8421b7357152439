"""The pace: which requests the limit is made of, and who is told of another one."""

from __future__ import annotations

from collections import deque

from fanout.limits.controller import ConcurrencyController


class Sender:
    """Has so many requests in flight all the time, each for a tenth of a second."""

    def __init__(self) -> None:
        self.told: list[int] = []
        self.controller = ConcurrencyController(0.0, largest=256, changed=self.told.append)
        self.now = 0.0
        self._in_flight: deque[int] = deque()
        self._next = 0

    def send(self, answers: int, in_flight: int | None = None, **came: bool) -> None:
        for _ in range(answers):
            while len(self._in_flight) < (in_flight or self.controller.limit):
                self.controller.sent(self._next, self.now)
                self._in_flight.append(self._next)
                self._next += 1
            self.now += 0.1 / len(self._in_flight)
            asker = self._in_flight.popleft()
            self.controller.back(asker, self.now)
            self.controller.told(asker, **{"success": False, "overload": False, **came})


def test_successes_raise_the_limit_and_those_concerned_are_told():
    sender = Sender()
    sender.send(2000, success=True)
    assert sender.told[:3] == [16, 32, 64]
    assert sender.told[-1] == sender.controller.limit


def test_overload_lowers_it():
    sender = Sender()
    sender.send(1, overload=True, certain=True)
    assert sender.told == [7]


def test_another_failure_tells_nothing_and_takes_no_place():
    sender = Sender()
    sender.send(2000)
    assert sender.told == []
    sender.send(100, success=True)
    assert sender.told[:1] == [16]


def test_requests_that_wait_for_leave_are_not_in_flight():
    """Eight have a permit, and a rate lets one after the other go: the limit is not what holds them back."""
    sender = Sender()
    sender.send(2000, in_flight=1, success=True)
    assert sender.told == []


def test_what_was_never_sent_counts_for_nothing():
    sender = Sender()
    sender.controller.told("a", success=False, overload=True, certain=True)
    assert sender.told == []


def test_a_request_that_was_withheld_and_sent_again_counts_once():
    sender = Sender()
    for since in (0.0, 1.0):
        sender.controller.sent("a", since)
        sender.controller.back("a", since + 1)
    sender.controller.told("a", success=True, overload=False)
    sender.controller.told("a", success=False, overload=True, certain=True)
    assert sender.told == []
