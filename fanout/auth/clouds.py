"""Tokens of Google Cloud and Microsoft Azure, which the libraries of these clouds find and renew."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from fanout.auth.base import BlockingAuth, Credentials, bearer, require_texts
from fanout.errors import ConfigError, CredentialsError, needs_extra
from fanout.options import checks_options


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
