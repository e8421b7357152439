"""What answers say is left: the fields of vendors and of the drafts, and what makes no sense in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from fanout.classify import readers

DATE = {"Date": "Thu, 01 Jan 2026 00:00:00 GMT"}
MIDNIGHT = 1767225600  # the same, in Unix time


def told(headers: dict[str, str]) -> list[tuple[str, float, float]]:
    fields = CIMultiDict(headers)
    return [(each.unit, each.left, each.seconds) for read in readers(fields) for each in read(fields)]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-RateLimit-Remaining-Requests": "59", "X-RateLimit-Reset-Requests": "1s"}, [("requests", 59, 1)]),
        ({"x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s"}, [("tokens", 149984, 360)]),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "12ms"}, [("tokens", 0, 0.012)]),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "0s"}, []),
        ({"x-ratelimit-remaining-requests": "59", "x-ratelimit-reset-requests": "-1"}, []),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "many", "x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining-requests": "59"}, []),
        ({"x-ratelimit-reset-requests": "1s"}, []),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": "30", "x-ratelimit-limit": "60"}, [("requests", 4, 30)]),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": str(MIDNIGHT + 90), **DATE}, [("requests", 4, 90)]),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": str(MIDNIGHT - 90), **DATE}, []),
        ({"x-ratelimit-remaining": "4", "x-ratelimit-reset": f"{MIDNIGHT}000", **DATE}, []),
        ({"RateLimit-Remaining": "4", "RateLimit-Reset": "30"}, [("requests", 4, 30)]),
        ({"RateLimit": '"default";r=50;t=30'}, [("requests", 50, 30)]),
        ({"RateLimit": 'default; t=30; r=50'}, [("requests", 50, 30)]),
        ({"RateLimit": '"a";r=3;t=1, "day";r=999;t=3600;pk=:cHQ=:'}, [("requests", 3, 1), ("requests", 999, 3600)]),
        (
            {
                "RateLimit": '"a, b";r=3;t=1, "size";r=5;t=2',
                "RateLimit-Policy": '"a, b";q=9;w=60;qu="requests","size";q=9;w=60;qu="content-bytes"',
            },
            [("requests", 3, 1), ("content-bytes", 5, 2)],
        ),
        ({"RateLimit": "limit=100, remaining=3, reset=12"}, [("requests", 3, 12)]),
        ({"RateLimit": '"default";r=50'}, []),
        ({"RateLimit": "what?"}, []),
        ({"Content-Type": "x"}, []),
    ],
)  # fmt: skip
def test_what_is_left_is_read_where_it_makes_sense(
    headers: dict[str, str], expected: list[tuple[str, float, float]]
) -> None:
    assert told(headers) == expected


def test_allowances_of_one_endpoint_have_names_of_their_own() -> None:
    fields = CIMultiDict({
        "x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-tokens": "1",
        "x-ratelimit-reset-tokens": "1s", "RateLimit": '"a";r=1;t=1, "b";r=1;t=1',
    })  # fmt: skip
    names = [each.name for read in readers(fields) for each in read(fields)]
    assert len(set(names)) == len(names) == 4


FIELDS = st.sampled_from([
    "RateLimit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset", "x-ratelimit-remaining", "Date",
    "x-ratelimit-reset", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
])  # fmt: skip
ITEMS = st.from_regex(r'"?\w*"?(;[rtq]u?="?\d{0,19}"?){0,3},?', fullmatch=True)
VALUES = st.text(max_size=30) | ITEMS | st.integers().map(str)


@given(headers=st.dictionaries(FIELDS, VALUES, max_size=9))
def test_nonsense_is_told_by_nobody(headers: dict[str, str]) -> None:
    for _, left, seconds in told(headers):
        assert left >= 0
        assert 0 < seconds < 1e9
