"""Batches through one client a process, into columns of a declared schema."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

import fanout
from fanout.cluster.batches import BatchMapper, BatchSettings, rows_of
from fanout.codecs.json import Json
from fanout.testing import Background
from tests.jobs import JOB, doubling, write_job

__all__ = ["write_job"]

OUTPUTS = {"y": ("float32", ())}


@pytest.fixture
def doubler_aside():
    with Background(doubling()) as model:
        yield model


@pytest.fixture
def mapper_of():
    """Makes mappers that share a flag, and closes them."""
    mappers: list[BatchMapper] = []
    reasons: list[str] = []

    def make(settings: BatchSettings) -> BatchMapper:
        mapper = BatchMapper(settings, lambda: reasons[0] if reasons else "", reasons.append)
        mappers.append(mapper)
        return mapper

    yield make
    for mapper in mappers:
        mapper.close()


def settings_of(url: str, outputs=OUTPUTS, **options) -> BatchSettings:
    options = {"endpoint": url, "codec": "json", "chunk_rows": 4, **options}
    return pickle.loads(pickle.dumps(BatchSettings.of(options, outputs, 2)))


def test_answers_are_columns_of_the_declared_form(doubler_aside, mapper_of) -> None:
    rows = np.arange(10.0)
    rows[[3, 7]] = -1
    columns = mapper_of(settings_of(doubler_aside.url))(rows, 10)
    assert list(columns) == ["y", "ok", "reason"]
    assert columns["y"].dtype == np.float32
    assert columns["ok"].tolist() == [i not in (3, 7) for i in range(10)]
    np.testing.assert_array_equal(columns["y"][columns["ok"]], 2 * rows[columns["ok"]])
    assert np.isnan(columns["y"][3])
    assert "a row is below 0" in columns["reason"][3]
    assert columns["reason"][0] == ""


def test_the_schema_stays_where_a_whole_batch_fails(doubler_aside, mapper_of) -> None:
    outputs = {"v": ("float32", (3,)), "n": ("int64", ()), "t": ("str", ()), "b": ("bool", ())}
    columns = mapper_of(settings_of(doubler_aside.url, outputs))(np.full(5, -1.0), 5)
    assert {name: (column.dtype.str, column.shape) for name, column in columns.items()} == {
        "v": ("<f4", (5, 3)), "n": ("<i8", (5,)), "t": ("|O", (5,)), "b": ("|b1", (5,)),
        "ok": ("|b1", (5,)), "reason": ("|O", (5,)),
    }  # fmt: skip
    assert not columns["ok"].any()
    assert columns["t"].tolist() == [""] * 5


def test_a_stop_keeps_what_was_paid_for_and_stops_the_others(doubler_aside, mapper_of) -> None:
    settings = settings_of(doubler_aside.url, limits=fanout.Limits(concurrency=2))
    one, other = mapper_of(settings), mapper_of(settings)

    async def refuse(number: int) -> None:
        doubler_aside.status = 401 if number > 2 else 200

    doubler_aside.before_answer = refuse
    columns = one(np.arange(40.0), 40)
    assert columns["ok"].sum() == 8
    assert columns["reason"][~columns["ok"]][0].startswith("not sent, because the run was stopped: ")
    before = doubler_aside.requests
    columns = other(np.arange(40.0), 40)
    assert doubler_aside.requests == before
    assert not columns["ok"].any()
    assert "401" in columns["reason"][0]


def test_answers_of_another_form_are_an_error(doubler_aside, mapper_of) -> None:
    for outputs, problem in [
        ({"y": ("float32", (2,))}, r"declares <f4 \[2\], and the answers are float64 \[\]"),
        ({"y": ("int64", ())}, "declares <i8"),
        ({"y": ("str", ())}, "declares str"),
    ]:
        with pytest.raises(fanout.ConfigError, match=problem):
            mapper_of(settings_of(doubler_aside.url, outputs))(np.arange(4.0), 4)


@pytest.mark.parametrize(
    ("answer", "dtype", "declared", "value"),
    [
        (300, "int64", "int8", "300"),
        (-1, "int64", "uint16", "-1"),
        (2**63 + 5, "uint64", "int64", "9223372036854775813"),
        (2**24 + 1, "int64", "float32", "16777217"),
        (1e300, "float64", "float32", r"1e\+300"),
    ],
)
def test_a_number_that_the_declared_dtype_does_not_hold_is_an_error(
    doubler_aside, mapper_of, answer, dtype, declared, value
) -> None:
    doubler_aside.answer = lambda rows: [answer for _ in rows]
    settings = settings_of(doubler_aside.url, {"y": (declared, ())}, codec=Json(dtype=dtype))
    with pytest.raises(fanout.ConfigError, match=rf"declares .*, which does not hold {value}"):
        mapper_of(settings)(np.arange(4.0), 4)


def test_a_job_file_gives_the_client(doubler_aside, mapper_of, write_job) -> None:
    file = write_job(url=doubler_aside.url, text=JOB + "[limits]\nconcurrency = 7\nrows_per_second = 1e6\n")
    settings = BatchSettings.of(file, OUTPUTS, 3)
    assert settings.target == str(file)
    columns = mapper_of(settings)(np.arange(5.0), 5)
    np.testing.assert_array_equal(columns["y"], 2 * np.arange(5.0))


def test_workers_divide_the_limits(write_job) -> None:
    limits = fanout.Limits(concurrency=7, requests_per_second=9.0, max_tokens_total=300)
    settings = BatchSettings.of({"endpoint": "http://h/", "codec": "json", "limits": limits}, OUTPUTS, 3)
    share = settings.share(limits)
    assert (share.concurrency, share.requests_per_second, share.max_tokens_total) == (2, 3.0, 100)
    assert BatchSettings.of({"endpoint": "http://h/", "codec": "json", "limits": limits}, OUTPUTS, 30).workers == 7


@pytest.mark.parametrize(
    ("target", "outputs", "problem"),
    [
        ({"codec": "json"}, OUTPUTS, "need endpoint and codec"),
        ({"endpoint": "http://h/", "codec": "json"}, {}, "outputs needs a name"),
        ({"endpoint": "http://h/", "codec": "json"}, {"ok": ("bool", ())}, "not ok or reason"),
        ({"endpoint": "http://h/", "codec": "json"}, {"y": "float32"}, r'outputs\["y"\] must be \(dtype, shape\)'),
        ({"endpoint": "http://h/", "codec": "json", "limits": fanout.Limits(max_requests=5)}, OUTPUTS, "use max_cost"),
    ],
)
def test_arguments_are_checked_on_the_driver(target, outputs, problem) -> None:
    with pytest.raises(fanout.ConfigError, match=problem):
        BatchSettings.of(target, outputs, 2)


def test_rows_come_from_one_column_or_several() -> None:
    batch = {"text": np.array(["a", "b"], object), "n": np.arange(2), "v": np.ones((2, 3))}
    assert rows_of(batch, "text") == ["a", "b"]
    assert rows_of(batch, "v") is batch["v"]
    assert rows_of(batch, ["text", "n"]) == [{"text": "a", "n": 0}, {"text": "b", "n": 1}]
    assert rows_of({"n": batch["n"]}, None) is batch["n"]
    with pytest.raises(fanout.ConfigError, match="the columns are text, n, v"):
        rows_of(batch, None)
    with pytest.raises(fanout.ConfigError, match='no column "x"'):
        rows_of(batch, "x")


@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_missing_extra_is_an_error_with_the_command(name, monkeypatch) -> None:
    for module in ("ray", "dask", "dask.array", "distributed"):
        monkeypatch.setitem(sys.modules, module, None)
    from fanout import dask, ray
    from fanout.cluster import open_engine

    with pytest.raises(fanout.ConfigError, match=rf"pip install 'fanout-ml\[{name}\]'"):
        open_engine(name)
    call = ray.map_batches if name == "ray" else dask.map_blocks
    with pytest.raises(fanout.ConfigError, match=rf"pip install 'fanout-ml\[{name}\]'"):
        call(None, "job.toml", outputs=OUTPUTS)


@pytest.mark.parametrize("target", ["spark", "ray://", "processes://host:1", ""])
def test_an_unknown_engine_is_an_error(target) -> None:
    from fanout.cluster import open_engine

    with pytest.raises(fanout.ConfigError, match=r"--on is processes, ray, dask, ray://HOST:PORT or dask://HOST:PORT"):
        open_engine(target)
