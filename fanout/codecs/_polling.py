"""Asynchronous APIs: the response to a request names a URL, and a later GET there finds the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import orjson

from fanout import exact_json
from fanout._url import require_web_url
from fanout.codecs._options import PollOptions, count_or_none, require_keys
from fanout.codecs._paths import finder
from fanout.codecs._rows import json_text
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.types import Response

if TYPE_CHECKING:
    from fanout.codecs._paths import Finder, UsagePaths

_HEADER = "header:"
_REQUIRED = ("url", "until")
# The other keys say how long to wait and for whom; a run may go on with other values.
_OF_IDENTITY = ("url", "until", "result")


class Polling:
    """The way to the result of a job.

    Raises `ConfigError` for a key that is missing, unknown or cannot be used.

    Args:
        usage: paths to the counts in the state of a job that has ended.

    Attributes:
        every: seconds between two GETs.
        timeout: seconds until the rows fail.
        origins: other origins that a URL may have. No credentials are sent there.
        most: jobs that may wait at once, beside the requests in flight.
        identity: the keys that distinguish one run from another.
    """

    def __init__(self, given: Any, usage: UsagePaths | None = None) -> None:
        if not isinstance(given, Mapping):
            raise ConfigError(f"poll must be a table, not {given!r}", key="poll")
        require_keys("poll", given, PollOptions.__annotations__)
        for key in _REQUIRED:
            if key not in given:
                raise ConfigError(f"poll needs the key {key!r}", key="poll")
        url = given["url"]
        self._header = url[len(_HEADER) :] if isinstance(url, str) and url.startswith(_HEADER) else None
        self._url = finder(url, "poll.url") if self._header is None else None
        self._until = finder(given["until"], "poll.until")
        self._result: Finder | None = finder(given["result"], "poll.result") if "result" in given else None
        self.every = _positive(given.get("every", 1.0), "poll.every")
        self.timeout = _positive(given.get("timeout", 600.0), "poll.timeout")
        self.most = count_or_none("poll.most", given.get("most", 100)) or 100
        self.shown_url = url
        self._usage = usage
        origins = given.get("origins", ())
        if isinstance(origins, str) or not isinstance(origins, Sequence):
            raise ConfigError('poll.origins must be a list, such as ["https://files.example.com"]', key="poll.origins")
        for origin in origins:
            require_web_url(origin, "poll.origins")
            if urlsplit(origin).path.strip("/"):
                raise ConfigError(f"poll.origins has a URL with a path, not an origin: {origin}", key="poll.origins")
        self.origins = tuple(origins)
        self.identity = {key: given[key] for key in _OF_IDENTITY if key in given}

    def url(self, response: Response, base: str) -> str | None:
        """The URL that a response names, joined with ``base``, the URL of the request; None if it names none."""
        # Azure and others name the job in a header field such as Operation-Location, and send no body.
        if self._header is not None:
            found: Any = response.headers.get(self._header)
        else:
            assert self._url is not None
            document = parsed(response)
            found = None if document is None else _found(self._url, document)
        return _joined(base, found) if isinstance(found, str) and found else None

    def is_done(self, response: Response) -> bool | None:
        """True once the answers are there. None for a response that is no JSON."""
        document = parsed(response)
        if document is None:
            return None
        value = _found(self._until, document)
        # The values that JMESPath takes for false; 0 is none of them.
        return value is not None and value is not False and value != "" and value != [] and value != {}

    def usage(self, response: Response) -> dict[str, int]:
        """The counts in the state of a job, which are outside of its result."""
        return {} if self._usage is None else self._usage.of(parsed(response))

    def result(self, response: Response, base: str) -> Response | str:
        """The response that the codec decodes, from one that is done; or the URL at which it is."""
        if self._result is None:
            return response
        value = _found(self._result, parsed(response))
        # Some APIs give the URL of the result in place of the result.
        if isinstance(value, str) and value.startswith(("https://", "http://", "/")) and (url := _joined(base, value)):
            return url
        return Response(status=200, headers=response.headers, body=json_text(value).encode(), url=response.url)


def parsed(response: Response) -> Any:
    """The document in a response; None if it is not JSON."""
    try:
        return exact_json.loads(bytes(response.body))
    except orjson.JSONDecodeError:
        return None


def _found(find: Finder, document: Any) -> Any:
    try:
        return find(document)
    except Unfit:
        return None


def _joined(base: str, url: str) -> str | None:
    try:
        joined = urljoin(base, url)
        parts = urlsplit(joined)
        return joined if parts.scheme in ("http", "https") and parts.hostname else None
    except ValueError:
        return None


def _positive(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{key} must be a number above 0, not {value!r}", key=key)
    return float(value)
