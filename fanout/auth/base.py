"""The interface of authentication: an `Auth` obtains `Credentials`, whose header fields go with every request."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fanout._headers import require_headers, require_no_literals
from fanout._redact import secrets_of
from fanout._variables import has_reference
from fanout.errors import ConfigError
from fanout.threads import DaemonThread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from dataclasses import Field

    from fanout.transport import Request

    Sign: TypeAlias = Callable[[Request], Mapping[str, str]]


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """Header fields that authenticate requests, and their lifetime. The repr shows no value."""

    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Header fields of every request."""

    sign: Sign | None = field(default=None, repr=False)
    """Returns further header fields for one request, such as its signature. It is called each time a request is sent,
    and must not block."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Texts to redact, in addition to the values of ``headers``."""

    lifetime: float | None = None
    """Seconds for which they are valid, counted from the moment they were requested; if not given, until a server
    refuses them."""

    def __post_init__(self) -> None:
        lifetime: Any = self.lifetime
        if lifetime is not None and not (isinstance(lifetime, int | float) and lifetime >= 0):
            raise ConfigError(f"lifetime must be a number of seconds, 0 or more, not {lifetime!r}", key="auth")

    def __reduce__(self) -> tuple[Any, ...]:
        problem = "credentials do not travel to other processes: send the Auth, which obtains them there"
        raise ConfigError(problem, key="auth")


class Auth(ABC):
    """A source of credentials. Subclass it for one of your own, and give it as ``Client(auth=...)``.

    Credentials never become part of the journal, of recordings, of messages or of the identity of a run.
    """

    @abstractmethod
    async def credentials(self) -> Credentials:
        """Obtain new credentials.

        It is called before the first request, before they expire, and when a server refuses them (a 401, or a 403 that
        says "expired"); never twice at a time. Each result serves all requests that wait. It may take 30 s.

        Raises:
            CredentialsError: none could be obtained. It is called again a few times if the error is ``retryable``, as
                after any other exception; then the run stops, and can be resumed.
            ConfigError: the settings are wrong, which ends the run at once.
        """

    @property
    def secrets(self) -> Iterable[str]:
        """Texts to redact; in a dataclass, all texts in fields with ``repr=False``."""
        values = [getattr(self, name) for name in _hidden_fields(self)]
        return [value for value in values if value and isinstance(value, str)]

    @property
    def secret_fields(self) -> Iterable[str]:
        """Names of the fields that hold secrets, which pickle refuses; in a dataclass, those with ``repr=False``."""
        return _hidden_fields(self)

    def __getstate__(self) -> dict[str, Any]:
        values = {name: vars(self).get(name) for name in self.secret_fields}
        # The name of an environment variable travels; the value of a secret never does.
        literals = [name for name, value in values.items() if isinstance(value, str) and value]
        # A class of the user's own does not say which attributes hold its secrets, so that none of them may travel.
        if not is_dataclass(self) and self.secrets:
            literals = [type(self).__name__]
        require_no_literals([f"auth.{name}" for name in literals if not has_reference(values.get(name) or "")])
        return dict(vars(self))


def _hidden_fields(auth: Auth) -> list[str]:
    every: Iterable[Field[Any]] = fields(auth) if is_dataclass(auth) else ()
    return [one.name for one in every if not one.repr]


class StaticAuth(Auth):
    """Credentials that never change: they cost nothing per request, and are not renewed."""

    @property
    @abstractmethod
    def headers(self) -> Mapping[str, str]:
        """Header fields of every request."""

    async def credentials(self) -> Credentials:
        """Return `headers`."""
        return Credentials(headers=self.headers)

    @property
    def secrets(self) -> Iterable[str]:
        """The secret fields, and all parts of the header values."""
        # A server may repeat the encoded form, such as that of name and password, and not only the secret itself.
        return [*super().secrets, *secrets_of("", self.headers)]


class BlockingAuth(Auth):
    """Credentials of a library that blocks, on a thread of its own."""

    @abstractmethod
    def obtain(self) -> Credentials:
        """Obtain new credentials. It raises as `credentials` does."""

    async def credentials(self) -> Credentials:
        """Obtain new credentials."""
        return await on_daemon_thread(self.obtain)


def require_secret(name: str, value: object) -> None:
    """Raise `ConfigError` unless ``value`` is a text that fits into a header. The value is not shown."""
    if not isinstance(value, str) or not value.strip():
        shown = "an empty one" if isinstance(value, str) else type(value).__name__
        raise ConfigError(f"{name} must be a text that is not empty, not {shown}", key=name)
    try:
        # The same check as for header fields, but its message would name the field that stands in for the option.
        require_headers({"Authorization": value})
    except ConfigError:
        raise ConfigError(f"{name} holds a line break or another control character", key=name) from None


def bearer(token: str) -> dict[str, str]:
    """Return the header field for a token (RFC 6750)."""
    return {"Authorization": f"Bearer {token}"}


def require_texts(auth: Auth, *names: str) -> None:
    """Raise `ConfigError` unless the fields with these ``names`` are None, or texts that fit into a header."""
    for name in names:
        if (value := getattr(auth, name)) is not None:
            require_secret(name, value)


async def on_daemon_thread(call: Callable[..., T], *arguments: object) -> T:
    """Call a function that may block. If the wait is cancelled, nothing waits for the call any more."""
    # A command or a metadata server may hang for ever, and the interpreter waits for the threads of a pool.
    thread = DaemonThread("fanout-auth")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, call, *arguments)
    finally:
        thread.shutdown()
