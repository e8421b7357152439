"""Header fields in which vendors say how long to wait, and how much is left until when: tables, no logic.

To support another vendor, add a line. Names are in lower case. The form of a time is told by its value (see
`wait_for`), because the same field holds seconds with one vendor and a Unix time with another. Checked in November
2026 against the vendors' pages where a line names them.
"""

from __future__ import annotations

from typing import NamedTuple

PREFIXES = ("", "llm_provider-")
"""Before every name: LiteLLM's proxy passes its provider's fields on with its own prefix."""


class Wait(NamedTuple):
    """A field that says how long to wait."""

    field: str
    unit: float = 1.0
    """Seconds that a bare number counts; times of day and durations carry their own units."""


class Dialect(NamedTuple):
    """Two fields: how much is left of an allowance, and when it is refilled."""

    remaining: str
    reset: str
    unit: str
    """``"requests"``, ``"tokens"``, or what else is counted."""

    family: str
    """What the names of one vendor's fields begin with."""


# The more exact fields come first.
_WAITS = (
    Wait("retry-after-ms", 1e-3),  # OpenAI, Azure
    Wait("x-ms-retry-after-ms", 1e-3),  # Azure
    Wait("retry-after"),  # RFC 9110
    Wait("x-retry-after"),
    Wait("x-ratelimit-retry-after"),
)

# {} stands for "remaining" or "reset".
_DIALECTS = (
    ("x-ratelimit-{}-requests", "requests"),  # OpenAI, Azure, Groq, vLLM gateways: durations (6m0s), seconds
    ("x-ratelimit-{}-tokens", "tokens"),
    ("x-ratelimit-{}-requests-minute", "requests"),  # Cerebras, SambaNova: seconds, Unix times
    ("x-ratelimit-{}-requests-hour", "requests"),
    ("x-ratelimit-{}-requests-day", "requests"),
    ("x-ratelimit-{}-tokens-minute", "tokens"),
    ("x-ratelimit-{}-tokens-hour", "tokens"),
    ("x-ratelimit-{}-tokens-day", "tokens"),
    ("x-ratelimit-{}", "requests"),  # GitHub: Unix time; OpenRouter: Unix time in milliseconds; others: seconds, dates
    ("x-rate-limit-{}", "requests"),  # X: Unix time
    ("x-rate-limit-{}-requests", "requests"),
    ("x-rate-limit-{}-tokens", "tokens"),
    ("ratelimit-{}", "requests"),  # the first IETF drafts: seconds; GitLab: Unix time
    ("anthropic-ratelimit-requests-{}", "requests"),  # Anthropic: ISO times
    ("anthropic-ratelimit-tokens-{}", "tokens"),
    ("anthropic-ratelimit-input-tokens-{}", "tokens"),
    ("anthropic-ratelimit-output-tokens-{}", "output-tokens"),
)

WAITS = tuple(Wait(prefix + field, unit) for field, unit in _WAITS for prefix in PREFIXES)
DIALECTS = tuple(
    Dialect(prefix + name.format("remaining"), prefix + name.format("reset"), unit, prefix + name.partition("{")[0])
    for name, unit in _DIALECTS
    for prefix in PREFIXES
)

BODY_WAITS = (
    Wait("retryDelay"),  # Google: a RetryInfo among the details, as 3s
    Wait("retry_after_ms", 1e-3),
    Wait("retryAfterMs", 1e-3),
    Wait("retry_after"),
    Wait("retryAfter"),
    Wait("retry_after_seconds"),  # OpenRouter, in the metadata
    Wait("retryAfterSeconds"),
    Wait("estimated_time"),  # Hugging Face
)
"""Fields of an error in a body, and of the objects in its ``details`` and ``metadata``."""
