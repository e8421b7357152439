"""What to do after an attempt that did not succeed: one table for what HTTP APIs have in common, and no I/O.

A codec's ``classify`` is asked first, for what only its API means by a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from fanout._url import redact_url
from fanout.classify.error_message import error_body, hidden_error, message_of, said
from fanout.classify.pushback import pushback
from fanout.classify.quota import quota_exhausted
from fanout.classify.statuses import aws_status, named_status
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ConnectError,
    InvalidResponse,
    ResponseTooLarge,
    StaleConnectionError,
    TransportError,
)
from fanout.types import Action, Response, StopKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_STATUS: dict[int, Action] = {
    400: Action.SPLIT,  # Triton's word for "too large", everybody's for "a bad row"
    401: Action.STOP,
    402: Action.STOP,
    403: Action.STOP,
    404: Action.STOP,  # a mistyped model: a thousand more requests would not find it
    405: Action.STOP,
    407: Action.STOP,
    408: Action.RETRY,
    409: Action.RETRY,
    410: Action.STOP,
    411: Action.STOP,
    413: Action.SPLIT,
    415: Action.STOP,
    421: Action.RETRY,
    422: Action.SPLIT,
    425: Action.RETRY,
    429: Action.RETRY,
    501: Action.STOP,
    505: Action.STOP,
}
# Any other 4xx splits: firewalls refuse single rows with 406, 418 or 451.
_OVERLOAD = frozenset({408, 429, 503, 504, 529})
_WAITS_IN_WORDS = frozenset({429, 503, 529})
_STOP_KIND: dict[int, StopKind] = {402: "quota", 401: "refused", 403: "refused", 407: "refused"}


def classify_response(
    response: Response,
    *,
    meaning: int | None = None,
    now: datetime | None = None,
    quotes: Callable[[str], bool] = lambda _: False,
) -> Verdict:
    """The verdict on an answer whose status is not 200 to 299.

    Args:
        response: the answer.
        meaning: the status that its API means by it, where that is another.
        now: the time, for dates where the answer has none.
        quotes: says of words whether the request holds them, so that the answer may quote a row.
    """
    status = meaning or response.status
    if 300 <= status < 400:
        return _redirected(response)
    if status == 400:
        status = aws_status(response) or status
    body = error_body(response.body) if response.status >= 300 else hidden_error(response.body)
    message = message_of(response, body)
    meant = "" if response.status >= 300 or meaning is None else f", which holds an error {meaning}"
    reason = f"HTTP {response.status}{meant}: {said(response, body)}"
    if quota_exhausted(status, body, response.headers, message, quotes):
        return Verdict(action=Action.STOP, reason=reason, status=status, stop="quota")
    action = _STATUS.get(status) or (Action.RETRY if status >= 500 or status < 200 else Action.SPLIT)
    wish = response.headers.get("x-should-retry", "").lower()
    if wish == "true":
        action = Action.RETRY
    elif wish == "false" and action is Action.RETRY:
        action = Action.FAIL
    words = message if status in _WAITS_IN_WORDS else ""
    wait = pushback(response.headers, body, message=words, now=now, refused=status == 429)
    if status == 413 and wait is not None:  # "too large" that will pass (RFC 9110, 15.5.14)
        action = Action.RETRY
    return Verdict(
        action=action,
        reason=reason,
        status=status,
        pushback=None if action is Action.STOP else wait,
        overload=status in _OVERLOAD,
        stop=_STOP_KIND.get(status, "rejected"),
    )


def classify_error(error: TransportError | InvalidResponse, status: int | None = None) -> Verdict:
    """The verdict on an exchange that gave no whole answer, or a whole answer that is invalid."""
    reason = str(error)
    if isinstance(error, InvalidResponse):
        return Verdict(action=Action.RETRY, reason=reason, status=status, error_kind=error.error_kind)
    if isinstance(error, CertificateError):
        return Verdict(action=Action.STOP, reason=reason, stop="refused", unreachable=True)
    if isinstance(error, ResponseTooLarge):
        return Verdict(action=Action.FAIL, reason=reason)
    if isinstance(error, StaleConnectionError):
        return Verdict(action=Action.RESEND, reason=reason, unreachable=True)
    return Verdict(
        action=Action.RETRY,
        reason=reason,
        overload=isinstance(error, AttemptTimeout),
        unreachable=True,
        broke_off=not isinstance(error, ConnectError),
    )


def classify_invalid(
    response: Response, error: InvalidResponse, *, quotes: Callable[[str], bool] = lambda _: False
) -> Verdict:
    """The verdict on an answer that says success and is invalid: some APIs report their errors like that."""
    body = hidden_error(response.body)
    if (status := named_status(body)) is not None:
        return classify_response(response, meaning=status, quotes=quotes)
    if quota_exhausted(429, body, response.headers, message_of(response, body), quotes):
        reason = f"HTTP {response.status}: {said(response, body)}"
        return Verdict(action=Action.STOP, reason=reason, status=response.status, stop="quota")
    return classify_error(error, response.status)


def _redirected(response: Response) -> Verdict:
    there = _location(response)
    told = f"redirects to {there}; if that is right, put it into the url" if there else "redirects, but not to a URL"
    return Verdict(
        action=Action.STOP,
        reason=f"HTTP {response.status}: the endpoint {told}",
        status=response.status,
        stop="redirect",
    )


def _location(response: Response) -> str:
    """Where a redirect leads, fit to be shown; empty if that cannot be told."""
    given = response.headers.get("Location")
    if not given:
        return ""
    try:
        location = urljoin(response.url, given)
        return redact_url(location) if urlsplit(location).netloc else ""
    except ValueError:
        return ""
