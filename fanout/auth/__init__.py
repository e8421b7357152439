"""Authentication of requests, by type. Other packages register theirs in the entry point group ``fanout.auth``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy
from fanout.auth.base import Auth
from fanout.options import Registry

if TYPE_CHECKING:
    from fanout.auth.authenticator import Authenticator
    from fanout.auth.base import Credentials, StaticAuth
    from fanout.auth.clouds import AzureAuth, GoogleAuth, SigV4Auth
    from fanout.auth.command import CommandAuth
    from fanout.auth.oauth2 import OAuth2Auth
    from fanout.auth.static import ApiKeyAuth, BasicAuth, BearerAuth

__all__ = [
    "DEFAULT_TYPE", "ApiKeyAuth", "Auth", "Authenticator", "AzureAuth", "BasicAuth", "BearerAuth", "CommandAuth",
    "Credentials", "GoogleAuth", "OAuth2Auth", "SigV4Auth", "StaticAuth", "auth_class", "auth_types",
]  # fmt: skip

DEFAULT_TYPE = "bearer"
"""Type of an ``[auth]`` table that names none."""

_PACKAGED = {
    "bearer": "fanout.auth.static:BearerAuth",
    "api-key": "fanout.auth.static:ApiKeyAuth",
    "basic": "fanout.auth.static:BasicAuth",
    "aws-sigv4": "fanout.auth.clouds:SigV4Auth",
    "google": "fanout.auth.clouds:GoogleAuth",
    "azure": "fanout.auth.clouds:AzureAuth",
    "oauth2": "fanout.auth.oauth2:OAuth2Auth",
    "command": "fanout.auth.command:CommandAuth",
}
_HOMES = {"fanout.auth.authenticator": ("Authenticator",), "fanout.auth.base": ("Credentials", "StaticAuth")}
__getattr__ = lazy(__name__, _HOMES, _PACKAGED.values())
_REGISTRY: Registry[Auth] = Registry(Auth, "type of authentication", _PACKAGED, "fanout.auth", "type")


def auth_class(name: str) -> type[Auth]:
    """Return the class of the type of authentication with this name. Raises `ConfigError` if there is none."""
    return _REGISTRY.find(name)


def auth_types() -> list[str]:
    """Return the names of all types of authentication, the packaged ones first."""
    return _REGISTRY.names()
