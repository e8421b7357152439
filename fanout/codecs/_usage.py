"""What an OpenAI-compatible API says of an answer beside its values: what it has cost, and whose it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.codecs._parsing import read
from fanout.errors import InvalidReply
from fanout.types import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.types import Array, Reply, Values

_MOST = 2**53
"""No count is larger; a field that is may be anything."""


def read_with_usage(reply: Reply, convert: Callable[[Any], Array | Values], *, keep: bool) -> Answer:
    """As `read`, with ``usage`` and ``model``; an `InvalidReply` carries the usage too: it is billed all the same."""
    usage: dict[str, int] = {}
    model: str | None = None

    def noted(document: Any) -> Array | Values:
        nonlocal model
        if isinstance(document, dict):
            usage.update(counts(document.get("usage")))
            model = model_of(document.get("model"))
        return convert(document)

    try:
        return Answer(read(reply, noted, keep=keep), usage=usage, model=model)
    except InvalidReply as error:
        error.usage = usage
        raise


def model_of(name: object) -> str | None:
    """The model's name, where it is one."""
    return name if isinstance(name, str) and name else None


def counts(usage: object) -> Iterator[tuple[str, int]]:
    """Every count; those of the objects in it, such as ``completion_tokens_details``, by dotted names."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        nested = value.items() if isinstance(value, dict) else ()
        for path, count in ((name, value), *((f"{name}.{part}", count) for part, count in nested)):
            if type(count) is int and 0 <= count <= _MOST:
                yield path, count
