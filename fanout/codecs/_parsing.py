"""Parse JSON answers strictly: distinguish text that is no JSON from NaN, and rounded integers from exact ones.

orjson is the quickest parser, but it rounds integers beyond 64 bits. The answer is parsed again, with exact numbers,
only where that shows in the values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from functools import partial
from itertools import islice
from math import isfinite, isinf, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from fanout.codecs._values import MayBeRounded, Unfit
from fanout.errors import InvalidResponse
from fanout.exact_json import in_slices, loads, slowly, too_heavy, without_bom
from fanout.rows import within
from fanout.types import DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs._paths import UsagePaths
    from fanout.types import Array, Response, Values

_MOST_DIGITS = 400
# From about here on orjson gives an integer as the nearest float.
_HUGE = 2.0**63

_LARGEST_COUNT = 2**53
# Fields of a usage, or of an object in it, that are read. APIs send up to a dozen.
_MOST_NAMES = 64
_LONGEST_NAME = 100
_TAIL = 2**16


class NoJson(InvalidResponse):
    """The text is not JSON."""


def read(
    response: Response, convert: Callable[[Any], Array | Values], *, keep: bool, exactly: bool = False
) -> Array | Values:
    """Parse the body and return ``convert`` of the document.

    Raises `InvalidResponse` for a body that is not JSON, or too large once parsed, or where ``convert`` raises `Unfit`.

    Args:
        response: its body is the JSON document.
        convert: raises `Unfit` where the document does not fit; it may be called twice.
        exactly: keep integers beyond 64 bits as written, for a ``convert`` that computes with them.
        keep: accept ``NaN``, ``Infinity`` and numbers beyond float64, which JSON does not have.
    """
    if why := too_heavy(response.body):
        raise InvalidResponse(f"the answer {why}")
    try:
        return converted(response, convert, keep=keep, exactly=exactly)
    except Unfit as error:
        raise invalid(response, error) from None


def converted(
    response: Response, convert: Callable[[Any], Array | Values], *, keep: bool, exactly: bool = False
) -> Array | Values:
    """Parse as `read` does, a body of any weight. Raises `Unfit` as ``convert`` does, and `NoJson`."""
    body = without_bom(response.body)
    is_exact = False
    try:
        document = loads(body) if exactly else in_slices(body, orjson.loads)
    except orjson.JSONDecodeError as error:
        document, is_exact = _with_nonfinite(response, body, error, keep=keep), True
    try:
        values = convert(document)
    # Integers were wanted, so the text of the numbers decides, at the price of a second parse.
    except MayBeRounded:
        del document  # two documents at once would take too much memory
        try:
            # `Decimal` is quicker but fails for an exponent beyond its bounds.
            exact = _parsed_again(response, body, _as_written if is_exact else Decimal)
        except InvalidOperation:
            exact = _parsed_again(response, body, _as_written)
        return convert(exact)
    arrays = values.values() if isinstance(values, Mapping) else (values,)
    # orjson gives an integer beyond 64 bits as a float, which may be rounded, without a sign of it.
    if not is_exact and any(map(_is_huge, arrays)):
        del document
        return convert(_parsed_again(response, body, float))
    return values


def small_document(response: Response, most: int = 2**18) -> Any:
    """The document in a response that may be an error; None if it is no JSON, or larger than ``most`` bytes.

    No error is larger, and a body is parsed for it on the event loop.
    """
    if len(response.body) > most:
        return None
    try:
        return orjson.loads(without_bom(response.body))
    except orjson.JSONDecodeError:
        return None


def invalid(response: Response, error: Unfit) -> InvalidResponse:
    """The error of an answer with unfit values."""
    if error.answer is not None:
        return InvalidResponse(f"the answer {error}", error_kind=error.error_kind, answer=error.answer)
    if error.row is not None:
        return InvalidResponse(f"{error}", error_kind=error.error_kind, rows=(error.row, 0), lengths=error.lengths)
    return InvalidResponse(f"the answer {error}: {response.excerpt()}", error_kind=error.error_kind)


def read_with_usage(
    response: Response,
    convert: Callable[[Any], Array | Values],
    *,
    keep: bool,
    count: Callable[[Any], tuple[Mapping[str, int], str | None]],
    exactly: bool = False,
) -> DecodedResponse:
    """Parse as `read` does, with the usage and the name of the model that ``count`` finds in the document.

    An `InvalidResponse` carries the usage as well, for the provider bills it all the same.
    """
    usage: Mapping[str, int] = {}
    model: str | None = None

    def convert_and_count(document: Any) -> Array | Values:
        nonlocal usage, model
        usage, model = count(document)
        return convert(document)

    try:
        return DecodedResponse(read(response, convert_and_count, keep=keep, exactly=exactly), usage=usage, model=model)
    except InvalidResponse as error:
        error.usage = usage
        raise


def openai_counts(document: Any, paths: UsagePaths | None) -> tuple[dict[str, int], str | None]:
    """The ``usage`` and the ``model`` of an API that follows OpenAI's, and the counts at further ``paths``."""
    more = {} if paths is None else paths.of(document)
    if not isinstance(document, dict):
        return more, None
    return counts(document.get("usage")) | more, model_name(document.get("model"))


