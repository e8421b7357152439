"""Fields and bodies of any length: they are read in linear time, or not at all."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from fanout.classify import classify_response, pushback, readers
from fanout.classify.error_bodies import error_body
from fanout.classify.times import duration, number, seconds_until
from fanout.types import Response

MANY = 1_000_000
"""Characters, with which anything quadratic would take hours."""

NONSENSE = {
    "digits": "1" * MANY,
    "digits with a unit of none": "1" * MANY + "x",
    "durations": "1s" * (MANY // 2),
    "fractions": "1." * (MANY // 2),
    "policies": '"a";r=1;t=1,' * (MANY // 12),
    "quotes": '";' * (MANY // 2),
    "parameters": "a" + ";r" * (MANY // 2),
    "an old field without its end": "remaining=1," * (MANY // 12),
    "white space": "1" + " " * MANY + "1",
    "commas": "," * MANY,
    "a date": "Sun, 06 Nov 1994 08:49:37 GMT" * (MANY // 29),
}
FIELDS = [
    "Retry-After",
    "retry-after-ms",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Reset",
    "RateLimit-Remaining",
    "Date",
    "x-ratelimit-reset-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "X-RateLimit-Reset",
    "X-RateLimit-Remaining",
    "x-should-retry",
]


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_a_field_of_a_million_characters_is_ignored(text: str) -> None:
    for field in FIELDS:
        headers = CIMultiDict({"RateLimit": '"a";r=5;t=5', field: text})
        message = [quota for read in readers(headers) for quota in read(headers)]
        assert len(message) <= 1
        wait = pushback(headers)
        assert wait is None or wait >= 0
        assert "HTTP 429" in classify_response(Response(status=429, headers=headers, body=b"", url="http://h/x")).reason
    assert duration(text) is None
    assert number(text) is None
    assert seconds_until(text, text) is None


@pytest.mark.parametrize("text", NONSENSE.values(), ids=NONSENSE)
def test_an_error_of_a_million_characters_is_shortened(text: str) -> None:
    escaped = text.replace('"', "'")
    for body in (text, f'{{"error": {{"message": "{escaped}", "code": "{escaped}"}}}}', f'{{"detail": [{text}]}}'):
        verdict = classify_response(Response(status=500, headers=CIMultiDict(), body=body.encode(), url="http://h/x"))
        assert len(verdict.reason) < 400


def test_a_wait_in_an_error_s_body_of_a_million_digits_is_none() -> None:
    for delay in ("1" * MANY, "1s" * MANY):
        assert pushback(CIMultiDict(), {"details": [{"retryDelay": delay}], "estimated_time": delay}) is None


def test_a_number_beyond_every_float_is_no_time() -> None:
    assert number(10**400) is None


def test_an_answer_too_large_for_an_error_is_not_parsed_once_more() -> None:
    small = b'{"error": {"code": "insufficient_quota"}}'
    assert error_body(small) == {"code": "insufficient_quota"}
    assert error_body(small + b" " * MANY) == {}
