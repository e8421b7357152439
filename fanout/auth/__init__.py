"""Authentication of requests, by type. Other packages register theirs in the entry point group ``fanout.auth``."""

from __future__ import annotations

from fanout.auth.authenticator import Authenticator
from fanout.auth.aws import SigV4Auth
from fanout.auth.base import ApiKeyAuth, Auth, BasicAuth, BearerAuth, Credentials, StaticAuth
from fanout.auth.clouds import AzureAuth, GoogleAuth
from fanout.auth.command import CommandAuth
from fanout.auth.oauth2 import OAuth2Auth
from fanout.options import Registry

__all__ = [
    "DEFAULT_TYPE", "ApiKeyAuth", "Auth", "Authenticator", "AzureAuth", "BasicAuth", "BearerAuth", "CommandAuth",
    "Credentials", "GoogleAuth", "OAuth2Auth", "SigV4Auth", "StaticAuth", "auth_class", "auth_types",
]  # fmt: skip

DEFAULT_TYPE = "bearer"
"""Type of an ``[auth]`` table that names none."""

_PACKAGED: dict[str, type[Auth]] = {
    "bearer": BearerAuth,
    "api-key": ApiKeyAuth,
    "basic": BasicAuth,
    "aws-sigv4": SigV4Auth,
    "google": GoogleAuth,
    "azure": AzureAuth,
    "oauth2": OAuth2Auth,
    "command": CommandAuth,
}
_REGISTRY: Registry[Auth] = Registry(Auth, "type of authentication", _PACKAGED, "fanout.auth", "type")


def auth_class(name: str) -> type[Auth]:
    """Return the class of the type of authentication with this name. Raises `ConfigError` if there is none."""
    return _REGISTRY.find(name)


def auth_types() -> list[str]:
    """Return the names of all types of authentication, the packaged ones first."""
    return _REGISTRY.names()
