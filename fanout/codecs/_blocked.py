"""Answers that are withheld for their content: another request for the same row would end the same, and cost again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout.types import Action, Verdict

if TYPE_CHECKING:
    from fanout.types import Response

# Reasons for which an answer ends without its text, in lower case. Checked in November 2026.
_REASONS = frozenset({
    "content_filter",  # OpenAI, Azure, and most that speak their API
    "refusal",  # Anthropic
    "safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "language",  # Gemini
    "guardrail_intervened", "content_filtered",  # Bedrock
    "sensitive",  # Zhipu
})  # fmt: skip

CODES = frozenset({
    "content_filter", "responsibleaipolicyviolation",  # Azure
    "content_policy_violation", "moderation_blocked",  # OpenAI, OpenRouter
    "data_inspection_failed", "datainspectionfailed",  # Alibaba
})  # fmt: skip
"""Codes of errors that say so before anything is generated, in lower case."""


def blocked(reason: object) -> bool:
    """True if an answer that ended for this reason is withheld for its content."""
    return isinstance(reason, str) and reason.partition(":")[0].lower() in _REASONS


def row_failed(response: Response, reason: str, status: int | None = None) -> Verdict:
    """The verdict that the row of ``response`` fails at once: it alone is to blame, and no other attempt can help."""
    return Verdict(action=Action.FAIL, reason=f"HTTP {response.status}: {reason}", status=status or response.status)
