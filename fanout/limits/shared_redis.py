"""Shared limits in Redis or Valkey: a script decides on the server's clock, and notices come by publish and subscribe.

GCRA in a script, as redis-cell and limiters of others have it; here all limits of a request are decided at once, and
those of all requests that one client wants to send in one call. Keys begin with ``fanout:``.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import cache
from importlib.resources import files
from math import isfinite
from typing import TYPE_CHECKING, Any

import orjson

from fanout._url import redact_url
from fanout.errors import ConfigError
from fanout.limits.shared import (
    HORIZON,
    KEY,
    LIFETIME,
    Answer,
    BackendLostError,
    Decided,
    LimitsBackend,
    Notice,
    Reply,
)
from fanout.limits.shared_state import ASK_AGAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fanout.limits.shared import Bounds, Call

# Seconds for a connection and for an answer. A server that hangs is as good as gone.
_TIMEOUT = 5.0

# Milliseconds for which Redis keeps the state after the last call.
_KEEP = 7 * 24 * 3600 * 1000

_COOL_DOWN = """
local now = redis.call('TIME')
local till = now[1] + now[2] / 1000000 + ARGV[3]
if till > tonumber(redis.call('HGET', KEYS[1], 'cooldown ' .. ARGV[2]) or 0) then
  redis.call('HSET', KEYS[1], 'cooldown ' .. ARGV[2], string.format('%.17g', till))
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('PUBLISH', ARGV[1], 'cooldown ' .. ARGV[2] .. ' ' .. ARGV[3])
"""


class RedisBackend(LimitsBackend):
    """Keeps limits in one hash of a Redis or Valkey server. See `LimitsBackend`."""

    def __init__(self, url: str, key: str, bounds: Bounds) -> None:
        super().__init__(url, key, bounds)
        self._name = f"fanout:{{{key}}}:limits"
        self._client: Any = None
        self._subscription: Any = None
        self._reserve: Any = None
        self._cool_down: Any = None

    async def connect(self) -> None:
        """See `LimitsBackend.connect`."""
        await self.close()
        async with _errors(self.url):
            self._client = client = _client(self.url)
            self._reserve = client.register_script(script_text())
            self._cool_down = client.register_script(_COOL_DOWN)
            self._subscription = client.pubsub(ignore_subscribe_messages=True)
            await self._subscription.subscribe(self._name)
            # The confirmation, or the refusal of a user who may not listen: without it the client would connect, lose
            # the connection with the first notice, and connect again, many times in a second.
            await self._subscription.get_message(timeout=_TIMEOUT)
            # Two connections: a cooldown must not wait for the answer to another call, or for a handshake.
            await asyncio.gather(client.ping(), client.ping())

    async def reserve(self, call: Call) -> Reply:
        """See `LimitsBackend.reserve`."""
        async with _errors(self.url):
            reply = await self._reserve(keys=[self._name], args=[self._name, message(call, self.bounds)])
        return checked_reply(reply, len(call.wants))

    async def cool_down(self, endpoint: str, seconds: float) -> None:
        """See `LimitsBackend.cool_down`."""
        async with _errors(self.url):
            await self._cool_down(keys=[self._name], args=[self._name, endpoint, f"{seconds:.6f}", _KEEP])

    async def notices(self) -> AsyncIterator[Notice]:
        """See `LimitsBackend.notices`."""
        while True:
            async with _errors(self.url):
                message = await self._subscription.get_message(timeout=None)
            if message is not None and (notice := _notice(message.get("data"))) is not None:
                yield notice

    async def close(self) -> None:
        """See `LimitsBackend.close`."""
        client, subscription, self._client = self._client, self._subscription, None
        # The server may be gone, so that a farewell fails.
        with suppress(Exception):
            if subscription is not None:
                await subscription.aclose()
        with suppress(Exception):
            if client is not None:
                await client.aclose()


def message(call: Call, bounds: Bounds) -> bytes:
    """Return the JSON text of a call for the script."""
    wants = [
        {**want.cost._asdict(), "endpoint": want.endpoint, "price": want.price, "tokens_total": want.tokens}
        for want in call.wants
    ]
    # Lua has no null in a table.
    given = {name: value for name, value in bounds._asdict().items() if value is not None}
    times = {"horizon": HORIZON, "lifetime": LIFETIME, "ask_again": ASK_AGAIN, "keep": _KEEP}
    rates = [rate._asdict() for rate in bounds.rates]
    report = call.report._asdict()
    return orjson.dumps(
        {**call._asdict(), **times, "report": report, "wants": wants, "bounds": {**given, "rates": rates}}
    )


@cache
def script_text() -> str:
    """Return the script that decides about a call."""
    return files("fanout.limits").joinpath("shared_redis.lua").read_text("utf-8")


def _client(url: str) -> Any:
    try:
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise ConfigError("shared needs the package redis: pip install 'fanout-ml[redis]'", key=KEY) from None
    try:
        client: Any = Redis.from_url(
            url,
            socket_timeout=_TIMEOUT,
            socket_connect_timeout=_TIMEOUT,
            socket_keepalive=True,
            health_check_interval=0,
            # The client of the limits reconnects, and has to know that it did.
            retry=Retry(NoBackoff(), 0),
            client_name="fanout",
        )
        # Unknown options in the query of the URL raise here, before anything is sent.
        client.connection_pool.make_connection()
    # Errors of the library may quote a part of the password.
    except (ValueError, TypeError):
        raise ConfigError(
            f"shared {redact_url(url)!r} is not a URL of Redis: its host, port, database or options cannot be read "
            "(in a password, write @ / ? # as %40 %2F %3F %23)",
            key=KEY,
        ) from None
    return client


@asynccontextmanager
async def _errors(url: str) -> AsyncIterator[None]:
    """Turn the errors of the library into those of `LimitsBackend`."""
    from redis import exceptions

    shown = redact_url(url)
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
        raise ConfigError(f"shared: {shown} refuses the user or the password: {error}", key=KEY) from None
    except (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ReadOnlyError, OSError) as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise ConfigError(f"shared: the certificate of {shown} is not valid: {error}", key=KEY) from None
        raise BackendLostError(f"{shown}: {error}") from None
    except exceptions.RedisError as error:
        if str(error).startswith(("OOM", "MISCONF", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS", "BUSY")):
            raise BackendLostError(f"{shown}: {error}") from None
        raise ConfigError(f"shared: {shown} cannot keep the limits: {error}", key=KEY) from None


def checked_reply(reply: Any, n_wants: int) -> Reply:
    """The checked answer of the script. Raises `BackendLostError` for any other."""
    try:
        name, others_wait, *rest = reply
        answers = tuple(
            Answer(Decided(int(decided)), _seconds(seconds))
            for decided, seconds in zip(rest[::2], rest[1::2], strict=True)
        )
        if len(answers) == n_wants:
            return Reply(name.decode("ascii"), bool(others_wait), answers)
    except (ValueError, TypeError, AttributeError):
        pass
    raise BackendLostError("the server of the shared limits gives an answer that is none of fanout's script")


def _notice(data: Any) -> Notice | None:
    """The checked notice in a published message; None for any other message."""
    match data.split() if isinstance(data, bytes) and len(data) < 100 else ():
        case [b"permits"]:
            return Notice()
        case [b"cooldown", endpoint, seconds]:
            with suppress(ValueError):
                return Notice(endpoint.decode("ascii"), _seconds(seconds))
    return None


def _seconds(text: bytes) -> float:
    seconds = float(text)
    if not (isfinite(seconds) and seconds >= 0):
        raise ValueError(f"no number of seconds: {seconds}")
    return seconds
