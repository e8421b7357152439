"""What a run is of: by this a journal tells whether the rows that are done are the ones that are wanted now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from fanout.engine import as_rows
from fanout.errors import ConfigError
from fanout.settings import LOCAL
from fanout.sources import Source, as_source
from fanout.types import count_rows

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.types import Array

_SAMPLES = 64


def identity_of(rows: object, codec: Codec, urls: Sequence[str]) -> dict[str, Any]:
    """The rows, the codec with its options, and the path of the URLs; JSON, and no secret is in it.

    Neither the host nor limits nor the size of chunks is part of it: another of these gives the same answers.

    Raises `ConfigError` for rows of an iterator, which nothing tells from others.
    """
    return {"input": _of_rows(rows), "codec": _of_codec(codec), "path": _paths(urls)}


def _of_rows(rows: object) -> Any:
    source = rows if isinstance(rows, Source) else as_source(rows)
    if source is not None:
        return source.fingerprint()
    sized = as_rows(rows)
    if sized is None:
        what = f"rows of a {type(rows).__name__} cannot be told from others"
        raise ConfigError(f"{what}: give the journal an identity of your own", key="journal")
    columns = sized if isinstance(sized, Mapping) else {"": sized}
    digest = blake2b(digest_size=16)
    for name, column in columns.items():
        digest.update(name.encode())
        digest.update(_sample(column))
    return {"rows": count_rows(sized), "sample": digest.hexdigest()}


def _sample(column: Any) -> bytes:
    places = np.unique(np.linspace(0, max(0, len(column) - 1), _SAMPLES).astype(int))[: len(column)]
    if isinstance(column, np.ndarray):
        return f"{column.dtype}{column.shape}".encode() + _bytes_of(column[places])
    return orjson.dumps([column[at] for at in places.tolist()], default=repr, option=orjson.OPT_SERIALIZE_NUMPY)


def _bytes_of(array: Array) -> bytes:
    return repr(array.tolist()).encode() if array.dtype.kind == "T" else array.tobytes()


def _of_codec(codec: Codec) -> dict[str, str]:
    kind = type(codec)
    options = orjson.dumps(codec.options, default=repr, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    # An option may carry a secret, so they are told by their digest alone.
    return {"name": f"{kind.__module__}.{kind.__qualname__}", "options": blake2b(options, digest_size=16).hexdigest()}


def _paths(urls: Sequence[str]) -> str | list[str]:
    paths = sorted({url if url.startswith(LOCAL) else urlsplit(url).path for url in urls})
    return paths[0] if len(paths) == 1 else paths
