"""Exceptions of aiohttp and the system become errors of fanout, in plain words."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import client_exceptions
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ConfigError,
    ConnectError,
    FanoutError,
    IncompleteResponse,
    StaleConnectionError,
)
from fanout.transport import failures

if TYPE_CHECKING:
    from collections.abc import Iterator


def subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    yield cls
    for sub in cls.__subclasses__():
        yield from subclasses(sub)


KEY = ConnectionKey("h", 443, True, True, None, None, None)
EINVAL = OSError(errno.EINVAL, "Invalid argument")
HANDSHAKE = (SimpleNamespace(real_url=URL("http://user:s3cret@h/?s3cret")), ())
ARGUMENTS: dict[type, tuple[Any, ...]] = {
    aiohttp.ClientConnectorCertificateError: (KEY, ssl.SSLCertVerificationError("verify failed")),
    aiohttp.ServerFingerprintMismatch: (b"a", b"b", "h", 443),
    aiohttp.ClientResponseError: HANDSHAKE,
    aiohttp.ClientConnectorError: (KEY, EINVAL),
    client_exceptions.UnixClientConnectorError: ("/a/socket", KEY, EINVAL),
    aiohttp.ClientOSError: (errno.EPIPE, "Broken pipe"),
    aiohttp.InvalidURL: ("http://user:s3cret@h/?s3cret",),
}
WANTED: dict[type, type] = {
    aiohttp.ClientConnectorCertificateError: CertificateError,
    aiohttp.ServerFingerprintMismatch: CertificateError,
    aiohttp.InvalidURL: ConfigError,
    aiohttp.NonHttpUrlClientError: ConfigError,
    aiohttp.ClientConnectorError: ConnectError,
    aiohttp.ConnectionTimeoutError: ConnectError,
    aiohttp.ServerTimeoutError: AttemptTimeout,
    aiohttp.ClientError: IncompleteResponse,
}


def nearest(cls: type, table: dict[type, Any], default: Any = None) -> Any:
    return next((table[base] for base in cls.__mro__ if base in table), default)


def library_errors() -> list[type]:
    return sorted({cls for cls in subclasses(aiohttp.ClientError) if cls.__module__.startswith("aiohttp")}, key=str)


class TestMapping:
    """Every error of aiohttp, wherever it comes from, is one of ours."""

    @pytest.mark.one_way
    @pytest.mark.parametrize("reused", [False, True], ids=["new", "reused"])
    @pytest.mark.parametrize("cls", library_errors(), ids=lambda cls: cls.__name__)
    def test_every_client_error_is_one_of_ours(self, cls, reused):
        error = cls(*nearest(cls, ARGUMENTS, ()))
        mapped = failures.mapped(error, "http://shown", reused=reused)
        wanted = nearest(cls, WANTED)
        stale = issubclass(cls, aiohttp.ServerDisconnectedError | OSError) and wanted is IncompleteResponse
        assert type(mapped) is (StaleConnectionError if reused and stale else wanted)
        assert isinstance(mapped, FanoutError)
        assert "http://shown" in str(mapped)
        assert "s3cret" not in str(mapped)

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        ("error", "wanted"),
        [
            (TimeoutError(), AttemptTimeout),
            (OSError(errno.ECONNRESET, "reset"), IncompleteResponse),
            (ConnectionResetError("Cannot write to closing transport"), IncompleteResponse),
            (OSError(), IncompleteResponse),
            (ValueError("no"), IncompleteResponse),
            (RecursionError("no"), IncompleteResponse),
            (aiohttp.ClientConnectorError(KEY, ssl.SSLCertVerificationError(1, "verify failed")), CertificateError),
            (aiohttp.ClientConnectorError(KEY, ssl.SSLError(1, "wrong version")), ConnectError),
        ],
        ids=repr,
    )
    def test_every_system_error_is_one_of_ours_too(self, error, wanted):
        assert type(failures.mapped(error, "http://shown", reused=False)) is wanted

    @pytest.mark.one_way
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (OSError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 80)"), os.strerror(errno.ECONNREFUSED)),
            (socket.gaierror(8, "nodename unknown"), "nodename unknown"),
            (ssl.SSLError(1, "wrong version number"), "wrong version number"),
            (OSError("several\nlines"), "several"),
            (OSError(), "OSError"),
            (aiohttp.ServerDisconnectedError(), "the server closed the connection before it had answered"),
            (aiohttp.ClientResponseError(*HANDSHAKE, message="Bad status line:\n  b's3cret'"), "(Bad status line)"),
            (aiohttp.ClientResponseError(*HANDSHAKE), "no valid HTTP"),
        ],
        ids=repr,
    )
    def test_causes_are_reported_in_plain_words(self, error, words):
        assert str(failures.mapped(error, "http://shown", reused=False)).endswith(words) or words.startswith("(")
        assert words in str(failures.mapped(error, "http://shown", reused=False))
