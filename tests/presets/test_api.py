"""`fanout.preset` and a client that uses one."""

from __future__ import annotations

import numpy as np
import orjson
import pytest

import fanout
from fanout import ConfigError, Endpoint, Limits, Timeouts, UnknownOptionError
from fanout.types import Response
from tests.presets.mock_api import EmbeddingsTransport

AZURE = "azure-openai-embeddings"


async def test_a_client_sends_to_the_preset_s_path_and_its_own_settings_win():
    transport = EmbeddingsTransport()
    preset = fanout.preset(AZURE, deployment="d")
    auth = preset.auth(token="secret-key")
    async with fanout.Client("https://r.example", codec=preset, auth=auth, transport=transport, chunk_rows=1) as client:
        result = await client.map(["a"])
    assert result.tolist() == [[0, 1]]
    (request,) = transport.requests
    assert request.url == "https://r.example/openai/deployments/d/embeddings?api-version=2024-10-21"
    assert request.headers["api-key"] == "secret-key"


async def test_the_settings_of_a_preset_hold_where_the_client_has_none(tmp_path):
    (tmp_path / "own.toml").write_text(
        '[codec]\n[headers]\nx-a = "1"\nX-B = "2"\n[chunks]\nrows = 3\n[timeouts]\nattempt = 7.0\n'
        "[limits]\nconcurrency = 2\n"
    )
    preset = fanout.preset(tmp_path / "own.toml")
    assert (preset.chunks.rows, preset.timeouts.attempt, preset.limits.concurrency) == (3, 7.0, 2)
    assert preset.endpoint(Endpoint(url="http://h/x", headers={"X-A": "own"})).headers == {"X-B": "2", "X-A": "own"}
    seen = []

    class Doubling:
        async def send(self, request):
            seen.append(request)
            rows = np.array(orjson.loads(request.joined())["instances"])
            return Response(status=200, headers={}, body=b'{"predictions":%s}' % str((2 * rows).tolist()).encode())

    async with fanout.Client("http://h", codec=preset, transport=Doubling()) as client:
        assert (await client.map(np.arange(7.0))).tolist() == [0, 2, 4, 6, 8, 10, 12]
        assert client.statistics().max_in_flight <= 2
    assert len(seen) == 3
    assert seen[0].headers["X-B"] == "2"
    limits, timeouts = Limits(concurrency=5), Timeouts(attempt=9)
    async with fanout.Client(
        "http://h", codec=preset, transport=Doubling(), limits=limits, timeouts=timeouts, chunk_rows=7
    ) as client:
        await client.map(np.arange(7.0))
    assert len(seen) == 4


def test_two_urls_that_are_one_with_the_path_are_refused():
    preset = fanout.preset(AZURE, deployment="d")
    with pytest.raises(ConfigError, match="an endpoint is given twice"):
        fanout.Client(["https://r.example", "https://r.example/openai"], codec=preset)


def test_a_wrong_option_names_the_preset_and_the_nearest_option(tmp_path):
    with pytest.raises(ConfigError, match=r"deployment is missing: Name of .*\(preset 'azure-openai-embeddings'\)"):
        fanout.preset(AZURE)
    with pytest.raises(UnknownOptionError, match=r"has no option 'dimension' \(did you mean 'dimensions'\?\)"):
        fanout.preset(AZURE, deployment="d", dimension=3)
    with pytest.raises(ConfigError, match="dimensions must be a whole number, 1 or more"):
        fanout.preset(AZURE, deployment="d", dimensions=0)
    (tmp_path / "own.toml").write_text("[codec]\n[chunks]\nrows = 0\n")
    with pytest.raises(ConfigError, match=r"preset '.*own\.toml': chunks.rows must be at least 1") as error:
        fanout.preset(tmp_path / "own.toml")
    assert error.value.key == "chunks.rows"


def test_the_repr_shows_no_option():
    shown = repr(fanout.preset(AZURE, deployment="d", dimensions=12345))
    assert shown == "<Preset 'azure-openai-embeddings' /openai/deployments/d/embeddings?api-version=2024-10-21>"
