"""The server's side of a JSON format: rows out of a request, answers into a reply."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import orjson

from fanout.errors import ConfigError

_PART = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[\*?\])?")
BODY = "@"


def rows_in(body: bytes, field: str) -> Any:
    """The rows of a request: an array where they are numbers of one shape, else a list."""
    found = orjson.loads(body)
    for name in () if field == BODY else field.split("."):
        found = found[name]
    try:
        array = np.array(found)
    except ValueError:  # of unequal length
        return found
    return array if array.dtype.kind in "biuf" else found


def placed(answers: bytes, field: str) -> bytes:
    """A body in which the JMESPath ``field`` finds the list ``answers``.

    Raises `ConfigError` unless the path is one of names (``a.b``) with one list in it at most (``a[].b``).
    """
    if field == BODY:
        return answers
    parts = [_PART.fullmatch(part) for part in field.split(".")]
    if not all(parts) or sum(bool(part and part[2]) for part in parts) > 1:
        raise ConfigError(
            f"response_field {field!r} is more than names and one list, such as data[].score: what a server would "
            "answer cannot be told from it",
            key="response_field",
        )
    made: Any = orjson.loads(answers)
    depth = next((i for i, part in enumerate(parts) if part and part[2]), -1)
    for i, part in reversed(list(enumerate(parts))):
        assert part is not None
        made = {part[1]: made} if i <= depth or depth < 0 else [{part[1]: item} for item in made]
    return orjson.dumps(made)
