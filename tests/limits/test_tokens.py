"""Tokens are counted by a tokenizer, or estimated; the estimate follows the usage in responses."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout.errors import ConfigError
from fanout.limits import TokenMeter, tiktoken_counter
from fanout.usage import tokens_used

if TYPE_CHECKING:
    from collections.abc import Callable


def test_a_function_counts_every_row() -> None:
    meter = TokenMeter(len)
    assert meter.counts
    assert meter.of_request(["abc", "de", ""], 10_000) == 5
    assert TokenMeter(lambda row: row["n"]).of_request({"n": np.array([1.5, 2.0])}, 0) == 3.5


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 7, "prompt_tokens": 1}, 7),
        ({"prompt_tokens": 5, "completion_tokens": 2}, 7),
        ({"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 4}, 7),
        ({"prompt_tokens": 5}, 5),
        ({"characters": 5}, 0),
        ({}, 0),
    ],
)
def test_the_tokens_of_a_usage_are_its_total_or_the_sum_of_its_parts(usage: dict[str, int], tokens: int) -> None:
    assert tokens_used(usage) == tokens


def test_without_a_function_a_body_takes_a_token_for_four_bytes() -> None:
    meter = TokenMeter()
    assert not meter.counts
    assert meter.of_request(["whatever"], 400) == 100


def test_the_estimate_follows_the_answers() -> None:
    meter = TokenMeter()
    meter.learn(1000, 600)
    assert meter.of_request([], 1000) == pytest.approx(600, rel=0.01)
    for _ in range(100):
        meter.learn(1000, 200)
    assert meter.of_request([], 1000) == pytest.approx(200, rel=0.02)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (lambda row: -1, "must give a number, 0 or more, not -1"),
        (lambda row: float("nan"), "must give a number, 0 or more, not nan"),
        (lambda row: None, "raised TypeError"),
        (lambda row: row.missing, "raised AttributeError: .* for a row of type str"),
    ],
)
def test_a_function_that_cannot_count_is_named(count: Callable[[Any], float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"count_tokens {message}"):
        TokenMeter(count).of_row("x")


def test_an_explicit_response_of_the_function_stays_unchanged() -> None:
    def count(row: str) -> int:
        raise ConfigError("no vocabulary", key="mine")

    with pytest.raises(ConfigError, match=r"^no vocabulary$"):
        TokenMeter(count).of_row("x")


@pytest.fixture
def tiktoken(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in: the real one downloads its vocabularies. A word is a token."""
    module = ModuleType("tiktoken")

    def get_encoding(name: str) -> Any:
        if name == "offline":
            raise ConnectionError("no network")
        if name != "words":
            raise ValueError(f"Unknown encoding {name}")
        return SimpleNamespace(encode_ordinary=str.split)

    module.get_encoding = get_encoding  # type: ignore[attr-defined]
    module.list_encoding_names = lambda: ["words", "offline"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tiktoken", module)
    return module


@pytest.mark.usefixtures("tiktoken")
@pytest.mark.parametrize(
    ("row", "tokens"),
    [
        ("", 0),
        ("a b c", 3),
        (np.str_("a b"), 2),
        ([{"role": "user", "content": "how are you"}], 1 + 3 + 3 + 3),
        (np.array([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]), 4 + 2 * 3 + 3),
        ([{"role": "user", "content": [{"type": "text", "text": "a b"}]}], 4 + 3 + 3),
        ({"title": "a b", "n": 3, "more": ("c",)}, 3),
        (["a b", "c"], 3),
        (7, 0),
    ],
)
def test_tiktoken_counts_texts_and_chats(row: Any, tokens: int) -> None:
    assert tiktoken_counter("words")(row) == tokens


@pytest.mark.usefixtures("tiktoken")
@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("word", "'word' is no encoding that tiktoken knows; did you mean \"words\""),
        ("x", "it knows words, offline"),
        ("offline", r"cannot load 'offline' \(ConnectionError\).*TIKTOKEN_CACHE_DIR"),
    ],
)
def test_an_unavailable_encoding_is_an_error_with_the_remedy(encoding: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        tiktoken_counter(encoding)
    assert caught.value.key == "limits.tokenizer"


def test_without_tiktoken_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ConfigError, match=r"pip install 'fanout-ml\[tiktoken\]'"):
        tiktoken_counter("words")
