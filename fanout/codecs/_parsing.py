"""JSON answers, read strictly: what is no JSON, what is not finite and what orjson rounds are told apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from math import isfinite, isinf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.codecs._values import MayBeRounded, Unfit
from fanout.errors import InvalidResponse
from fanout.exact_json import loads, slowly, without_bom
from fanout.extent import within
from fanout.weight import too_heavy

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Array, Response, Values

_MOST_DIGITS = 400
_HUGE = 2.0**63
"""From about here on orjson gives an integer as the nearest float: only another look at its text tells."""


class NoJson(InvalidResponse):
    """The text is no JSON."""


def read(
    response: Response, convert: Callable[[Any], Array | Values], *, keep: bool, exactly: bool = False
) -> Array | Values:
    """What ``convert`` makes of the parsed body.

    Args:
        response: its body is the JSON document.
        convert: raises `Unfit` where the document does not fit; it may be called twice.
        exactly: integers beyond 64 bits are as they are written: for a ``convert`` that computes with them.
        keep: ``NaN``, ``Infinity`` and numbers beyond float64, which JSON does not have, are taken as they are meant.

    Raises:
        InvalidResponse: no JSON, or what ``convert`` found.
    """
    if why := too_heavy(response.body):
        raise InvalidResponse(f"the answer {why}")
    try:
        return made(response, convert, keep=keep, exactly=exactly)
    except Unfit as error:
        raise refused(response, error) from None


def made(
    response: Response, convert: Callable[[Any], Array | Values], *, keep: bool, exactly: bool = False
) -> Array | Values:
    """As `read` does, of a body of any weight; it raises `Unfit` as ``convert`` does, and `NoJson`."""
    body = without_bom(response.body)
    is_exact = False
    try:
        document = loads(body) if exactly else orjson.loads(body)
    except orjson.JSONDecodeError as error:
        document, is_exact = _with_nonfinite(response, body, error, keep=keep), True
    try:
        found = convert(document)
    except MayBeRounded:
        del document  # both at once would take too much memory
        try:
            exact = _exactly(response, body, _as_written if is_exact else Decimal)
        except InvalidOperation:
            exact = _exactly(response, body, _as_written)
        return convert(exact)
    arrays = found.values() if isinstance(found, Mapping) else (found,)
    if not is_exact and any(map(_is_huge, arrays)):
        del document
        return convert(_exactly(response, body, float))
    return found


def refused(response: Response, error: Unfit) -> InvalidResponse:
    """The error of an answer whose values are unfit."""
    if error.row is not None:
        return InvalidResponse(f"{error}", error_kind=error.error_kind, rows=(error.row, 0), lengths=error.lengths)
    return InvalidResponse(f"the answer {error}: {response.excerpt()}", error_kind=error.error_kind)


def _exactly(response: Response, body: bytes, number: Callable[[str], Any]) -> Any:
    """The document with every integer as it is written, and ``number`` made of the text of each other number."""
    try:
        return slowly(body, number)
    except orjson.JSONDecodeError:
        raise InvalidResponse(f"the answer is nested too deep: {response.excerpt()}") from None


def _as_written(text: str) -> Decimal | float:
    """As `Decimal`; but a float where that is infinite, and NaN for an exponent beyond all bounds."""
    value = float(text)
    try:
        return Decimal(text) if isfinite(value) else value
    except InvalidOperation:
        return nan


def _with_nonfinite(response: Response, body: bytes, error: Exception, *, keep: bool) -> Any:
    """The document with its NaN and infinities, if these are all that keeps it from being JSON."""
    found: list[float] = []

    def number(text: str) -> float:
        value = float(text)
        if isinf(value):
            found.append(value)
        return value

    def constant(text: str) -> float:
        found.append(float(text))
        return found[-1]

    try:
        document = json.loads(body.decode(), parse_float=number, parse_int=_whole, parse_constant=constant)
    except (ValueError, RecursionError):
        found.clear()
    if not found:
        raise NoJson(f"the answer is not JSON ({error}): {response.excerpt()}") from None
    if not keep:
        hint = 'nonfinite="keep" lets it pass'
        raise InvalidResponse(
            f"the answer holds NaN or infinity ({hint}): {response.excerpt()}", error_kind="nonfinite"
        )
    return document


def _whole(text: str) -> int:
    """An integer; none of more digits than a float has, which take long to read."""
    if len(text) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _is_huge(array: Array) -> bool:
    if array.dtype.kind != "f" or within(array, _HUGE):
        return False
    with np.errstate(all="ignore"):
        return bool(np.fmax.reduce(np.abs(array), axis=None) >= _HUGE)
