"""Credentials of clouds, which the libraries of these clouds find and renew: Google, Microsoft Azure and AWS.

Google and Azure give tokens. AWS requests are signed, version 4 (SigV4), each as it is sent. The scheme:
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import os
import time
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from fanout._url import USUAL_PORTS
from fanout.auth.base import BlockingAuth, Credentials, bearer, require_secret, require_texts
from fanout.errors import ConfigError, CredentialsError, needs_extra
from fanout.options import checks_options

if TYPE_CHECKING:
    from fanout.transport import Request

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNRESERVED = "-_.~"

# Seconds after which keys of AWS that expire at an unknown time are looked up again.
_LOOK_UP_AGAIN = 300.0


@checks_options
@dataclass(frozen=True, kw_only=True)
class GoogleAuth(BlockingAuth):
    """A token of Google's application default credentials, for Vertex AI and Cloud Run. Needs the extra ``google``.

    They come from GOOGLE_APPLICATION_CREDENTIALS, ``gcloud auth application-default login``, or the metadata server of
    a machine in Google Cloud.
    """

    scopes: tuple[str, ...] = ("https://www.googleapis.com/auth/cloud-platform",)
    """Scopes of the access token."""

    audience: str | None = None
    """URL of a service on Cloud Run or behind IAP: it gets an identity token for this audience, not an access token."""

    quota_project: str | None = None
    """Project that pays for the requests, if it is not that of the credentials."""

    def __post_init__(self) -> None:
        scopes: Any = self.scopes
        if isinstance(scopes, str) or not scopes or not all(isinstance(scope, str) for scope in scopes):
            raise ConfigError("scopes must be a list of texts", key="scopes")
        object.__setattr__(self, "scopes", tuple(scopes))  # a list is accepted, and frozen with the rest
        require_texts(self, "audience", "quota_project")

    def obtain(self) -> Credentials:
        """Obtain a token."""
        try:
            import google.auth
            import google.auth.exceptions as errors
            import google.auth.jwt
            import google.auth.transport.requests
            import google.oauth2.id_token
        except ImportError:
            raise needs_extra("auth of type 'google'", "google", key="auth.type") from None
        request = google.auth.transport.requests.Request()
        try:
            if self.audience is not None:
                token = google.oauth2.id_token.fetch_id_token(request, self.audience)
                expires = google.auth.jwt.decode(token, verify=False)["exp"]
            else:
                # A new source for each token: one that is kept would return the token from its cache that a server has
                # refused.
                source, _ = google.auth.default(scopes=self.scopes, quota_project_id=self.quota_project)
                source.refresh(request)
                token, expiry = source.token, source.expiry
                expires = None if expiry is None else expiry.replace(tzinfo=UTC).timestamp()
        except errors.DefaultCredentialsError as error:
            raise ConfigError(f"there are no Google credentials: {error}", key="auth") from None
        except errors.GoogleAuthError as error:
            # The library does not mark its failures of the network as retryable.
            again = error.retryable or isinstance(error, errors.TransportError)
            raise CredentialsError(f"Google gives no token: {error}", retryable=again) from None
        headers = bearer(token)
        # The library adds this field to its own requests; these are fanout's.
        if self.quota_project is not None:
            headers["X-Goog-User-Project"] = self.quota_project
        return Credentials(headers=headers, lifetime=_seconds_until(expires))


@checks_options
@dataclass(frozen=True, kw_only=True)
class AzureAuth(BlockingAuth):
    """A token of Microsoft Entra ID, for Azure OpenAI and Azure Machine Learning. Needs the extra ``azure``.

    ``DefaultAzureCredential`` obtains it: from the environment, a workload or managed identity, or ``az login``.
    """

    scope: str = "https://cognitiveservices.azure.com/.default"
    """Scope of the token; for Azure Machine Learning https://ml.azure.com/.default."""

    client_id: str | None = None
    """Id of a managed identity that a user has assigned."""

    def __post_init__(self) -> None:
        require_texts(self, "scope", "client_id")

    def obtain(self) -> Credentials:
        """Obtain a token."""
        try:
            from azure.core.exceptions import ClientAuthenticationError, ServiceRequestError
            from azure.identity import CredentialUnavailableError, DefaultAzureCredential
        except ImportError:
            raise needs_extra("auth of type 'azure'", "azure", key="auth.type") from None
        # A new object has no token in its cache, which the server may have refused.
        with DefaultAzureCredential(managed_identity_client_id=self.client_id) as source:
            try:
                token = source.get_token(self.scope)
            except CredentialUnavailableError as error:
                raise ConfigError(f"there are no Azure credentials: {error.message}", key="auth") from None
            except ClientAuthenticationError as error:
                raise CredentialsError(f"Azure gives no token: {error.message}", retryable=False) from None
            except ServiceRequestError as error:
                raise CredentialsError(f"Azure gives no token: {error.message}") from None
        return Credentials(headers=bearer(token.token), lifetime=_seconds_until(token.expires_on))


