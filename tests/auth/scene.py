"""A verifier of AWS signatures, version 4, and an endpoint in virtual time that lets only signed requests pass.

The verifier is written from the description of the scheme, and `test_aws` holds it against AWS's published examples. It
shares no code with the signer.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import urllib.parse
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fanout.testing import MockEndpoint, Scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fanout.serving.exchange import ServerRequest

_FORM = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8}/[^/]+/[^/]+/aws4_request), "
    r"SignedHeaders=([\w;-]+), Signature=([0-9a-f]{64})"
)


class SignatureError(Exception):
    """The signature of a request is not valid."""


def signature(
    secret: str, scope: str, date: str, method: str, target: str, headers: list[tuple[str, str]], digest: str
) -> str:
    """The hexadecimal signature of a request, whose path is signed encoded once more.

    Args:
        target: path and query as they are sent.
        headers: the signed fields, in the order of their lower-case names.
    """
    path, _, query = target.partition("?")
    pairs = [pair.split("=", 1) if "=" in pair else [pair, ""] for pair in query.split("&")] if query else []
    decoded = [[urllib.parse.unquote(part.replace("+", " ")) for part in pair] for pair in pairs]
    ordered = sorted([urllib.parse.quote(part, safe="-_.~") for part in pair] for pair in decoded)
    request = f"{method}\n{urllib.parse.quote(path, safe='/-_.~')}\n{'&'.join('='.join(pair) for pair in ordered)}\n"
    for name, value in headers:
        request += f"{name.lower()}:{re.sub(' +', ' ', value.strip())}\n"
    request += "\n" + ";".join(name.lower() for name, _ in headers) + "\n" + digest
    text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


@dataclass
class Verifier:
    """Verifies requests as the servers of AWS do.

    Args:
        keys: access key -> secret key and session token.
        now: the present time in Unix time.
        oldest: seconds that a signature is valid.
    """

    keys: dict[str, tuple[str, str | None]]
    now: Callable[[], float]
    region: str = "us-east-1"
    service: str = "bedrock"
    oldest: float = 2.0

    def verify(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        """Raise `SignatureError` unless the request is signed by one of the keys, and just now."""
        given = {name.lower(): value for name, value in headers.items()}
        match = _FORM.fullmatch(given.get("authorization", ""))
        if match is None:
            raise SignatureError("Missing Authentication Token")
        access_key, scope, names, claimed = match.groups()
        date, digest = given["x-amz-date"], hashlib.sha256(body).hexdigest()
        if not {"host", "x-amz-date", "content-type"} & given.keys() <= set(names.split(";")):
            raise SignatureError("a field has to be signed")
        if scope != f"{date[:8]}/{self.region}/{self.service}/aws4_request":
            raise SignatureError("Credential should be scoped to a valid region")
        if given.get("x-amz-content-sha256", digest) != digest:
            raise SignatureError("the digest is not that of the body")
        if access_key not in self.keys or given.get("x-amz-security-token") != self.keys[access_key][1]:
            raise SignatureError("The security token included in the request is invalid")
        fields = [(name, given[name]) for name in names.split(";")]
        if claimed != signature(self.keys[access_key][0], scope, date, method, target, fields, digest):
            raise SignatureError("The request signature we calculated does not match the signature you provided")
        age = self.now() - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if not -1 < age <= self.oldest:
            raise SignatureError(f"Signature expired: {date} is {age:g} s old")


class SignedEndpoint(MockEndpoint):
    """An endpoint that refuses requests as AWS does. ``refusals`` has the reasons."""

    def __init__(self, model: Any, verifier: Verifier, **options: Any) -> None:
        super().__init__(model, faults=self._verify, **options)
        self.verifier = verifier
        self.refusals: list[str] = []

    def _verify(self, request: ServerRequest) -> Any:
        try:
            headers = {
                "host": self.origin.removeprefix("http://"),
                **request.headers,
            }  # which no session has added here
            self.verifier.verify(request.method, request.path, headers, request.body)
        except SignatureError as error:
            self.refusals.append(str(error))
            return Scripted(status=403, body=f'{{"message": "{error}"}}'.encode())
        return None
