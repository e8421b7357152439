"""Options are checked before anything is sent, and named when they are wrong."""

from __future__ import annotations

import pytest

from fanout.codecs import _options
from fanout.errors import ConfigError


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (_options.text, ""),
        (_options.text, 1),
        (_options.text, None),
        (_options.text_or_none, 1),
        (_options.flag, 1),
        (_options.flag, "true"),
        (_options.fields, []),
        (_options.fields, {1: 2}),
        (_options.fields, {"a": object()}),
        (_options.fields, {"a": float("nan")}),
        (_options.fields, {"a": [{"b": float("inf")}]}),
        (_options.names, "abc"),
        (_options.names, [1]),
        (_options.names, [""]),
        (_options.names, ["a", "a"]),
    ],
)
def test_a_wrong_value_is_named(check, value):
    with pytest.raises(ConfigError, match=r"^it ") as caught:
        check("it", value)
    assert caught.value.key == "it"


def test_right_values_are_given_back():
    assert _options.text("it", "a") == _options.text_or_none("it", "a") == "a"
    assert _options.text_or_none("it", None) is None
    assert _options.flag("it", False) is False
    assert _options.fields("it", None) == {}
    assert _options.fields("it", {"a": None}) == {"a": None}
    assert _options.names("it", None) == ()
    assert _options.names("it", ["a", "b"]) == ("a", "b")


def test_a_table_is_copied():
    given = {"a": 1}
    _options.fields("it", given)["b"] = 2
    assert given == {"a": 1}
