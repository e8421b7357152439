"""Authentication of requests, by type. Other packages register theirs in the entry point group ``fanout.auth``."""

from __future__ import annotations

from fanout.auth.base import Auth, Credentials, StaticAuth
from fanout.auth.static import ApiKeyAuth, BasicAuth, BearerAuth
from fanout.registry import Registry

__all__ = ["ApiKeyAuth", "Auth", "BasicAuth", "BearerAuth", "Credentials", "StaticAuth", "auth_class", "auth_types"]

DEFAULT_TYPE = "bearer"
"""Type of an ``[auth]`` table that names none."""

_PACKAGED: dict[str, type[Auth]] = {"bearer": BearerAuth, "api-key": ApiKeyAuth, "basic": BasicAuth}
_REGISTRY: Registry[Auth] = Registry(Auth, "type of authentication", _PACKAGED, "fanout.auth", "type")


def auth_class(name: str) -> type[Auth]:
    """Return the class of the type of authentication with this name. Raises `ConfigError` if there is none."""
    return _REGISTRY.find(name)


def auth_types() -> list[str]:
    """Return the names of all types of authentication, the packaged ones first."""
    return _REGISTRY.names()
