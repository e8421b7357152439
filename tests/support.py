"""A codec small enough to see through, for tests of everything but codecs."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout import Codec, Payload
from fanout.io.journal.records import RecordReader

if TYPE_CHECKING:
    from fanout import Response


class Plain(Codec):
    """``{"instances": rows}`` to ``{"predictions": rows}``; decodes as strictly as numpy does, that is: not at all."""

    name = "plain"
    path = "/v1/models/{model}:predict"

    def encode(self, rows: Any) -> Payload:
        return Payload(body=orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY))

    def decode(self, reply: Response, n_rows: int) -> Any:
        predictions = reply.json()["predictions"]
        if predictions and isinstance(predictions[0], dict):
            return {name: np.array([row[name] for row in predictions]) for name in predictions[0]}
        return np.array(predictions)


def records(data: bytes) -> tuple[list[bytes], int]:
    """The payloads of a journal without a torn end, and the bytes of their records. Raises `Damaged`."""
    reader = RecordReader(BytesIO(data))
    return list(reader), reader.size
