"""The places beside Retry-After in which servers say how long they want no request."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from fanout.classify import pushback


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"details": [{"@type": "x"}, {"retryDelay": "3s"}]}, 3.0),
        ({"details": [{"retryDelay": "1.5s"}]}, 1.5),
        ({"details": [{"retryDelay": "soon"}]}, None),
        ({"details": [{"retryDelay": 2}]}, 2.0),
        ({"details": [{"retryDelay": ["2s"]}]}, None),
        ({"details": "none"}, None),
        ({"details": [None, 3]}, None),
        ({"estimated_time": 20.5}, 20.5),
        ({"estimated_time": "20"}, 20.0),
        ({"estimated_time": -1}, None),
        ({"estimated_time": float("inf")}, None),
        ({"estimated_time": True}, None),
        ({"estimated_time": [1]}, None),
        ({}, None),
    ],
)
def test_the_body_may_tell(body: dict[str, Any], seconds: float | None) -> None:
    assert pushback({}, body) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-requests": "500ns"}, 5e-7),
        ({"x-ratelimit-reset-requests": "500us"}, 5e-4),
        ({"x-ratelimit-reset-requests": "500µs"}, 5e-4),
        ({"x-ratelimit-reset-requests": "2h"}, 7200.0),
        ({"x-ratelimit-reset-requests": "2d"}, 172800.0),
        ({"x-ratelimit-reset-requests": "1000000000"}, None),
        ({"RateLimit-Reset": "1000000000"}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "7"}, 7.0),
        ({"x-ratelimit-reset-tokens": "-1"}, None),
        ({"x-ratelimit-reset-tokens": "0"}, None),
        ({"x-ratelimit-reset-tokens": "0s"}, None),
        ({"x-ratelimit-reset-tokens": "5 parsecs"}, None),
        ({"x-ratelimit-reset-tokens": "1s2"}, None),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "9s"}, 2.0),
        (
            {
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-reset-tokens": "9s",
                "x-ratelimit-remaining-requests": "4999",
                "x-ratelimit-remaining-tokens": "0",
            },
            9.0,
        ),
        ({"RateLimit": '"default";r=0;t=30'}, 30.0),
        ({"RateLimit": '"default";t=30;r=0'}, 30.0),
        ({"RateLimit": '"default";r=5;t=30'}, None),
        ({"RateLimit": "limit=100, remaining=0, reset=12"}, 12.0),
        ({"RateLimit": "limit=100, remaining=3, reset=12"}, None),
        ({"RateLimit": '"a";r=0;t=3, "b";r=0;t=30, "c";r=9;t=90'}, 30.0),
        ({"RateLimit": '"size";r=0;t=30', "RateLimit-Policy": '"size";q=9;w=60;qu="content-bytes"'}, 30.0),
        ({"RateLimit": "what?"}, None),
        ({"RateLimit-Reset": "8"}, 8.0),
        ({"RateLimit-Reset": "0"}, None),
    ],
)
def test_the_rate_limit_fields_may_tell(headers: dict[str, str], seconds: float | None) -> None:
    assert pushback(CIMultiDict(headers)) == (None if seconds is None else pytest.approx(seconds))


def test_what_is_said_most_plainly_counts_first() -> None:
    headers = {"x-ratelimit-reset-requests": "9s", "RateLimit-Reset": "8"}
    body = {"estimated_time": 7, "details": [{"retryDelay": "6s"}]}
    assert pushback(CIMultiDict(headers)) == 9
    assert pushback(CIMultiDict(headers), {"estimated_time": 7}) == 7
    assert pushback(CIMultiDict(headers), body) == 6
    assert pushback(CIMultiDict({**headers, "Retry-After": "5"}), body) == 5
    assert pushback(CIMultiDict({**headers, "Retry-After": "5", "retry-after-ms": "400"}), body) == 0.4
    assert pushback(CIMultiDict({**headers, "Retry-After": "nan"}), body) == 6
