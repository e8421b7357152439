"""``--set KEY.PATH=VALUE`` sets one key."""

from __future__ import annotations

import pytest

from fanout.errors import ConfigError
from fanout.job.override import override


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ('"8"', "8"),
        ('["a", "b"]', ["a", "b"]),
        ("{ A = 1 }", {"A": 1}),
        ("out/y.npy", "out/y.npy"),
        ("https://host/a?b=c", "https://host/a?b=c"),
        ("", ""),
        ("2024-01-31", "2024-01-31"),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_value_is_toml_or_else_a_string(text, value):
    tables: dict[str, object] = {}
    assert override(tables, f"a.b={text}") == ("a", "b")
    assert tables == {"a": {"b": value}}


def test_a_key_that_is_there_is_replaced_and_its_neighbours_stay():
    tables = {"a": {"b": 1, "c": 2}}
    override(tables, "a.b=3")
    assert tables == {"a": {"b": 3, "c": 2}}


def test_keys_may_be_quoted():
    tables: dict[str, object] = {}
    override(tables, 'endpoint.headers."X-A.B"=v')
    assert tables == {"endpoint": {"headers": {"X-A.B": "v"}}}


@pytest.mark.parametrize("setting", ["", "=1", "a.b", "a b=1", "a..b=1", "[a]\nb=1"])
def test_what_is_no_setting_is_refused_with_an_example(setting):
    with pytest.raises(ConfigError, match=r"KEY\.PATH=VALUE"):
        override({}, setting)


def test_a_key_inside_what_is_no_table_is_refused():
    with pytest.raises(ConfigError, match="a is not a table"):
        override({"a": 1}, "a.b=1")
