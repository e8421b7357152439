"""Read the errors in the bodies of answers: their message, and the status that they name.

A message is quoted without the input, which many servers repeat. Some servers report an error with status 200.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from fanout._escape import shortened
from fanout._lazy import pattern
from fanout.exact_json import without_bom

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fanout.types import Response

_LONGEST = 300
_LOOKED_AT = 10_000
# Bytes of a body that is parsed for an error, on the event loop. No error is as large.
_LARGEST = 2**18
_TRACEBACK = "Traceback (most recent call last):"
_MESSAGE_KEYS = ("message", "error", "detail", "title", "msg", "OriginalMessage")
# Fields that hold the error. LiteLLM, for instance, puts its own into FastAPI's detail.
_WRAPPERS = ("error", "detail", "errors", "fault")

_DEEPEST = 4
# Fields of an error that may hold lists.
_ABOUT_ERRORS = frozenset({*_WRAPPERS, "details", "metadata", "warnings", "messages", "causes", "stack", "trace"})
_FIELDS = (
    "code", "status", "status_code", "statusCode", "raw_status_code", "http_status", "error_code", "type", "error_type",
    "__type", "error",
)  # fmt: skip
# Fields whose whole text may be the name of a status: API gateways send {"message": "Too Many Requests"}.
_MESSAGES = ("message", "detail", "title")

# A status in a text: 429, HTTP_429, 429 Too Many Requests.
_WITH_NUMBER = pattern(r"(?:http|error|status)?[\s_:-]{0,2}([45]\d\d)(?:[\s_:-]{1,3}[a-z _'-]{1,40})?", re.IGNORECASE)

# Name of a status, in lower case and without _ and - -> status. Checked in November 2026. None is for 500, because
# an unspecific error in words counts as an invalid answer, whose chunk is split after two alike.
_NAMES = {
    # Google, and gRPC: https://cloud.google.com/apis/design/errors
    "invalidargument": 400, "failedprecondition": 400, "outofrange": 400, "unauthenticated": 401,
    "permissiondenied": 403, "notfound": 404, "aborted": 409, "alreadyexists": 409, "resourceexhausted": 429,
    "cancelled": 499, "unimplemented": 501, "unavailable": 503, "deadlineexceeded": 504,
    # Anthropic: https://docs.anthropic.com/en/api/errors
    "invalidrequesterror": 400, "authenticationerror": 401, "billingerror": 402, "permissionerror": 403,
    "notfounderror": 404, "requesttoolarge": 413, "ratelimiterror": 429, "timeouterror": 504,
    "overloadederror": 529,
    # OpenAI, and servers that speak its API
    "invalidapikey": 401, "ratelimitexceeded": 429, "toomanyrequests": 429, "ratelimitreached": 429,
    "ratelimited": 429, "ratelimit": 429, "requestlimitexceeded": 429, "throttled": 429, "throttling": 429,
    "throttling.ratequota": 429, "engineoverloadederror": 429, "temporarilyunavailable": 503,
    "badrequesterror": 400, "badrequest": 400,
    "unauthorized": 401, "paymentrequired": 402, "forbidden": 403, "badgateway": 502, "serviceunavailable": 503,
    "serviceunavailableerror": 503, "gatewaytimeout": 504,
    # TEI
    "overloaded": 429, "unhealthy": 503,
    # AWS: https://docs.aws.amazon.com/bedrock/latest/userguide/troubleshooting-api-error-codes.html
    "validationexception": 400, "accessdeniedexception": 403, "resourcenotfoundexception": 404,
    "modeltimeoutexception": 408, "throttlingexception": 429, "toomanyrequestsexception": 429,
    "modelnotreadyexception": 429, "serviceunavailableexception": 503,
    # AWS, which sends these with a 400 or 403: https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html
    "unrecognizedclientexception": 401, "invalidsignatureexception": 401, "signaturedoesnotmatch": 401,
    "incompletesignature": 401, "incompletesignatureexception": 401, "missingauthenticationtoken": 401,
    "missingauthenticationtokenexception": 401, "invalidclienttokenid": 401, "invalidaccesskeyid": 401,
}  # fmt: skip
_LONGEST_NAME = 100


def error_text(response: Response, error: Mapping[str, Any]) -> str:
    """The messages of an error, or the body where it has none; at most some thousand characters."""
    text = "; ".join(messages(error))
    return (text or response.body[:_LOOKED_AT].decode("utf-8", "replace"))[:_LOOKED_AT]


def error_message(response: Response, body: Mapping[str, Any] | None = None) -> str:
    """The error's message on one line; the first part of the body where it has no message.

    ``body`` is the result of `error_body`, if it is known already.
    """
    text = "; ".join(messages(error_body(response.body) if body is None else body))
    if _TRACEBACK.encode() in response.body[:_LOOKED_AT]:
        text = _without_frames(text or response.body[:_LARGEST].decode("utf-8", "replace"))
    text = " ".join((text or response.excerpt(_LONGEST)).split())
    return shortened(text, _LONGEST)


def error_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object of an error, without ``{"error": {...}}`` and a list around it; empty if there is none."""
    document = _document(body)
    if isinstance(document, list):  # Google's streams, and Vertex
        document = document[0] if document else None
    return _unwrapped(document) if isinstance(document, dict) else {}


