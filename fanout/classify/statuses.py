"""The status that an error's body names: some servers answer 200 and say in the body that it is an error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.classify.said import error_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fanout.types import Reply

_FIELDS = ("code", "status", "status_code", "statusCode", "http_status", "error_code", "type", "error_type", "__type")

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
    "invalidapikey": 401, "ratelimitexceeded": 429, "toomanyrequests": 429,
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


def hidden_status(reply: Reply) -> int | None:
    """The status of the error that a body holds, though its answer says success; None if it holds none."""
    return named_status(error_body(reply.body))


def named_status(error: Mapping[str, Any]) -> int | None:
    """The status that an error names, by number or in words; None if it names none that is an error's."""
    for field in _FIELDS:
        if (status := _status(error.get(field))) is not None:
            return status
    return None


def aws_status(reply: Reply) -> int | None:
    """The status that an AWS service means: throttling comes with 400 from some of them."""
    return _status(short_name(reply.headers.get("x-amzn-errortype", "")))


def short_name(name: str) -> str:
    """The name of an AWS exception without its namespace and origin."""
    return name.partition(":")[0].rpartition("#")[2].strip()


def _status(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        if len(value) > _LONGEST:
            return None
        name = value.strip()
        if not (name.isascii() and name.isdigit()):
            return _NAMES.get(short_name(name).lower().replace("_", "").replace("-", "").replace(" ", ""))
        value = int(name)
    return int(value) if 400 <= value < 600 else None
