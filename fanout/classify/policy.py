"""Decide the next step after an attempt without values: one policy for whatever HTTP APIs have in common, and no I/O.

The codec's ``classify`` goes first, for statuses that only its API gives another meaning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from fanout._url import redact_url
from fanout.classify.error_bodies import aws_status, error_body, error_message, error_text, hidden_error, named_status
from fanout.classify.quota import quota_exhausted
from fanout.classify.rate_limit_headers import pushback
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ConnectError,
    CredentialsError,
    InvalidResponse,
    MismatchedResponse,
    ResponseTooLarge,
    StaleConnectionError,
    TransportError,
)
from fanout.types import Action, Response, StopKind, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

_STATUS: dict[int, Action] = {
    400: Action.SPLIT,  # Triton means "too large", all others mean "a bad row"
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
# Statuses that a wrong URL can cause, and those of them that a base URL in place of the whole URL can cause.
_OF_THE_URL = frozenset({401, 403, 404, 405, 410})
_NO_SUCH_PAGE = frozenset({404, 405, 410})


def classify_response(
    response: Response,
    *,
    meaning: int | None = None,
    quotes: Callable[[str], bool] = lambda _: False,
) -> Verdict:
    """Classify an answer whose status is not 200 to 299.

    Args:
        meaning: the status that its API means, if that is another.
        quotes: true for words that the request holds, so that the answer may quote a row.
    """
    status = meaning or response.status
    if 300 <= status < 400:
        return _redirected(response)
    if status in (400, 403):
        status = aws_status(response) or status
    body = error_body(response.body) if response.status >= 300 else hidden_error(response.body)
    text = error_text(response, body)
    meant = "" if response.status >= 300 or meaning is None else f", which holds an error {meaning}"
    reason = f"HTTP {response.status}{meant}: {error_message(response, body)}"
    if quota_exhausted(status, body, response.headers, text, quotes):
        return Verdict(action=Action.STOP, reason=reason, status=status, stop="quota")
    action = _STATUS.get(status) or (Action.RETRY if status >= 500 or status < 200 else Action.SPLIT)
    should_retry = response.headers.get("x-should-retry", "").lower()
    if should_retry == "true":
        action = Action.RETRY
    elif should_retry == "false" and action is Action.RETRY:
        action = Action.FAIL
    words = text if status in _WAITS_IN_WORDS else ""
    wait = pushback(response.headers, body, message=words, refused=status == 429)
    if status == 413 and wait is not None:  # the condition is temporary (RFC 9110, 15.5.14)
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
    """Classify a request that got no complete answer, or a complete answer that is invalid."""
    reason = str(error)
    if isinstance(error, InvalidResponse):
        without_values = error.error_kind == "content" and not error.rows
        return Verdict(
            action=Action.RETRY,
            reason=reason,
            status=status,
            error_kind=error.error_kind,
            without_values=without_values,
        )
    if isinstance(error, CertificateError | CredentialsError):
        return Verdict(action=Action.STOP, reason=reason, stop="refused", unreachable=True)
    if isinstance(error, ResponseTooLarge):
        return Verdict(action=Action.FAIL, reason=reason)
    if isinstance(error, StaleConnectionError):
        return Verdict(action=Action.RESEND, reason=reason, unreachable=True)
    if isinstance(error, MismatchedResponse):  # the endpoint answers, so that this is no outage
        return Verdict(action=Action.RETRY, reason=reason, broke_off=True)
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
    """Classify an invalid answer with a status of success: some APIs report their errors like that."""
    body = hidden_error(response.body)
    if (status := named_status(body)) is not None:
        return classify_response(response, meaning=status, quotes=quotes)
    if quota_exhausted(429, body, response.headers, error_text(response, body), quotes):
        reason = f"HTTP {response.status}: {error_message(response, body)}"
        return Verdict(action=Action.STOP, reason=reason, status=response.status, stop="quota")
    return classify_error(error, response.status)


def with_address(verdict: Verdict, url: str, path: str, redact: Callable[[str], str]) -> Verdict:
    """Add the URL to the reason of a verdict that stops the run, where the URL may be the cause.

    Args:
        verdict: on an answer to a request to ``url``.
        url: of the request.
        path: the path that the codec's API usually has; empty if it has none.
        redact: removes the secrets of a URL.
    """
    if verdict.action is not Action.STOP or verdict.status not in _OF_THE_URL:
        return verdict
    # Most 404s come from a base URL in place of the whole URL.
    whole = whole_url(url, path) if verdict.status in _NO_SUCH_PAGE else ""
    remedy = f"; if that is the base URL of the API, set the url to {redact(whole)}" if whole else ""
    return replace(verdict, reason=f"{verdict.reason} (asked at {redact(url)}{remedy})")


def whole_url(url: str, path: str) -> str:
    """Complete a base URL such as ``.../v1`` with the rest of ``path``; empty if it ends in no part of ``path``."""
    parts = urlsplit(url)
    present = [part for part in parts.path.split("/") if part]
    usual = [part for part in path.split("/") if part]
    for shared in range(min(len(present), len(usual)), 0, -1):
        filled = [_filled(one, other) for one, other in zip(usual, present[-shared:], strict=False)]
        if all(one.startswith(other) for one, other in zip(filled, present[-shared:], strict=True)):
            rest = [part.replace("{model}", "NAME") for part in usual[shared:]]
            whole = [*present[:-shared], *filled, *rest]
            return "" if whole == present else parts._replace(path="/" + "/".join(whole)).geturl()
    return ""


def _filled(usual: str, present: str) -> str:
    """A part of the usual path with the name of the model that the URL has there."""
    return usual.replace("{model}", present.removesuffix(usual.partition("{model}")[2]))


def _redirected(response: Response) -> Verdict:
    target = _location(response)
    where = f"redirects to {target}; if that is right, put it into the url" if target else "redirects, but not to a URL"
    return Verdict(
        action=Action.STOP,
        reason=f"HTTP {response.status}: the endpoint {where}",
        status=response.status,
        stop="redirect",
    )


def _location(response: Response) -> str:
    """The target of a redirect, without secrets; empty if there is none."""
    header = response.headers.get("Location")
    if not header:
        return ""
    try:
        location = urljoin(response.url, header)
        return redact_url(location) if urlsplit(location).netloc else ""
    except ValueError:
        return ""
