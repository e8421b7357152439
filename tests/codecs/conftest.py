"""A fixture for the tests of codecs: answers without a server."""

from __future__ import annotations

import orjson
import pytest
from multidict import CIMultiDict

from fanout.types import Response


def _reply(body, headers=None, status=200, url="http://host/v2/models/m"):
    raw = body if isinstance(body, bytes) else orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(status=status, headers=CIMultiDict(headers or {}), body=raw, url=url)


@pytest.fixture(scope="session")
def response():
    """A whole answer: bytes as they are, anything else as JSON."""
    return _reply