def with_usage_of(response: Response, error: InvalidResponse) -> InvalidResponse:
    """Add the ``usage`` at the end of a large answer, which is not parsed whole, to ``error``."""
    # APIs write the usage behind the data, so that a search from the end finds it at once.
    at = response.body.rfind(b'"usage"', -_TAIL)
    text = bytes(response.body[at:]).partition(b":")[2] if at >= 0 else b""
    with suppress(ValueError, RecursionError):
        error.usage = counts(json.JSONDecoder().raw_decode(text.decode().lstrip())[0])
    return error


def model_name(name: object) -> str | None:
    """``name`` if it is the name of a model."""
    return name if isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME else None


def counts(usage: object, prefix: str = "") -> dict[str, int]:
    """Every count, with dotted names for the counts of objects such as ``completion_tokens_details``."""
    found: dict[str, int] = {}
    for name, value in islice(usage.items(), _MOST_NAMES) if isinstance(usage, dict) else ():
        if len(name) > _LONGEST_NAME:
            continue
        if type(value) is int and 0 <= value <= _LARGEST_COUNT:
            found[prefix + name] = value
        elif not prefix and isinstance(value, dict):
            found |= counts(value, f"{name}.")
    return found


def _parsed_again(response: Response, body: bytes, number: Callable[[str], Any]) -> Any:
    """The document with exact integers, and ``number`` of the text of every other number."""
    try:
        return in_slices(body, partial(slowly, number=number))
    except orjson.JSONDecodeError:
        raise InvalidResponse(f"the answer is nested too deep: {response.excerpt()}") from None


def _as_written(text: str) -> Decimal | float:
    """The number as `Decimal`; as a float where it is infinite, and NaN where its exponent is beyond all bounds."""
    value = float(text)
    try:
        return Decimal(text) if isfinite(value) else value
    except InvalidOperation:
        return nan


def _with_nonfinite(response: Response, body: bytes, error: Exception, *, keep: bool) -> Any:
    """The document with NaN and infinities, if these alone keep it from being JSON."""
    nonfinite: list[float] = []

    def number(text: str) -> float:
        value = float(text)
        if isinf(value):
            nonfinite.append(value)
        return value

    def constant(text: str) -> float:
        nonfinite.append(float(text))
        return nonfinite[-1]

    def parse(text: bytes) -> Any:
        return json.loads(text.decode(), parse_float=number, parse_int=_integer, parse_constant=constant)

    try:
        document = in_slices(body, parse)
    except (ValueError, RecursionError):
        nonfinite.clear()
    # The text has another error, so that the message of the first parser counts.
    if not nonfinite:
        raise NoJson(f"the answer is not JSON ({error}): {response.excerpt()}") from None
    if not keep:
        hint = 'nonfinite="keep" lets it pass'
        raise InvalidResponse(
            f"the answer holds NaN or infinity ({hint}): {response.excerpt()}", error_kind="nonfinite"
        )
    return document


def _integer(text: str) -> int:
    """An integer of no more digits than a float can have: longer ones take quadratic time to read."""
    if len(text) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _is_huge(array: Array) -> bool:
    if array.dtype.kind != "f" or within(array, _HUGE):
        return False
    with np.errstate(all="ignore"):
        return bool(np.fmax.reduce(np.abs(array), axis=None) >= _HUGE)
