"""The GenAI conventions of OpenTelemetry: names and metrics of the chunks that a language model answers.

https://opentelemetry.io/docs/specs/semconv/gen-ai/ (status: development). No prompt and no answer is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fanout.telemetry.metrics import label
from fanout.usage import token_counts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.trace import Span

    from fanout.codecs.base import Codec

_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)


class Operation(NamedTuple):
    """Operation of a client at a language model."""

    name: str
    """Name of its spans: the operation and the model."""

    attributes: dict[str, str]


class GenAI:
    """Describes the chunks of codecs for language models.

    Args:
        provider: the provider's name.
    """

    def __init__(self, provider: str, meter: Meter) -> None:
        self._provider = label(provider)
        self._tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )  # fmt: skip
        self._duration: Histogram = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )  # fmt: skip

    def operation(self, codec: Codec) -> Operation | None:
        """Return the operation of a codec; None for one that asks no language model."""
        if not codec.operation:
            return None
        attributes = {"gen_ai.operation.name": codec.operation, "gen_ai.provider.name": self._provider}
        if codec.model is None:
            return Operation(codec.operation, attributes)
        model = label(codec.model)
        return Operation(f"{codec.operation} {model}", attributes | {"gen_ai.request.model": model})

    def record(
        self, operation: Operation, span: Span, usage: Mapping[str, int], seconds: float, error: str | None
    ) -> None:
        """Record a chunk that has ended: its tokens and its duration."""
        counts, attributes = token_counts(usage), operation.attributes
        for kind, n in (("input", counts.input), ("output", counts.output)):
            if n:
                span.set_attribute(f"gen_ai.usage.{kind}_tokens", n)
                self._tokens.record(n, attributes | {"gen_ai.token.type": kind})
        self._duration.record(seconds, attributes if error is None else attributes | {"error.type": error})
