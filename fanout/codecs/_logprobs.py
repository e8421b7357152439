"""Log probabilities of the values of an enum, from those of the tokens with which a model began the value.

https://platform.openai.com/docs/api-reference/chat/object
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fanout.types import Array

REQUEST = {"logprobs": True, "top_logprobs": 20}
"""Fields of a request that ask for the most alternatives of a token which APIs give."""

_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


class _Token(NamedTuple):
    start: int
    """Its place in the text."""

    text: str
    alternatives: dict[str, float]
    """Texts of likely tokens at this place, itself included -> natural logarithm of the probability."""


def of_values(choice: Mapping[str, Any], text: str, field: str, values: Sequence[str]) -> Array:
    """The log probability of each of ``values``, float64 of shape (len(values),).

    A token that begins several values shares its probability among them by the tokens behind it, which the server
    gives for the chosen value alone. NaN stands for a value that is among no alternatives of the server.

    Args:
        choice: the choice of a response, with ``logprobs`` if the server gives them.
        text: its text, a JSON object.
        field: name of the field with the value.
        values: all values that the field may have.
    """
    found = np.full(len(values), nan)
    start = _start_of(text, field)
    if start is None:
        return found
    written = [json.dumps(value, ensure_ascii=False) for value in values]
    given = 0.0
    # The opening quotation mark is common to all values, so that it decides nothing.
    for token in _tokens(choice, text):
        if token.start + len(token.text) <= start + 1:
            continue
        before, lead = text[start : token.start], text[token.start : start]
        several = False
        for alternative, logprob in token.alternatives.items():
            if not alternative.startswith(lead):
                continue
            begun = before + alternative[len(lead) :]
            fits = [i for i, one in enumerate(written) if one.startswith(begun) or begun.startswith(one)]
            if len(fits) == 1:
                found[fits[0]] = np.logaddexp(np.nan_to_num(found[fits[0]], nan=-np.inf), given + logprob)
            elif fits and alternative == token.text:
                several = True
        if not several:
            break
        given += token.alternatives[token.text]
    return found


def _tokens(choice: Mapping[str, Any], text: str) -> Iterator[_Token]:
    """The tokens of ``text``; none if the server gives none, or others than those of the text."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    start = 0
    for one in content if isinstance(content, list) else ():
        chosen = _pair(one)
        if chosen is None or not text.startswith(chosen[0], start):
            return
        top = one.get("top_logprobs")
        others = [pair for other in (top if isinstance(top, list) else ()) if (pair := _pair(other)) is not None]
        yield _Token(start, chosen[0], dict([*others, chosen]))
        start += len(chosen[0])


def _pair(token: object) -> tuple[str, float] | None:
    if not isinstance(token, Mapping) or not isinstance(token.get("token"), str) or not token["token"]:
        return None
    logprob = token.get("logprob")
    return (token["token"], float(logprob)) if isinstance(logprob, int | float) else None


def _start_of(text: str, field: str) -> int | None:
    """Place of the value of ``field`` in the text of a JSON object; None if it is not found."""
    at = _skipped(text, text.find("{") + 1)
    try:
        while at < len(text):
            name, at = _DECODER.raw_decode(text, at)
            at = _skipped(text, _skipped(text, at) + 1)  # behind the colon
            if name == field:
                return at
            at = _skipped(text, _DECODER.raw_decode(text, at)[1])
            at = _skipped(text, at + 1)  # behind the comma
    except (ValueError, RecursionError):
        return None
    return None


def _skipped(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
