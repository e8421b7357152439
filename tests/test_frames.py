"""Answers as tables, and tables in and out: each row of the result has the answer to its own row."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

import fanout
from fanout.errors import ConfigError
from fanout.frames import with_answers
from fanout.results import Failure, Result, Statistics
from fanout.types import Chunk

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")

TEXTS = np.dtypes.StringDType()
OUTPUTS = {
    "label": np.array([1, 0, 2**60 + 1, 0]),
    "p": np.array([0.5, np.nan, 1, np.nan], "f4"),
    "text": np.array(["a", "", "ü", ""], TEXTS),
    "vector": np.arange(8.0).reshape(4, 2),
    "matrix": np.arange(16, dtype="i4").reshape(4, 2, 2),
    "flag": np.array([True, False, False, False]),
    "ok": np.array([1, 0, 2, 0]),
}


def outcome(outputs: dict[str, Any] | None = None) -> Result:
    failure = Failure(start=1, stop=2, reason="HTTP 422: <b>no</b>", status=422, attempts=1, endpoint="http://h/")
    ok = np.array([True, False, True, False])
    chosen = OUTPUTS if outputs is None else outputs
    return Result(outputs=chosen, ok=ok, failures=(failure,), pending=(Chunk(3, 4),), stats=Statistics())


def test_a_result_becomes_an_arrow_table_with_nulls_and_reasons() -> None:
    table = outcome().to_arrow()
    names = ["index", "label", "p", "text", "vector", "matrix", "flag", "ok_", "ok", "reason"]
    assert table.column_names == names
    rows = table.to_pylist()
    assert rows[2] == {
        "index": 2, "label": 2**60 + 1, "p": 1.0, "text": "ü", "vector": [4.0, 5.0], "matrix": [[8, 9], [10, 11]],
        "flag": False, "ok_": 2, "ok": True, "reason": None,
    }  # fmt: skip
    for row, reason in ((1, "HTTP 422: <b>no</b>"), (3, "no answer: the run was stopped")):
        assert [rows[row][name] for name in names[1:8]] == [None] * 7
        assert (rows[row]["ok"], rows[row]["reason"]) == (False, reason)


def test_a_column_with_more_numbers_than_32_bits_count_has_large_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = outcome().to_arrow()
    monkeypatch.setattr("fanout.arrow._MOST_LISTED", 3)
    large = outcome().to_arrow()
    assert large.to_pylist() == usual.to_pylist()
    assert [pa.types.is_large_list(large.schema.field(name).type) for name in ("vector", "matrix")] == [True, True]
    assert pl.from_arrow(large)["vector"].to_list() == [[0.0, 1.0], None, [4.0, 5.0], None]


def test_matrices_without_a_column_stay_empty() -> None:
    table = outcome({"m": np.empty((4, 2, 0))}).to_arrow()
    assert table["m"].to_pylist() == [[[], []], None, [[], []], None]


def test_a_frame_of_pandas_keeps_integers_exact() -> None:
    frame = outcome().to_pandas()
    assert frame["label"].tolist()[2] == 2**60 + 1
    assert frame["label"].isna().tolist() == frame["text"].isna().tolist() == [False, True, False, True]
    assert frame["flag"][0]
    assert frame["vector"][2].tolist() == [4.0, 5.0]
    assert frame["vector"][1] is None


def test_a_frame_of_polars_has_the_same_rows() -> None:
    frame = outcome().to_polars()
    assert frame["label"].to_list() == [1, None, 2**60 + 1, None]
    assert frame["index"].to_list() == [0, 1, 2, 3]


def test_a_result_without_any_answer_has_its_reasons() -> None:
    result = outcome()
    empty = Result(outputs=None, ok=result.ok, failures=result.failures, pending=result.pending, stats=result.stats)
    assert empty.to_arrow().column_names == empty.to_pandas().columns.tolist() == ["index", "ok", "reason"]


def test_notebooks_show_counts_and_escaped_failures() -> None:
    html = outcome()._repr_html_()
    assert "<td>4</td><td>2</td><td>1</td><td>1</td>" in html
    assert "HTTP 422: &lt;b&gt;no&lt;/b&gt;" in html
    assert "<b>" not in html


COLUMNS = {"id": [7, 8, 9], "text": ["a", "bb", "ccc"], "error": ["x", "y", "z"]}


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
async def test_a_table_comes_back_with_its_answers(library: str) -> None:
    frame: Any = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library](COLUMNS)
    if library == "pandas":
        frame.index = [30, 10, 10]
    codec = fanout.codec("json", request={"texts": "{{rows}}"}, answers="answers")
    async with fanout.Client("http://host/score", codec=codec, transport=_Scores()) as client:
        scored = await client.map_frame(frame, columns="text", keep=["id", "error"])
        whole = await client.map_frame(frame, columns="text")
        with pytest.raises(ConfigError, match="the frame has no column 'ids'; it has 'id', 'text', 'error'"):
            await client.map_frame(frame, columns="text", keep=["ids"])
    assert type(scored) is type(frame)
    names = list(scored.columns if library != "pyarrow" else scored.column_names)
    assert names == ["id", "error", "value", "error_"]
    values = scored["value"].to_pylist() if library == "pyarrow" else list(scored["value"])
    assert values == [1.0, 2.0, 3.0]
    assert list(whole.columns if library != "pyarrow" else whole.column_names)[:3] == list(COLUMNS)
    if library == "pandas":
        assert scored.index.tolist() == [30, 10, 10]


def test_no_column_takes_the_place_of_another() -> None:
    """Neither an output called as the reasons are beside a kept ``error``, nor one called as an output without name."""
    outputs = {"": np.arange(4), "value": np.arange(4, 8), "error": np.arange(8, 12), "error_": np.arange(12, 16)}
    result = outcome(outputs)
    scored = with_answers(pa.table({"error": list("abcd")}), "*", result)
    assert scored.column_names == ["error", "value_", "value", "error__", "error___", "error_"]
    assert scored.slice(0, 1).to_pylist() == [
        {"error": "a", "value_": 0, "value": 4, "error__": 8, "error___": 12, "error_": None}
    ]
    assert result.to_arrow().column_names == ["index", "value_", "value", "error", "error_", "ok", "reason"]


class _Scores:
    """A transport that answers with the length of each text."""

    async def send(self, request: Any) -> fanout.Response:
        texts = orjson.loads(
            b"".join(bytes(part) for part in ([request.body] if isinstance(request.body, bytes) else request.body))
        )["texts"]
        body = orjson.dumps({"answers": [len(text) for text in texts]})
        return fanout.Response(status=200, headers={}, body=body)

    async def close(self) -> None:
        return


def test_what_is_no_table_is_refused() -> None:
    with fanout.SyncClient("http://host/score", codec="json") as client, pytest.raises(ConfigError, match="not list"):
        client.map_frame([1, 2], columns="text")


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (pd.Series([1.0], name="x"), {}, r"not a Series: send series\.to_frame\(\)"),
        (pl.Series("x", [1.0]), {}, r"not a Series: send series\.to_frame\(\)"),
        (pl.LazyFrame({"x": [1.0]}), {"columns": "x"}, r"not a LazyFrame: send frame\.collect\(\)"),
        (pd.DataFrame({"x": [1.0]}), {"keep": None}, "the frame has no column None; it has 'x'"),
        (pd.DataFrame({"x": [1.0]}), {"columns": 0}, "the frame has no column 0; it has 'x'"),
        (pa.Table.from_arrays([[1.0], [2.0]], ["x", "x"]), {"columns": "x"}, "has 2 columns 'x': rename all but one"),
    ],
)
def test_foreseeable_mistakes_with_frames_are_explained(frame: Any, options: dict[str, Any], message: str) -> None:
    with fanout.SyncClient("http://host/score", codec="json") as client, pytest.raises(ConfigError, match=message):
        client.map_frame(frame, **options)


@pytest.mark.parametrize("library", ["pandas", "pyarrow"])
async def test_columns_that_are_not_sent_may_share_a_name(library: str) -> None:
    names, columns = ["a", "a", "text"], [[1], [2], ["bb"]]
    codec = fanout.codec("json", request={"texts": "{{rows}}"}, answers="answers")
    frame = pa.Table.from_arrays(columns, names)
    async with fanout.Client("http://host/score", codec=codec, transport=_Scores()) as client:
        given = frame if library == "pyarrow" else frame.to_pandas()
        scored = await client.map_frame(given, columns="text")
    assert fanout.frames.column_names(scored) == [*names, "value", "error"]
    assert list(scored.iloc[0] if library == "pandas" else [c[0].as_py() for c in scored.columns])[:4] == [
        1,
        2,
        "bb",
        2,
    ]


@pytest.mark.parametrize("library", [pd.DataFrame, pl.DataFrame, pa.table])
async def test_a_column_that_is_named_twice_is_kept_once(library: Any) -> None:
    codec = fanout.codec("json", request={"texts": "{{rows}}"}, answers="answers")
    async with fanout.Client("http://host/score", codec=codec, transport=_Scores()) as client:
        scored = await client.map_frame(library(COLUMNS), columns="text", keep=["id", "id"])
    assert fanout.frames.column_names(scored) == ["id", "value", "error"]


async def test_a_numbered_column_of_pandas_is_sent_by_its_number() -> None:
    codec = fanout.codec("json", request={"texts": "{{rows}}"}, answers="answers")
    async with fanout.Client("http://host/score", codec=codec, transport=_Scores()) as client:
        scored = await client.map_frame(pd.DataFrame([["a", 1], ["bb", 2]]), columns=0, keep=1)
    assert scored.to_dict("list") == {1: [1, 2], "value": [1.0, 2.0], "error": [None, None]}


def test_a_stream_without_a_length_is_refused_with_the_remedy() -> None:
    stream = pa.table({"text": ["a"]}).to_reader()
    with (
        fanout.SyncClient("http://host/score", codec="json") as client,
        pytest.raises(ConfigError, match="read only once"),
    ):
        client.map_frame(stream, columns="text")
