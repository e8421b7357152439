"""The one place that maps the exceptions of dependencies to those of fanout.

The texts are fanout's own: theirs quote whole URLs.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl

import aiohttp

from fanout._escape import shortened
from fanout.errors import (
    AttemptTimeout,
    CertificateError,
    ConfigError,
    ConnectError,
    FanoutError,
    IncompleteResponse,
    StaleConnectionError,
    TransportError,
)
from fanout.transport.base import SendAborted

# Reasons of OpenSSL, by version, for an answer that is plain HTTP.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")

# Characters quoted of the text of an exception that no rule here foresees.
_LONGEST = 200


def passes(error: BaseException) -> bool:
    """True if an exception in an exchange is to be raised as it is.

    Any other exception failed the exchange, since a server's bytes may make a parser raise anything. An assertion comes
    from a test.
    """
    return not isinstance(error, Exception) or isinstance(error, FanoutError | SendAborted | AssertionError)


def mapped(error: Exception, url: str, *, reused: bool) -> TransportError | ConfigError:
    """The exception to raise for an aiohttp or system ``error`` in an exchange with ``url``, which is redacted."""
    certificate = (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)
    if isinstance(error, certificate) or isinstance(getattr(error, "os_error", None), ssl.SSLCertVerificationError):
        return CertificateError(f"the certificate of {url} is not valid: {_cause(error)}")
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return ConfigError(f"{url} is not a URL that can be requested", key="url")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return ConnectError(f"cannot connect to {url}: {_cause(error)}")
    if isinstance(error, TimeoutError):
        return AttemptTimeout(f"{url} did not answer in time")
    # A server closes idle connections at its will: this says nothing of the request.
    if reused and isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return StaleConnectionError(f"{url} closed a kept-alive connection as it was used again")
    if isinstance(error, aiohttp.ClientError | OSError):
        return IncompleteResponse(f"the exchange with {url} broke off: {_cause(error)}")
    return IncompleteResponse(
        f"the exchange with {url} broke off: {type(error).__name__}: {shortened(_cause(error), _LONGEST)}"
    )


def _cause(error: Exception) -> str:
    inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return "no connection within the connect timeout"
    if isinstance(inner, OSError) and (words := _system_words(inner)):
        is_plain = isinstance(inner, ssl.SSLError) and any(reason in words for reason in _NO_TLS)
        return f"{words}; if the server speaks no TLS, the url begins with http://" if is_plain else words
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection before it had answered"
    if isinstance(error, aiohttp.ClientResponseError):
        reason = error.message.partition(":")[0]  # the server's bytes follow the colon
        if reason.startswith(("Got more than", "Too many headers")):
            return "the header of the answer is larger than max_header_bytes allows"
        return f"no valid HTTP ({reason})" if reason else "no valid HTTP"
    return str(inner).splitlines()[0] if str(inner) else type(inner).__name__


def _system_words(error: OSError) -> str:
    number = error.errno
    # asyncio words its own errors, with the address in them. Name look-up and TLS number theirs from other lists.
    if number is not None and number in errno.errorcode and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(number)
    return error.strerror or ""
