"""The identity of a run changes with what changes its answers, and shows no secret."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fanout import ConfigError, codec
from fanout.client.identity import identity_of

X = np.arange(30.0).reshape(10, 3)
URL = "http://host:8000/v2/models/m/infer"
TEXTS = np.array(["a", "b"], np.dtypes.StringDType())


def identity(rows: Any = X, options: dict[str, Any] | None = None, url: str = URL) -> dict[str, Any]:
    return identity_of(rows, codec("json", **(options or {})), [url])


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (X, [X + 1, X[:9], X.astype("f4"), X.reshape(10, 3, 1)]),
        (["a", "b"], [["a", "c"], ["a"], ["a", "b", "b"]]),
        ([{"a": 1}], [[{"a": 2}], [{"b": 1}]]),
        ({"a": X, "b": X}, [{"a": X}, {"a": X, "c": X}, {"a": X, "b": -X}]),
        (TEXTS, [TEXTS[::-1]]),
        (np.zeros((0, 3)), [np.zeros((0, 4))]),
    ],
    ids=["array", "texts", "dicts", "columns", "text array", "no rows"],
)
def test_other_rows_have_another_identity(rows: Any, others: list[Any]) -> None:
    assert identity(rows) == identity(rows)
    for other in others:
        assert identity(rows)["input"] != identity(other)["input"]


def test_another_codec_option_or_path_is_another_run_and_another_host_is_not() -> None:
    assert identity() != identity(options={"request_field": "x"})
    assert identity() != identity(url="http://host:8000/v2/models/other/infer")
    assert identity() == identity(url="https://user:pass@other/v2/models/m/infer?key=1")
    assert identity(url="local://digits") != identity(url="local://echo")


def test_several_endpoints_are_told_by_their_paths_alone() -> None:
    one, other = "http://a/v1/m", "http://b/v1/n"
    assert identity_of(X, codec("json"), [one, "http://b/v1/m"]) == identity_of(X, codec("json"), [one])
    assert identity_of(X, codec("json"), [one, other]) == identity_of(X, codec("json"), [other, one])
    assert identity_of(X, codec("json"), [one, other]) != identity_of(X, codec("json"), [one])


def test_no_option_of_a_codec_is_shown() -> None:
    assert "s3cret" not in repr(identity(options={"extra": {"key": "s3cret"}}))


def test_rows_of_an_iterator_have_none() -> None:
    with pytest.raises(ConfigError, match="cannot be told from others"):
        identity(iter(X))