def _seconds_until(when: float | None) -> float | None:
    """Return the seconds until ``when``, in Unix time."""
    return None if when is None else max(0.0, when - time.time())


@checks_options
@dataclass(frozen=True, kw_only=True)
class SigV4Auth(BlockingAuth):
    """A signature of AWS, version 4, in each request. Needs the extra ``aws``."""

    service: str
    """Name of the service in signatures, such as bedrock or sagemaker."""

    region: str | None = None
    """Region, such as us-east-1; if not given, that of AWS_REGION, AWS_DEFAULT_REGION or the profile."""

    profile: str | None = None
    """Profile in the files of the AWS tools; if not given, AWS_PROFILE or the default one."""

    def __post_init__(self) -> None:
        require_secret("service", self.service)
        require_texts(self, "region", "profile")

    def obtain(self) -> Credentials:
        """Look up the keys."""
        try:
            import botocore.exceptions
            import botocore.session
        except ImportError:
            raise needs_extra("auth of type 'aws-sigv4'", "aws", key="auth.type") from None
        try:
            # A new session reads the files again: keys may have been replaced in them.
            session = botocore.session.Session(profile=self.profile)
            region = self.region or os.environ.get("AWS_REGION") or session.get_config_variable("region")
            source = session.get_credentials()
            keys = None if source is None else source.get_frozen_credentials()
        except botocore.exceptions.ProfileNotFound as error:
            raise ConfigError(str(error), key="auth.profile") from None
        except botocore.exceptions.BotoCoreError as error:
            # botocore itself has tried several times, if that could help.
            raise CredentialsError(f"AWS credentials cannot be obtained: {error}", retryable=False) from None
        if keys is None or source is None:
            places = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile"
            raise ConfigError(f"there are no AWS credentials: {places}", key="auth")
        if not region:
            raise ConfigError("region is missing, and neither AWS_REGION nor the profile has one", key="auth.region")
        scope = Scope(keys.access_key, keys.secret_key, keys.token, region, self.service)
        secrets = tuple(key for key in (keys.access_key, keys.secret_key, keys.token) if key)
        return Credentials(sign=partial(sign_now, scope), secrets=secrets, lifetime=_lifetime_of(source))


class Scope(NamedTuple):
    """The keys of a signature, and its scope."""

    access_key: str
    secret_key: str
    session_token: str | None
    region: str
    service: str

    def __repr__(self) -> str:
        # That of a named tuple would show the keys.
        return f"Scope(region={self.region!r}, service={self.service!r})"


def sign_now(scope: Scope, request: Request) -> dict[str, str]:
    """Return the header fields that sign ``request`` at the present time."""
    return sign(scope, request, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time())))


def sign(scope: Scope, request: Request, time_stamp: str) -> dict[str, str]:
    """Return the header fields that sign ``request`` at ``time_stamp``, such as ``20261130T120000Z``.

    Signed are the method, the URL, the host, the content type, the time and the whole body.
    """
    parts = urlsplit(request.url)
    digest = sha256()
    for part in request.body:
        digest.update(part)
    fields = {"X-Amz-Date": time_stamp, "X-Amz-Content-SHA256": digest.hexdigest()}
    if scope.session_token:
        fields["X-Amz-Security-Token"] = scope.session_token
    signed = {name.lower(): " ".join(value.split()) for name, value in fields.items()}
    # The signature must have the host that aiohttp sends, which adds the field only below this point.
    signed["host"] = request.headers.get("Host") or _host(parts.scheme, parts.hostname or "", parts.port)
    if (content_type := request.headers.get("Content-Type")) is not None:
        signed["content-type"] = " ".join(content_type.split())
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            request.method,
            # The path as it is sent is encoded once more; S3 alone signs it as it is.
            parts.path or "/" if scope.service == "s3" else quote(parts.path or "/", safe=f"/{_UNRESERVED}"),
            _canonical_query(parts.query),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            digest.hexdigest(),
        ]
    )
    scoped = f"{time_stamp[:8]}/{scope.region}/{scope.service}/aws4_request"
    to_sign = "\n".join([_ALGORITHM, time_stamp, scoped, sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{scope.secret_key}".encode()
    # A key holds for one day. Deriving it for each request takes four digests of a few bytes, and needs no cache.
    for word in scoped.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={scope.access_key}/{scoped}"
    fields["Authorization"] = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return fields


def _host(scheme: str, host: str, port: int | None) -> str:
    """Return the field Host as it is sent: without the usual port of the scheme."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port in (None, USUAL_PORTS.get(scheme)) else f"{shown}:{port}"


def _canonical_query(query: str) -> str:
    # AWS signs the parameters sorted by name, also where a URL has them in another order.
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _lifetime_of(source: Any) -> float | None:
    """Return the seconds for which botocore's credentials are valid; None if they do not expire."""
    if not hasattr(source, "refresh_needed"):
        return None
    # botocore keeps the time to itself, and renews by it.
    expiry = getattr(source, "_expiry_time", None)
    return _LOOK_UP_AGAIN if expiry is None else max(0.0, expiry.timestamp() - time.time())
