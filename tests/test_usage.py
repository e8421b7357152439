"""The tokens of an API's usage, whatever it calls them."""

from __future__ import annotations

import pytest

from fanout.usage import TokenCounts, token_counts


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({}, TokenCounts()),
        ({"prompt_tokens": 5, "total_tokens": 5}, TokenCounts(input=5)),
        ({"total_tokens": 5}, TokenCounts(input=5)),
        (
            {
                "prompt_tokens": 9,
                "prompt_tokens_details.cached_tokens": 4,
                "completion_tokens": 7,
                "completion_tokens_details.reasoning_tokens": 6,
                "total_tokens": 16,
            },
            TokenCounts(9, 4, 7, 6),
        ),
        ({"prompt_tokens": 8, "prompt_cache_hit_tokens": 3, "completion_tokens": 1}, TokenCounts(8, 3, 1, 0)),
        (
            {"input_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1},
            TokenCounts(11, 4, 1, 0),
        ),
        ({"prompt_tokens": 5, "completion_tokens": 2, "thoughts_tokens": 3}, TokenCounts(5, 0, 5, 3)),
    ],
)
def test_each_vendor_has_its_names(usage: dict[str, int], counts: TokenCounts) -> None:
    assert token_counts(usage) == counts
    assert counts.total == counts.input + counts.output
