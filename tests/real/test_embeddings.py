"""infinity with all-MiniLM-L6-v2: the vectors of the model itself, through a queue that overflows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits

if TYPE_CHECKING:
    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]
MODEL = "all-MiniLM-L6-v2"
TEXTS = [
    f"{what} number {i}, which {does}"
    for i in range(50)
    for what in ("a cat", "the train")
    for does in ("sleeps", "is läte")
]


def codec(**options: object) -> fanout.Codec:
    return fanout.codec("openai-embeddings", **{"model": MODEL, **options})


@pytest.fixture(scope="module")
def direct(embeddings: Real) -> np.ndarray:
    """The vectors that the model makes when it is called directly."""
    return embeddings.ask_peer("minilm.py", texts=np.array(TEXTS))["vectors"]


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
async def test_vectors_are_those_of_the_model_called_directly(
    embeddings: Real, direct: np.ndarray, encoding_format: str
) -> None:
    async with Client(embeddings.url, codec=codec(encoding_format=encoding_format), chunk_rows=32) as client:
        vectors = await client.map(TEXTS)
    assert (vectors.dtype, vectors.shape) == (np.dtype("f4"), (200, 384))
    assert np.abs(vectors - direct).max() < 1e-4


async def test_every_429_of_a_full_queue_is_absorbed(embeddings: Real, direct: np.ndarray) -> None:
    async with Client(embeddings.url, codec=codec(), chunk_rows=4, limits=Limits(concurrency=40)) as client:
        vectors = await client.map(TEXTS)
        assert client.statistics().retries > 0, "there were 429s"
    assert np.abs(vectors - direct).max() < 1e-4


async def test_more_texts_than_the_server_takes_are_cut_and_not_quoted(embeddings: Real) -> None:
    class Untold(fanout.codecs.OpenAIEmbeddings):
        max_rows = None  # type: ignore[assignment]

    events: list[Any] = []
    many = [f"secret {i}" for i in range(2100)]
    async with Client(embeddings.url, codec=Untold(), chunk_rows=2100, on_event=events.append) as client:
        vectors = await client.map(many)
        stats = client.statistics()
    assert vectors.shape == (2100, 384)
    assert (stats.splits, stats.requests) == (1, 3)
    (split,) = [event for event in events if event.kind == "split"]
    assert "HTTP 422" in split.reason
    assert "secret" not in split.reason
    assert len(split.reason) < 500


async def test_the_name_of_the_model_means_nothing_to_infinity(embeddings: Real, direct: np.ndarray) -> None:
    """It answers 200 with its one model, so a mistyped name cannot be noticed."""
    async with Client(embeddings.url, codec=codec(model="no-such-model")) as client:
        assert np.abs(await client.map(TEXTS[:8]) - direct[:8]).max() < 1e-4
