"""A mock of a vendor's API, as a transport: it checks requests as the vendor documents them, and refuses some."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zlib import crc32

import orjson
from multidict import CIMultiDict

from fanout.types import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.transport import Request

TOKEN = "test-token-0123456789"
KINDS = {str: "string", int: "integer", bool: "boolean", list: "array", dict: "object", float: "number"}


class Refused(Exception):
    """The API refuses a request with this status and these words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Api:
    """One method of a vendor's API.

    Attributes:
        options: keys of ``[codec]`` beside the preset.
        path: path and query of its URL, as documented.
        own: keys of ``[codec]`` that are none of the preset's parameters, where the API leaves the body to its users.
        auth: the job's ``[auth]``.
        header: name of the header field with the credentials, and a pattern of its value for a token.
        unauthorized: status and words for wrong credentials.
        error_type: value of ``x-amzn-ErrorType`` by status; AWS alone has that field.
        headers: further required header fields.
        required: required fields of the body: name to type, or to the values that are allowed.
        optional: the optional fields.
        unknown: status for an unknown field; 0 if the API ignores it.
        invalid: status for a missing or wrong field.
        row: makes row i of the test's input.
        answer: makes the documented response to a body, or raises `Refused`.
        expected: the right output of a row.
        error: makes the body of an error from its status and words.
        busy: statuses of transient errors.
        n_rows: counts the rows of a body; 1 if not given.
        largest: most rows in one request.
    """

    preset: str
    options: Mapping[str, Any]
    path: str
    row: Callable[[int], Any]
    answer: Callable[[Any], Any]
    expected: Callable[[Any], Any]
    error: Callable[[int, str], Any]
    own: Mapping[str, Any] = field(default_factory=dict)
    auth: str = 'token = "${TOKEN}"'
    header: tuple[str, str] = ("Authorization", "Bearer {}")
    unauthorized: tuple[int, str] = (401, "invalid API key")
    error_type: Mapping[int, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    unknown: int = 400
    invalid: int = 400
    busy: tuple[int, ...] = (429, 500, 503)
    n_rows: Callable[[Any], int] = lambda _: 1
    largest: int | None = None
    too_many: int = 400

    def check(self, request: Request) -> Any:
        """Return the body of a request. Raises `Refused` if the vendor would."""
        parts = urlsplit(request.url)
        if f"{parts.path}?{parts.query}".removesuffix("?") != self.path:
            raise Refused(404, f"no such page: {parts.path}?{parts.query}")
        name, value = self.header
        if not re.fullmatch(value.format(TOKEN), request.headers.get(name, "")):
            raise Refused(*self.unauthorized)
        if request.headers.get("Content-Type") != "application/json":
            raise Refused(415, "the content type must be application/json")
        for name, value in self.headers.items():
            if request.headers.get(name) != value:
                raise Refused(400, f"{name}: header is required")
        body = orjson.loads(request.joined())
        self._check_fields(body)
        if self.largest is not None and self.n_rows(body) > self.largest:
            raise Refused(self.too_many, f"at most {self.largest} rows are allowed, not {self.n_rows(body)}")
        return body

    def _check_fields(self, body: Any) -> None:
        for name in self.required:
            if name not in body:
                raise Refused(self.invalid, f"{name}: field required")
        for name, value in body.items():
            wanted = self.required.get(name, self.optional.get(name))
            if wanted is None and self.unknown:
                raise Refused(self.unknown, f"{name}: extra fields are not permitted")
            if isinstance(wanted, tuple) and value not in wanted:
                raise Refused(self.invalid, f"{name}: must be one of {wanted}")
            if isinstance(wanted, type) and type(value) is not wanted and not (wanted is float and type(value) is int):
                raise Refused(self.invalid, f"{name}: {KINDS[type(value)]} is not a {KINDS[wanted]}")


class MockApi:
    """The transport. A fixed share of the first attempts meets a transient error, chosen by the seed.

    Args:
        api: the API.
        share: the share of requests with a transient error.
        seed: another one chooses other requests and latencies.
    """

    def __init__(self, api: Api, share: float = 0.0, seed: int = 1) -> None:
        self._api = api
        self._random = random.Random(seed)
        self._share = share
        self._pending = 0
        self.statuses: Counter[int] = Counter()
        self.sizes: list[int] = []
        self.most_in_flight = 0

    @property
    def requests(self) -> int:
        return self.statuses.total()

    async def send(self, request: Request) -> Response:
        number = self.requests + self._pending
        self._pending += 1
        self.most_in_flight = max(self.most_in_flight, self._pending)
        try:
            await asyncio.sleep(self._random.uniform(0.05, 0.5))
            status, document = self._respond(request, number)
        finally:
            self._pending -= 1
        self.statuses[status] += 1
        headers = CIMultiDict({"Content-Type": "application/json"})
        if status == 429:
            headers["Retry-After"] = "1"
        if status in self._api.error_type:
            headers["x-amzn-ErrorType"] = self._api.error_type[status]
        return Response(status=status, headers=headers, body=orjson.dumps(document), url=request.url)

    def _respond(self, request: Request, number: int) -> tuple[int, Any]:
        api = self._api
        try:
            body = api.check(request)
            # Every request of a block of 1 / share has the same chance, and one of them fails.
            if self._share and number % round(1 / self._share) == 7:
                status = self._random.choice(api.busy)
                return status, api.error(status, "too many requests" if status == 429 else "try again later")
            self.sizes.append(api.n_rows(body))
            return 200, api.answer(body)
        except Refused as refused:
            return refused.status, api.error(refused.status, str(refused))


class EmbeddingsTransport:
    """A transport that answers embeddings and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def send(self, request):
        self.requests.append(request)
        texts = orjson.loads(request.joined())["input"]
        items = ",".join(f'{{"index":{i},"embedding":[{i},1]}}' for i in range(len(texts)))
        return Response(status=200, headers={}, body=f'{{"data":[{items}]}}'.encode(), url=request.url)


def vector(text: str, width: int = 4) -> list[float]:
    """Return the vector that all mocks give for a text; float32 holds it exactly."""
    return [(crc32(f"{place}{text}".encode()) % 4096 - 2048) / 1024 for place in range(width)]


def score(query: str, text: str) -> float:
    """Return the score that all mocks give for a pair of texts; float32 holds it exactly."""
    return crc32(f"{query}\0{text}".encode()) % 65536 / 65536


def shuffled(items: list[Any]) -> list[Any]:
    """Return items in another order, that of their content."""
    return sorted(items, key=lambda item: crc32(orjson.dumps(item)))
