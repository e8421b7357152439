"""What an OpenAI-compatible API says of an answer beside its values: what it has cost, and whose it is."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

from fanout.codecs._parsing import read
from fanout.errors import InvalidResponse
from fanout.types import DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.types import Array, Response, Values

_MOST = 2**53
"""No count is larger; a field that is may be anything."""
_MOST_NAMES = 64
"""Fields of ``usage``, or of an object in it, that are read. APIs send up to a dozen."""
_LONGEST_NAME = 100
_TAIL = 2**16


def read_with_usage(response: Response, convert: Callable[[Any], Array | Values], *, keep: bool) -> DecodedResponse:
    """As `read`, with ``usage`` and ``model``; an `InvalidResponse` carries the usage too: it is billed."""
    usage: dict[str, int] = {}
    model: str | None = None

    def noted(document: Any) -> Array | Values:
        nonlocal model
        if isinstance(document, dict):
            usage.update(counts(document.get("usage")))
            model = model_of(document.get("model"))
        return convert(document)

    try:
        return DecodedResponse(read(response, noted, keep=keep), usage=usage, model=model)
    except InvalidResponse as error:
        error.usage = usage
        raise


def with_usage_of(response: Response, error: InvalidResponse) -> InvalidResponse:
    """``error`` with the ``usage`` at the end of a large answer, which is not parsed whole."""
    at = response.body.rfind(b'"usage"', -_TAIL)
    text = bytes(response.body[at:]).partition(b":")[2] if at >= 0 else b""
    with suppress(ValueError, RecursionError):
        error.usage = dict(counts(json.JSONDecoder().raw_decode(text.decode().lstrip())[0]))
    return error


def model_of(name: object) -> str | None:
    """The model's name, where it is one."""
    return name if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME else None


def counts(usage: object) -> Iterator[tuple[str, int]]:
    """Every count; those of the objects in it, such as ``completion_tokens_details``, by dotted names."""
    for name, value in _fields(usage):
        for path, count in ((name, value), *((f"{name}.{part}", count) for part, count in _fields(value))):
            if type(count) is int and 0 <= count <= _MOST:
                yield path, count


def _fields(value: object) -> Iterator[tuple[str, Any]]:
    """The first fields of an object whose names are no longer than a name is; none of anything else."""
    fields = islice(value.items(), _MOST_NAMES) if isinstance(value, dict) else iter(())
    return ((name, field) for name, field in fields if len(name) <= _LONGEST_NAME)
