"""The status that an error's body names: some servers answer 200 and say in the body that it is an error."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fanout.classify.error_message import hidden_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Response

_FIELDS = (
    "code", "status", "status_code", "statusCode", "raw_status_code", "http_status", "error_code", "type", "error_type",
    "__type", "error",
)  # fmt: skip
_MESSAGES = ("message", "detail", "title")
"""Fields whose whole text may be a name: API gateways say ``{"message": "Too Many Requests"}``."""

_WITH_NUMBER = re.compile(
    r"(?:http|error|status)?[\s_:-]{0,2}([45]\d\d)(?:[\s_:-]{1,3}[a-z _'-]{1,40})?", re.IGNORECASE
)
"""A status in a text: ``429``, ``HTTP_429``, ``429 Too Many Requests``."""

# Names for a status, in lower case and without _ and -. Checked in November 2026. None is for 500: an unspecific error
# in words is an invalid answer, whose chunk is split after two alike.
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
}  # fmt: skip
_LONGEST = 100


def hidden_status(response: Response) -> int | None:
    """The status of the error that a body holds, though its answer says success; None if it holds none."""
    return named_status(hidden_error(response.body))


def named_status(error: Mapping[str, Any]) -> int | None:
    """The status that an error names, by number or in words; None if it names none that is an error's."""
    for field in _FIELDS:
        if (status := _status(error.get(field))) is not None:
            return status
    for field in _MESSAGES:
        if isinstance(text := error.get(field), str) and (status := _named(text)) is not None:
            return status
    return None


def aws_status(response: Response) -> int | None:
    """The status that an AWS service means: throttling comes with 400 from some of them."""
    return _status(short_name(response.headers.get("x-amzn-errortype", "")))


def short_name(name: str) -> str:
    """The name of an AWS exception without its namespace and origin."""
    return name.partition(":")[0].rpartition("#")[2].strip()


def _status(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if (named := _named(value)) is not None or len(value) > _LONGEST:
            return named
        found = _WITH_NUMBER.fullmatch(value.strip())
        return int(found[1]) if found is not None else None
    return int(value) if 400 <= value < 600 else None


def _named(text: str) -> int | None:
    """The status of which ``text`` is a name."""
    if len(text) > _LONGEST:
        return None
    return _NAMES.get(short_name(text.strip(" .!")).lower().replace("_", "").replace("-", "").replace(" ", ""))
