"""Triton: the same answers as tritonclient gets, and its ways of saying no."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest

import fanout
from fanout import Client, Limits

if TYPE_CHECKING:
    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]
RNG = np.random.default_rng(0)
N = 300
ROWS = {
    "upper": {"text": np.array([f"tëxt {i} " * (i % 4) for i in range(N)])[:, None]},
    "parts": {
        "image": RNG.random((N, 8, 8), dtype="f4"),
        "scale": RNG.random((N, 1), dtype="f4"),
        "label": np.array([f"läbel {i}" for i in range(N)])[:, None],
        "flag": RNG.random((N, 1)) > 0.5,
    },
    "half": {"x": RNG.random((N, 7)).astype("f2")},
    "unbatched": {"x": RNG.random((N, 3), dtype="f4")},
}


def oip(**options: object) -> fanout.Codec:
    return fanout.codec("oip", **options)


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Element for element, dtype for dtype; texts are texts."""
    assert ours.shape == theirs.shape
    if theirs.dtype.kind == "U":
        assert ours.dtype.kind == "T"
        assert ours.tolist() == theirs.tolist()
    else:
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("binary", [True, False])
async def test_digits_in_chunks_of_500_to_a_model_that_takes_256(
    triton: Real, images: np.ndarray, binary: bool
) -> None:
    async with Client(triton.infer("digits"), codec=oip(binary=binary), chunk_rows=500) as client:
        ours = await client.map(images)
        stats = client.statistics()
    theirs = triton.ask_peer("triton.py", "digits", "256", str(binary), features=images)
    assert_same(ours, theirs["probs"])
    assert (len(ours), stats.splits, stats.retries) == (1797, 0, 0)
    assert stats.requests == 2 + 8, "the bound was learnt, not found out"


@pytest.mark.parametrize(
    ("model", "binary"),
    [("upper", True), ("upper", False), ("parts", True), ("parts", False), ("half", True), ("unbatched", True)],
)
async def test_every_datatype_is_answered_as_tritonclient_is(triton: Real, model: str, binary: bool) -> None:
    rows = ROWS[model]
    async with Client(triton.infer(model), codec=oip(binary=binary), chunk_rows=64) as client:
        answer = await client.map(rows)
    theirs = triton.ask_peer("triton.py", model, "64", str(binary), **rows)
    ours = answer if isinstance(answer, dict) else dict.fromkeys(theirs, answer)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert_same(ours[name], theirs[name])


async def test_some_of_several_outputs_can_be_asked_for(triton: Real) -> None:
    async with Client(triton.infer("parts"), codec=oip(outputs=["total", "named"])) as client:
        answer = await client.map(ROWS["parts"])
    assert list(answer) == ["total", "named"]
    assert_same(answer["total"], np.rint(ROWS["parts"]["image"].sum(axis=(1, 2))).astype("i8")[:, None])


async def test_a_batch_that_is_too_large_is_cut_if_the_bound_is_not_reported(triton: Real, images: np.ndarray) -> None:
    class Untold(fanout.codecs.Oip):
        """As if a gateway hid the configuration."""

        max_rows = property(lambda self: None, lambda self, value: None)

    async with Client(triton.infer("digits"), codec=Untold(), chunk_rows=500, limits=Limits(concurrency=1)) as client:
        result = await client.map(images, on_error="keep")
        splits = client.statistics().splits
    assert 1 <= splits <= 2, "the first, perhaps the one behind it; the others are cut to the size that was found"
    assert result.ok.all()


async def test_a_queue_of_two_costs_no_row(triton: Real, images: np.ndarray) -> None:
    async with Client(triton.infer("slow"), codec="oip", chunk_rows=1) as client:
        sums = await client.map(images[:64])
        assert client.statistics().retries > 0, "there were 503s"
    assert np.allclose(sums, images[:64].sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
async def test_a_nan_fails_its_row_or_is_kept(triton: Real, binary: bool) -> None:
    rows = RNG.random((N, 3), dtype="f4") + 0.5
    rows[37, 1] = -1
    async with Client(triton.infer("logarithm"), codec=oip(binary=binary)) as client:
        result = await client.map(rows, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [37]
    assert "NaN" in result.failures[0].reason
    async with Client(triton.infer("logarithm"), codec=oip(binary=binary, nonfinite="keep")) as client:
        kept = await client.map(rows)
    assert np.argwhere(np.isnan(kept)).tolist() == [[37, 1]]
    assert np.array_equal(kept[result.ok], result.values[result.ok])


async def test_a_500_for_one_row_fails_that_row_in_the_models_own_words(triton: Real, images: np.ndarray) -> None:
    rows = images.copy()
    rows[700, 0] = -1
    async with Client(triton.infer("picky"), codec="oip") as client:
        result = await client.map(rows, on_error="keep")
    assert np.flatnonzero(~result.ok).tolist() == [700]
    assert result.failures[0].status == 500
    assert "ValueError: the model cannot work with a negative first feature" in result.failures[0].reason


def cut_short(body: bytes) -> bytes:
    return body[:-3]


def of_another_shape(body: bytes) -> bytes:
    document = orjson.loads(body)
    document["inputs"][0]["shape"][0] += 1
    return orjson.dumps(document)


@pytest.mark.parametrize("spoil", [cut_short, of_another_shape])
async def test_a_request_that_cannot_be_read_is_not_sent_again(triton: Real, images: np.ndarray, spoil) -> None:
    """Triton answers 500, but it is the request that is wrong: no retry, and the run is stopped in its words."""

    class Wrong(fanout.codecs.Oip):
        def encode(self, rows):
            return fanout.Payload(body=spoil(super().encode(rows).body))

    async with Client(triton.infer("digits"), codec=Wrong(binary=False)) as client:
        with pytest.raises(fanout.RunStopped, match=r"accepts no row at all.*HTTP 500: .*(parse|shape)"):
            await client.map(images[:64])
        assert client.statistics().requests < 20


async def test_no_rows_make_no_request(triton: Real) -> None:
    async with Client(triton.infer("digits"), codec="oip") as client:
        assert (await client.map(np.zeros((0, 64), "f4"))).shape == (0,)
        assert client.statistics().requests == 0