def hidden_error(body: bytes) -> Mapping[str, Any]:
    """`error_body` for an answer with a status of success; empty if the body holds values of rows.

    A field ``status`` or ``code`` beside values, or in the items of a list, is an output of the model.
    """
    document = _document(body)
    if isinstance(document, list):
        document = document[0] if len(document) == 1 else None
        if not (isinstance(document, dict) and isinstance(document.get("error"), dict)):
            return {}
    if not isinstance(document, dict):
        return {}
    choices = document.get("choices")
    if isinstance(choices, list) and len(choices) == 1 and isinstance(choices[0], dict) and "error" not in document:
        document = {"error": choices[0].get("error")}  # OpenRouter puts errors of its providers there
    if isinstance(error := document.get("error"), dict):
        return _unwrapped(error if _holds_values(document) else document)
    return {} if _holds_values(document) else _unwrapped(document)


def provider_error(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error of the provider behind OpenRouter, which quotes it as a text; empty if there is none."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    if not isinstance(raw, str) or not raw.strip():
        return {}
    return error_body(raw.encode("utf-8", "replace")) or {"message": raw[:_LOOKED_AT]}


def messages(body: Mapping[str, Any]) -> Iterator[str]:
    """The messages of an error, and those of the provider's error that it quotes."""
    if not body:  # many errors have no JSON, and their words are looked for twice
        return
    for key in _MESSAGE_KEYS:
        value = body.get(key)
        if isinstance(value, str) and value.strip():
            yield value
            yield from messages(provider_error(body))
            return
        if isinstance(value, list):  # FastAPI: [{"loc": ["body", "input"], "msg": "...", "input": all that was sent}]
            yield from (
                _located(item) for item in value[:3] if isinstance(item, dict) and isinstance(item.get("msg"), str)
            )
            return


def hidden_status(response: Response) -> int | None:
    """The status of the error in a body whose answer has a status of success; None if there is none."""
    return named_status(hidden_error(response.body))


def named_status(error: Mapping[str, Any]) -> int | None:
    """The status that an error names, as a number or in words; None if it names none of 400 to 599."""
    for field in _FIELDS:
        if (status := _status(error.get(field))) is not None:
            return status
    for field in _MESSAGES:
        if isinstance(text := error.get(field), str) and (status := _named(text)) is not None:
            return status
    return None


def aws_status(response: Response) -> int | None:
    """The status of an AWS service's error type: throttling may come with a 400, and a wrong key with a 400 or 403."""
    return _status(short_name(response.headers.get("x-amzn-errortype", "")))


def short_name(name: str) -> str:
    """The name of an AWS exception without its namespace and origin."""
    return name.partition(":")[0].rpartition("#")[2].strip()


def _document(body: bytes) -> Any:
    """The JSON document of a body that may be an error; None for any other body."""
    if len(body) > _LARGEST or (text := without_bom(body)).lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _unwrapped(document: dict[str, Any]) -> Mapping[str, Any]:
    """The innermost error, with the fields around it that it does not have itself."""
    for _ in range(_DEEPEST):
        for name in _WRAPPERS:
            inner = document.get(name)
            if name == "errors" and isinstance(inner, list) and inner:
                inner = inner[0]
            if isinstance(inner, dict):
                has_message = not inner.keys().isdisjoint(_MESSAGE_KEYS)
                hidden = {name, *(_MESSAGE_KEYS if has_message else ())}
                document = {key: value for key, value in document.items() if key not in hidden} | inner
                break
        else:
            break
    return document


def _holds_values(document: dict[str, Any]) -> bool:
    """True if an object has a list that no error has."""
    for name, value in document.items():
        if name not in _ABOUT_ERRORS:
            parts = value.values() if isinstance(value, dict) else (value,)
            if any(isinstance(part, list) and part for part in parts):
                return True
    return False


def _without_frames(text: str) -> str:
    """``text`` without the frames of Python's tracebacks, which are indented."""
    lines = text.replace(_TRACEBACK, "").splitlines()
    return "\n".join(line for line in lines if not line.startswith(" "))


def _located(item: Mapping[str, Any]) -> str:
    parts = item.get("loc")
    place = ".".join(str(part) for part in parts if isinstance(part, str | int)) if isinstance(parts, list) else ""
    return f"{place}: {item['msg']}" if place else str(item["msg"])


def _status(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if (named := _named(value)) is not None or len(value) > _LONGEST_NAME:
            return named
        found = _WITH_NUMBER.fullmatch(value.strip())
        return int(found[1]) if found is not None else None
    return int(value) if 400 <= value < 600 else None


def _named(text: str) -> int | None:
    """The status whose name is ``text``."""
    if len(text) > _LONGEST_NAME:
        return None
    return _NAMES.get(short_name(text.strip(" .!")).lower().replace("_", "").replace("-", "").replace(" ", ""))
