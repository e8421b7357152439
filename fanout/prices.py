"""Prices of an API, which the user states, and the cost of requests and tokens at them."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from fanout.errors import ConfigError
from fanout.options import checks_options
from fanout.settings import require

if TYPE_CHECKING:
    from fanout.usage import TokenCounts

# A currency stands behind each amount in lines that a terminal should not break.
_LONGEST_CURRENCY = 16


@checks_options
@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Your own prices of the API, for the cost of a run and for limits.max_cost. None are built in: they change."""

    input_per_million: float | None = None
    """Price of a million input tokens."""

    cached_per_million: float | None = None
    """Price of a million input tokens that the API has in its cache; that of input tokens if not given."""

    output_per_million: float | None = None
    """Price of a million output tokens, reasoning included."""

    per_request: float = 0.0
    """Price of a request that is answered."""

    per_row: float = 0.0
    """Price of a row that is answered."""

    currency: str = "USD"
    """Name of the currency, for display."""

    def __post_init__(self) -> None:
        for name in ("input_per_million", "cached_per_million", "output_per_million", "per_request", "per_row"):
            value = getattr(self, name)
            require(value is None or (isfinite(value) and value >= 0), name, value, "a finite number, 0 or more")
        short = 0 < len(self.currency) <= _LONGEST_CURRENCY and self.currency.isprintable()
        require(short, "currency", self.currency, f"a text of at most {_LONGEST_CURRENCY} characters, such as USD")
        # A forgotten price would make the cost too low.
        if self.input_per_million is None and self.by_tokens:
            raise ConfigError(
                "input_per_million is missing: the price of input tokens, beside those of cached or output tokens "
                "(0 if they are free)",
                key="input_per_million",
            )

    @property
    def by_tokens(self) -> bool:
        """True if tokens have a price."""
        prices = (self.input_per_million, self.cached_per_million, self.output_per_million)
        return any(price is not None for price in prices)

    @property
    def is_set(self) -> bool:
        """True if anything has a price."""
        return self.by_tokens or self.per_request > 0 or self.per_row > 0

    def of(self, counts: TokenCounts, rows: int) -> float:
        """The price of one answered request."""
        return self.of_tokens(counts.input, counts.cached, counts.output) + self.of_requests(1, rows)

    def of_tokens(self, given: float, cached: float, output: float) -> float:
        """The price of input tokens (``cached`` of them from the API's cache) and of output tokens."""
        each = self.input_per_million or 0.0
        each_cached = each if self.cached_per_million is None else self.cached_per_million
        # A faulty API may report more of them than input tokens, which must not make the price negative.
        cached = min(cached, given)
        return ((given - cached) * each + cached * each_cached + output * (self.output_per_million or 0.0)) / 1e6

    def of_requests(self, requests: int, rows: int) -> float:
        """The price of requests without their tokens."""
        return requests * self.per_request + rows * self.per_row

    def covers(self, counts: TokenCounts) -> bool:
        """False if there are output tokens, but no price for them beside that of input tokens."""
        return not (self.by_tokens and self.output_per_million is None and counts.output)
