"""Statuses to which a single API gives another meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, RetryPolicy
from fanout.testing import MockEndpoint, Scripted
from fanout.types import Response

X = np.arange(12.0, dtype="f4").reshape(4, 3)


def meaning(codec: str, status: int, body: Any) -> object:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return fanout.codec(codec).classify(Response(status=status, headers={}, body=raw))


@pytest.mark.parametrize(
    ("codec", "status", "body", "wanted"),
    [
        ("json", 424, {"OriginalStatusCode": 400, "OriginalMessage": "bad row"}, 400),
        ("v1", 424, {"OriginalStatusCode": 503}, 503),
        ("json", 424, {"OriginalStatusCode": "400"}, None),
        ("json", 424, {"OriginalStatusCode": 200}, None),
        ("json", 424, b"<html>", None),
        ("json", 424, [1], None),
        ("json", 400, {"OriginalStatusCode": 503}, None),
        ("openai-embeddings", 424, {"error": "backend", "error_type": "Backend"}, 500),
        ("openai-embeddings", 429, {}, None),
        ("oip", 500, {"error": "failed to parse the request JSON buffer: Invalid value. at 3"}, 400),
        ("oip", 500, {"error": "[request id: 1] unexpected shape for input 'x' for model 'm'"}, 400),
        ("oip", 500, {"error": "Failed to process the request(s), message: ValueError"}, None),
        ("oip", 503, {"error": "Exceeds maximum queue size"}, None),
    ],
)
def test_a_status_is_read_as_its_api_means_it(codec: str, status: int, body: Any, wanted: int | None) -> None:
    assert meaning(codec, status, body) == wanted


@pytest.mark.virtual_time
async def test_a_wrapped_400_is_split_and_a_wrapped_503_is_retried() -> None:
    wrapped = {code: Scripted(status=424, body=b'{"OriginalStatusCode": %d}' % code) for code in (400, 503)}
    with MockEndpoint(lambda x: x * 2) as mock:
        mock.script(wrapped[400], None, None, wrapped[503], None)
        async with Client(mock.url("v1"), codec="v1", retry=RetryPolicy(max_attempts=2)) as client:
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().splits == 1
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().retries == 1
