"""Where a refused request went, and where it should have gone: most 404s are a base URL given for the whole one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fanout.types import Action

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.types import Verdict

_OF_THE_URL = frozenset({401, 403, 404, 405, 410})
_NO_SUCH_PAGE = frozenset({404, 405, 410})


def with_address(verdict: Verdict, url: str, path: str, shown: Callable[[str], str]) -> Verdict:
    """``verdict`` with the URL in its reason, where a status that stops the run may be the URL's fault.

    Args:
        verdict: on an answer to a request to ``url``.
        url: where the request went.
        path: the path that the codec's API usually has; empty where there is none.
        shown: makes a URL fit to be shown.
    """
    if verdict.action is not Action.STOP or verdict.status not in _OF_THE_URL:
        return verdict
    told = f"{verdict.reason} (asked at {shown(url)}"
    whole = whole_url(url, path) if verdict.status in _NO_SUCH_PAGE else ""
    told += f"; if that is the base URL of the API, set the url to {shown(whole)})" if whole else ")"
    return replace(verdict, reason=told)


def whole_url(url: str, path: str) -> str:
    """A base URL such as ``.../v1``, completed by the rest of ``path``; empty where it does not end in a part of it."""
    parts = urlsplit(url)
    given = [part for part in parts.path.split("/") if part]
    usual = [part for part in path.split("/") if part]
    for shared in range(min(len(given), len(usual)), 0, -1):
        filled = [_filled(one, other) for one, other in zip(usual, given[-shared:], strict=False)]
        if all(one.startswith(other) for one, other in zip(filled, given[-shared:], strict=True)):
            rest = [part.replace("{model}", "NAME") for part in usual[shared:]]
            whole = [*given[:-shared], *filled, *rest]
            return "" if whole == given else parts._replace(path="/" + "/".join(whole)).geturl()
    return ""


def _filled(usual: str, given: str) -> str:
    """A part of the usual path with the name of the model that was given there."""
    return usual.replace("{model}", given.removesuffix(usual.partition("{model}")[2]))
