"""A refusal that may be the URL's fault names the URL, and the one that was probably meant."""

from __future__ import annotations

import numpy as np
import pytest

import fanout
from fanout.classify.policy import whole_url
from fanout.testing import MockEndpoint, Scripted


@pytest.mark.parametrize(
    ("url", "path", "whole"),
    [
        ("http://h/v1", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/api/v1/", "/v1/embeddings", "http://h/api/v1/embeddings"),
        ("http://h/v1/chat", "/v1/chat/completions", "http://h/v1/chat/completions"),
        ("http://h/v1?key=x", "/v1/embeddings", "http://h/v1/embeddings?key=x"),
        ("http://h/v2", "/v2/models/{model}/infer", "http://h/v2/models/NAME/infer"),
        ("http://h/v2/models/digits", "/v2/models/{model}/infer", "http://h/v2/models/digits/infer"),
        ("http://h/v1/models/digits", "/v1/models/{model}:predict", "http://h/v1/models/digits:predict"),
        ("http://h/v1/chat/completions", "/v1/chat/completions", ""),
        ("http://h/v2/models/digits/infer", "/v2/models/{model}/infer", ""),
        ("http://h/v1/models/digits:predict", "/v1/models/{model}:predict", ""),
        ("http://h/elsewhere", "/v1/embeddings", ""),
        ("http://h/v1", "", ""),
    ],
)
def test_a_base_url_is_completed(url: str, path: str, whole: str) -> None:
    assert whole_url(url, path) == whole


@pytest.mark.parametrize("status", [401, 403, 404, 405, 410])
async def test_the_url_is_in_the_reason(status: int) -> None:
    with MockEndpoint(lambda x: x) as mock:
        mock.script(*[Scripted(status=status, body=b'{"error": "no"}')] * 30)
        url = mock.url("v1").removesuffix(":predict") + "?key=s3cret-key"
        async with fanout.Client(url, codec="v1", chunk_rows=1) as client:
            with pytest.raises(fanout.RunStopped) as caught:
                await client.map(np.arange(3.0))
    shown = url.replace("s3cret-key", "***")
    assert f"HTTP {status}: no (asked at {shown}" in caught.value.reason
    hint = f"set the url to {shown.replace('?', ':predict?')}"
    assert (hint in caught.value.reason) == (status in (404, 405, 410))


async def test_the_url_of_metadata_is_in_the_reason() -> None:
    with MockEndpoint(lambda x: x) as mock:
        mock.script_metadata(*[Scripted(status=401)] * 5)
        async with fanout.Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(fanout.RunStopped) as caught:
                await client.map(np.arange(3.0))
    assert f"asked at {mock.url('oip').removesuffix('/infer')})" in caught.value.reason
