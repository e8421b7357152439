"""The newest credentials of one client: obtained once for all requests that wait, and renewed in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any

from fanout._headers import require_headers
from fanout._redact import secrets_of
from fanout.auth.base import Credentials
from fanout.callbacks import awaiting
from fanout.errors import CallbackError, ConfigError, CredentialsError
from fanout.stop import WaitQueue

if TYPE_CHECKING:
    from fanout._redact import Redactor
    from fanout.auth.base import Auth

# Seconds that one try to obtain credentials may take.
_TIMEOUT = 30.0

# Once credentials have been obtained, a failure is hardly a mistake in the settings, so it is worth more tries.
_TRIES_AT_FIRST = 2
_TRIES_LATER = 6

# Seconds before the second try. The wait doubles with each try.
_FIRST_WAIT = 0.5

# Credentials are renewed 60 s before they expire, or with a fifth of a short life left.
_MARGIN = 60.0
_MARGIN_SHARE = 0.2

# Seconds after which credentials of unknown lifetime may have expired since they were obtained.
_FRESH = 0.1


class Authenticator:
    """Holds the credentials of one client, which all of its endpoints share.

    Credentials are obtained in a task of their own: an attempt that is cancelled while it waits, such as a hedged one,
    ends the wait of no other.
    """

    def __init__(self, auth: Auth, redactor: Redactor) -> None:
        self._auth = auth
        self._redactor = redactor
        self._loop = asyncio.get_running_loop()
        self._credentials: Credentials | None = None
        self._obtained_at = self._expires_at = -inf
        self._refused = False
        self._task: asyncio.Task[None] | None = None
        self.error: Exception | None = None
        """The reason why the last try to obtain credentials failed."""

        self.ended = WaitQueue()
        """Notified when credentials were obtained, or could not be."""

    @property
    def is_renewing(self) -> bool:
        """True while credentials are being obtained."""
        return self._task is not None

    def current(self) -> Credentials | None:
        """Return the credentials; None if there are none, or none that are still valid. They are then obtained."""
        if self._loop.time() < self._expires_at and not self._refused:
            return self._credentials
        if self._task is None:
            self.error = None
            self._task = self._loop.create_task(self._renew())
        return None

    def refuse(self, credentials: Credentials | None = None) -> None:
        """Note that a server has refused these credentials; the newest ones if not given."""
        if credentials is None or credentials is self._credentials:
            self._refused = True

    def were_fresh(self, sent_at: float) -> bool:
        """True if the newest credentials were obtained just before a request was sent, so that they had not expired."""
        return 0 <= sent_at - self._obtained_at <= _FRESH

    async def close(self) -> None:
        """Stop obtaining credentials."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def __repr__(self) -> str:
        return f"<Authenticator {type(self._auth).__name__}>"

    async def _renew(self) -> None:
        try:
            await self._obtain()
        except asyncio.CancelledError:
            self.error = CredentialsError("the client was closed while it obtained credentials")
            raise
        except Exception as error:  # noqa: BLE001 - raised by the requests that wait
            self.error = error
        finally:
            self._task = None
            self.ended.notify_all()

    async def _obtain(self) -> None:
        tries = _TRIES_LATER if self._credentials else _TRIES_AT_FIRST
        for number in range(tries):
            began = self._loop.time()
            try:
                credentials = await self._call()
            except CredentialsError as error:
                if not error.retryable or number == tries - 1:
                    raise
                await asyncio.sleep(_FIRST_WAIT * 2**number)
            else:
                self._set(credentials, began)
                return

    async def _call(self) -> Credentials:
        """Obtain credentials once. Raises `CredentialsError`, `ConfigError` and `CallbackError`."""
        try:
            async with asyncio.timeout(_TIMEOUT) as deadline:
                # A coroutine around it: code of the user's own may also raise before there is anything to await.
                credentials: Any = await awaiting("auth", self._obtained())
            if not isinstance(credentials, Credentials):
                kind = type(credentials).__name__
                raise ConfigError(f"credentials() of auth must return a fanout.Credentials, not {kind}", key="auth")
            return credentials
        except (CallbackError, ConfigError, CredentialsError):
            raise
        except Exception as error:
            reason = f"no credentials could be obtained ({type(error).__name__}: {error})"
            if deadline.expired():
                reason = f"no credentials were obtained within {_TIMEOUT:g} s"
            raise CredentialsError(reason) from error

    async def _obtained(self) -> Credentials:
        return await self._auth.credentials()

    def _set(self, credentials: Credentials, began: float) -> None:
        require_headers(credentials.headers, "auth")
        self._redactor.add([*credentials.secrets, *secrets_of("", credentials.headers)], temporary=True)
        now = self._loop.time()
        lifetime = inf if credentials.lifetime is None else credentials.lifetime
        margin = min(_MARGIN, lifetime * _MARGIN_SHARE)
        # A copy, because an `Auth` may return one object twice, and a refusal concerns the one that was in use.
        self._credentials = replace(credentials)
        self._obtained_at, self._refused = now, False
        # Those that took longer to obtain than they live are still used by the requests that wait.
        self._expires_at = max(began + lifetime - margin, now + _FRESH / 2)
