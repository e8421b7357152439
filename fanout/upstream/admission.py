"""Admission of requests to the endpoints."""

from __future__ import annotations

from fanout.deadline import Deadline


class Ticket(Deadline):
    """The place of one attempt at the endpoints. A worker keeps one, and uses it for all of its attempts."""

    __slots__ = ()
