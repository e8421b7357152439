"""A preview describes the model and the first request before any row is sent, and refuses rows of a wrong form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fanout
from fanout import Client, InputError, RetryPolicy, RunStopped
from fanout.serving.models import Model
from fanout.testing import MockEndpoint
from fanout.types import ModelInfo, Tensor

pytestmark = pytest.mark.virtual_time
X = np.arange(30, dtype="f4").reshape(10, 3)
Y_TENSOR = Tensor(name="y", datatype="FP32", shape=(-1, 3))


def double(x: Any) -> np.ndarray:
    return np.asarray(x) * 2


def described(datatype: str = "FP32", shape: tuple[int, ...] = (-1, 3)) -> Model:
    return Model(
        name="m",
        function=double,
        inputs=(Tensor(name="x", datatype=datatype, shape=shape),),
        outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 3)),),
        max_batch_size=4,
    )


async def test_a_preview_describes_the_model_and_the_first_request_and_sends_no_row() -> None:
    with MockEndpoint(described()) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            preview = await client.preview(X.astype("f8"))
            assert mock.requests == []
            assert np.array_equal(await client.map(X), X * 2)
            assert client.statistics().requests == 2 + 3, "the model is asked once"
    x = Tensor(name="x", datatype="FP32", shape=(-1, 3))
    assert preview.model == ModelInfo(name="m", platform="fanout", versions=("1",), inputs=(x,), outputs=(Y_TENSOR,))
    assert (preview.max_rows, preview.chunk_rows) == (4, 4)
    assert preview.tensors == (Tensor(name="x", datatype="FP32", shape=(4, 3)),)
    assert preview.body_bytes == len(mock.requests[0].body)


@pytest.mark.parametrize(
    ("codec", "max_rows", "chunk_rows", "body"),
    [
        ("json", None, 7, b'{"instances":["a","b"]}'),
        ("openai-chat", 1, 1, b'{"messages":[{"role":"user","content":"a"}]}'),
    ],
)
async def test_codecs_without_metadata_give_a_preview_too(
    codec: str, max_rows: int | None, chunk_rows: int, body: bytes
) -> None:
    with MockEndpoint(double) as mock:
        async with Client(mock.url(codec), codec=codec, chunk_rows=7) as client:
            preview = await client.preview(["a", "b"])
    assert (preview.model, preview.max_rows, preview.chunk_rows, preview.tensors) == (None, max_rows, chunk_rows, ())
    assert preview.body_bytes == len(body)


async def test_a_preview_leaves_out_rows_that_fail_alone() -> None:
    with MockEndpoint(described()) as mock:
        async with Client(mock.url("oip"), codec=fanout.codec("oip", binary=False)) as client:
            some = await client.preview(np.array([[1, np.nan, 1], [1, 2, 3]]))
            none = await client.preview(np.full((2, 3), np.nan))
    assert some.tensors[0].shape == (1, 3)
    assert (none.tensors, none.body_bytes) == ((), None)


async def test_an_unreachable_endpoint_stops_a_preview() -> None:
    with MockEndpoint(described()) as mock:
        mock.script_metadata(*[503] * 5)
        async with Client(mock.url("oip"), codec="oip", retry=RetryPolicy(max_attempts=2)) as client:
            with pytest.raises(RunStopped, match="503") as caught:
                await client.preview(X)
    assert caught.value.kind == "metadata"


MISFITS = [
    (X[:, :2], r"'x' of the model wants FP32 rows of shape \[3\], but was given float32 numbers, rows of shape \[2\]"),
    (X.reshape(10, 3, 1), r"reshape them first, with \.reshape\(-1, 3\)"),
    (np.array(["a"] * 10), "texts, single values a row: give it numbers"),
    ({"z": X}, "the rows have an input 'z': the model has x"),
    ([[1.0, 2.0]] * 10, r"rows of shape \[2\]"),
    (["a"] * 10, "give it numbers"),
]


@pytest.mark.parametrize(("rows", "match"), MISFITS)
async def test_rows_that_the_model_does_not_take_are_refused_as_a_whole(rows: Any, match: str) -> None:
    with MockEndpoint(described()) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(InputError, match=match):
                await client.preview(rows)
    assert mock.requests == []


@pytest.mark.parametrize(("rows", "match"), [misfit for misfit in MISFITS if not isinstance(misfit[0], list)])
async def test_an_array_that_the_model_does_not_take_is_refused_before_its_first_row_is_sent(
    rows: Any, match: str
) -> None:
    with MockEndpoint(described()) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(InputError, match=match):
                await client.map(rows, on_error="keep")
    assert mock.requests == []


async def test_floats_for_an_integer_model_are_refused_with_the_remedy() -> None:
    with MockEndpoint(described("INT64")) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            with pytest.raises(InputError, match=r"wants INT64 .* float64 numbers.*\.astype\('int64'\)"):
                await client.map(X.astype("f8"))
    assert mock.requests == []


@pytest.mark.parametrize("chunk_rows", [1, 2, 4])
async def test_of_rows_that_came_one_by_one_a_misfit_fails_alone(chunk_rows: int) -> None:
    rows: list[Any] = [list(map(float, row)) for row in X]
    rows[3], rows[6], rows[8] = [1.0, 2.0], "text", np.zeros(5)
    with MockEndpoint(described()) as mock:
        async with Client(mock.url("oip"), codec="oip", chunk_rows=chunk_rows) as client:
            listed = await client.map(rows, on_error="keep")
            streamed = []
            async with client.stream(row if isinstance(row, str) else np.array(row) for row in rows) as results:
                streamed = [done async for done in results]
    assert np.flatnonzero(~listed.ok).tolist() == [3, 6, 8]
    assert np.array_equal(listed.values[listed.ok], 2 * X[listed.ok])
    failed = sorted(row for done in streamed for row in done.start + np.flatnonzero(~done.ok))
    assert failed == [3, 6, 8]


async def test_a_form_that_rows_have_only_together_fails_only_those_that_have_it_alone() -> None:
    """[1, 2.5, 3] make float64, which INT64 does not take; 1 and 3 do."""
    model = Model(name="m", function=double, inputs=(Tensor(name="x", datatype="INT64", shape=(-1,)),))
    with MockEndpoint(model) as mock:
        async with Client(mock.url("oip"), codec="oip") as client:
            result = await client.map([1, 2.5, 3], on_error="keep")
    assert result.ok.tolist() == [True, False, True]
    assert result.values[result.ok].tolist() == [2, 6]
