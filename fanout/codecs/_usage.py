"""What an OpenAI-compatible API says that an answer has cost."""

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
    """As `read`, with the document's ``usage``; an `InvalidReply` carries it too, for it is billed all the same."""
    usage: dict[str, int] = {}

    def noted(document: Any) -> Array | Values:
        usage.update(counts(document.get("usage")) if isinstance(document, dict) else ())
        return convert(document)

    try:
        return Answer(read(reply, noted, keep=keep), usage=usage)
    except InvalidReply as error:
        error.usage = usage
        raise


def counts(usage: object) -> Iterator[tuple[str, int]]:
    """Every count; those of the objects in it, such as ``completion_tokens_details``, by dotted names."""
    for name, value in usage.items() if isinstance(usage, dict) else ():
        nested = value.items() if isinstance(value, dict) else ()
        for path, count in ((name, value), *((f"{name}.{part}", count) for part, count in nested)):
            if type(count) is int and 0 <= count <= _MOST:
                yield path, count
