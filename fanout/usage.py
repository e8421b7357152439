"""Tokens in the usage that an API reports, whatever it calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# Names of OpenAI and those that follow it, of Anthropic, Bedrock, Gemini and Ollama. The first name that is there
# counts, so that an API that reports a number under two names is not counted twice.
_INPUT = ("prompt_tokens", "input_tokens", "inputTokens", "promptTokenCount", "prompt_eval_count")
_OUTPUT = ("completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount", "eval_count")
_CACHED = (
    "cached_tokens", "prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens",
    "prompt_cache_hit_tokens", "cachedContentTokenCount",
)  # fmt: skip
_REASONING = (
    "reasoning_tokens", "completion_tokens_details.reasoning_tokens", "output_tokens_details.reasoning_tokens",
)  # fmt: skip
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount")

# Counts that an API leaves out of the input or output tokens: Anthropic's and Bedrock's caches, Gemini's thoughts.
_CACHED_APART = ("cache_read_input_tokens", "cacheReadInputTokens")
_WRITTEN_APART = ("cache_creation_input_tokens", "cacheWriteInputTokens")
_REASONING_APART = ("thoughts_tokens", "thoughtsTokenCount")


class TokenCounts(NamedTuple):
    """Tokens of one response, or of a run."""

    input: int = 0
    """Tokens of the requests, cached ones included."""

    cached: int = 0
    """Input tokens that the API had in its cache."""

    output: int = 0
    """Tokens of the answers, reasoning included."""

    reasoning: int = 0
    """Output tokens that the model spent on reasoning, which are in no answer."""

    @property
    def total(self) -> int:
        """Input and output tokens."""
        return self.input + self.output


USAGE_COLUMNS = tuple(f"usage.{name}_tokens" for name in TokenCounts._fields)
"""Names of the outputs with the tokens of each row, in the order of `TokenCounts`."""


def token_counts(usage: Mapping[str, int]) -> TokenCounts:
    """Return the tokens in a usage. A usage that names a total alone counts as input, as embeddings have no output."""
    cached_apart = _first(usage, _CACHED_APART)
    reasoning_apart = _first(usage, _REASONING_APART)
    given, output = _first(usage, _INPUT), _first(usage, _OUTPUT)
    if not given and not output:
        given = _first(usage, _TOTAL)
    return TokenCounts(
        input=given + cached_apart + _first(usage, _WRITTEN_APART),
        cached=_first(usage, _CACHED) + cached_apart,
        output=output + reasoning_apart,
        reasoning=_first(usage, _REASONING) + reasoning_apart,
    )


def tokens_used(usage: Mapping[str, int]) -> int:
    """Return the tokens that count for a rate: the total that the API names, or the sum of its parts.

    Tokens beside these parts, such as those that Anthropic has in its cache, count for no rate.
    """
    return _first(usage, _TOTAL) or _first(usage, _INPUT) + _first(usage, _OUTPUT)


def _first(usage: Mapping[str, int], names: Iterable[str]) -> int:
    return next((usage[name] for name in names if name in usage), 0)
