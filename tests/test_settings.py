"""Settings are checked when they are made, name the fault in errors, and show no secret."""

from __future__ import annotations

import dataclasses
import inspect
from math import inf, nan

import pytest

from fanout.addresses import Endpoint
from fanout.errors import ConfigError
from fanout.settings import Hedge, Limits, RetryPolicy, Timeouts

SETTINGS = [Limits, RetryPolicy, Hedge, Timeouts, Endpoint]


@pytest.mark.parametrize("cls", SETTINGS)
def test_settings_are_frozen_and_keyword_only(cls):
    settings = cls(url="http://h/x") if cls is Endpoint else cls()
    name = dataclasses.fields(settings)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(settings, name, 1)
    with pytest.raises(TypeError, match="positional"):
        cls(1)


@pytest.mark.parametrize("cls", SETTINGS)
def test_every_setting_is_described(cls):
    lines = inspect.getsource(cls).splitlines()
    for field in dataclasses.fields(cls):
        declared = next(i for i, line in enumerate(lines) if line.startswith(f"    {field.name}: "))
        assert lines[declared + 1].strip().startswith('"""'), field.name


def test_the_defaults_are_those_of_the_documentation():
    assert Limits() == Limits(concurrency=16, requests_per_second=None, burst=0.0, max_requests=None)
    assert Limits().rates == {}
    assert RetryPolicy() == RetryPolicy(
        max_attempts=5, initial_backoff=0.2, max_backoff=30.0, budget=0.2, max_pushback=120.0, stall=300.0
    )
    assert Hedge() == Hedge(share=0.0, delay=None)
    assert Timeouts() == Timeouts(connect=10.0, attempt=60.0, run=None)
    assert Endpoint(url="http://h/x").max_response_bytes == 64 * 2**20


@pytest.mark.parametrize(
    ("cls", "name", "value"),
    [
        *[(Limits, "concurrency", value) for value in (0, -1, nan, "many", "16")],
        *[
            (Limits, f"{unit}_per_{period}", value)
            for unit in ("requests", "rows", "tokens")
            for period in ("second", "minute")
            for value in (0, -1.0, inf, nan)
        ],
        *[(Limits, "burst", value) for value in (-0.1, inf, nan, 0.5)],  # a burst of no rate
        (Limits, "tokenizer", ""),
        *[(Limits, "max_requests", value) for value in (0, -1)],
        *[(RetryPolicy, "max_attempts", value) for value in (0, -1)],
        *[
            (RetryPolicy, name, value)
            for name in ("initial_backoff", "max_backoff", "budget")
            for value in (-0.1, inf, nan)
        ],
        *[(RetryPolicy, "max_pushback", value) for value in (-0.1, inf, nan)],
        *[(RetryPolicy, "stall", value) for value in (0, -1, inf, nan)],
        *[(Hedge, "share", value) for value in (-0.1, 1.5, inf, nan)],
        *[(Hedge, "delay", value) for value in (0, -1, inf, nan)],
        *[(Timeouts, name, value) for name in ("connect", "attempt", "run") for value in (0, -1, inf, nan)],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(cls, name, value):
    with pytest.raises(ConfigError, match=rf"^{name} must be .*, not {value!r}$") as raised:
        cls(**{name: value})
    assert raised.value.key == name
