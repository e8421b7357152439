"""Everything that fanout raises. Each class is also the builtin that a caller would think to catch.

::

    FanoutError
    ├── ConfigError      (ValueError)       an argument, a job file or its input is wrong, as seen from here
    │   ├── UnknownOptionError (TypeError)  an option that there is not; the message names the nearest
    │   ├── InputError                      the input cannot be read, or holds rows that nothing can send
    │   └── ReplayError                     a request to which a recording has no answer
    ├── ClientStateError (RuntimeError)     a client used after close, from another loop, or after fork
    ├── QueueFull        (RuntimeError)     more calls of ``predict`` wait for an answer than may
    ├── EncodeError      (ValueError)       rows that the wire format cannot express
    ├── InvalidResponse  (ValueError)       an answer that is not what was asked for
    ├── TransportError   (ConnectionError)  one HTTP exchange failed before an answer was whole
    │   ├── ConnectError                    no connection was made
    │   ├── StaleConnectionError            a kept-alive connection was closed as it was used again
    │   ├── CertificateError                the peer is not who it should be
    │   ├── AttemptTimeout (TimeoutError)   the attempt's deadline passed
    │   ├── IncompleteResponse              the answer broke off, or its framing or encoding is damaged
    │   └── ResponseTooLarge                the answer is larger than the byte cap
    ├── CallbackError    (RuntimeError)     code that was passed in ended neither by returning nor with an Exception
    ├── RowsFailed       (RuntimeError)     the run came to its end, but some rows failed: see ``.result``
    └── RunStopped       (RuntimeError)     the run was stopped early: see ``.reason`` and ``.result``

    Interrupted          (KeyboardInterrupt)     Ctrl-C while a blocking call waited: see ``.result``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._escape import escaped_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.types import ErrorKind, Result, StopKind


class FanoutError(Exception):
    """The root of the tree: ``except fanout.FanoutError`` catches all that this package raises.

    Messages quote servers and files, so control characters in them are visible escapes.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(escaped_lines(part) if isinstance(part, str) else part for part in arguments))


class ConfigError(FanoutError, ValueError):
    """An argument, option or job file that cannot be used. ``key`` names it where one name is to blame."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class UnknownOptionError(ConfigError, TypeError):
    """An option that there is not. The message names the nearest one."""


class InputError(ConfigError):
    """Input that cannot be read, or that holds rows that no codec can send."""


class ReplayError(ConfigError):
    """A request to which a recording has no answer; the message shows the nearest that it has, and what differs."""


class ClientStateError(FanoutError, RuntimeError):
    """A client used before it is open, after it is closed, from another event loop, or after a fork."""


class QueueFull(FanoutError, RuntimeError):
    """As many calls of `Client.predict` wait for an answer as may (``max_pending``). Nothing was sent for this one.

    A server that predicts for others answers 503 here, so that its callers slow down.
    """


class EncodeError(FanoutError, ValueError):
    """Rows that the wire format cannot express. ``rows`` are their positions in what was to be encoded.

    Where ``reason`` names one of them ("row 3 is empty"), a failure counts it from the first row of the input.

    ``alike`` says that their form is at fault (dtype, shape, names), which rows of one array have in common: such an
    array is refused as a whole, with an `InputError`. Rows that came one by one fail alone all the same.
    """

    def __init__(self, reason: str, *, rows: Sequence[int], alike: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.rows = tuple(rows)
        self.alike = alike


class InvalidResponse(FanoutError, ValueError):
    """An answer with status 200 that cannot be what was asked for.

    ``error_kind`` says what is wrong with it; two of the same kind in a row are taken for no accident. ``usage`` is
    what it has cost all the same, where the API tells. ``rows`` are the rows of the answer that the message names
    ("row 3 holds null"): in the reason for a failure they are counted from the first row of the input. ``lengths`` is,
    of rows whose values differ in number, how many rows have which.
    """

    def __init__(
        self,
        message: str,
        *,
        error_kind: ErrorKind = "content",
        usage: Mapping[str, int] | None = None,
        rows: Sequence[int] = (),
        lengths: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.error_kind = error_kind
        self.usage = usage or {}
        self.rows = tuple(rows)
        self.lengths = lengths or {}


class TransportError(FanoutError, ConnectionError):
    """One HTTP exchange failed before a whole answer was there."""


class ConnectError(TransportError):
    """No connection was made: refused, unreachable, name not found, or timed out while connecting."""


class StaleConnectionError(TransportError):
    """A kept-alive connection was closed by the server as it was used again; no byte of an answer came."""


class CertificateError(TransportError):
    """The server's certificate is not valid for this origin."""


class AttemptTimeout(TransportError, TimeoutError):
    """The attempt's deadline passed."""


class IncompleteResponse(TransportError):
    """The answer broke off before its end, or its framing or content encoding is damaged."""


class ResponseTooLarge(TransportError):
    """The answer is larger than the byte cap, before or after decompression."""


class CallbackError(FanoutError, RuntimeError):
    """Code that was passed in (the input, the codec, ``headers=``, ...) raised what is no `Exception`.

    That is a `CancelledError` for instance, although nothing was cancelled, or a `SystemExit`. A run stops then, and
    raises `RunStopped` of kind ``"error"``.
    """


class RowsFailed(FanoutError, RuntimeError):
    """The run came to its end, but some rows have no answer. ``result`` holds all that succeeded, and the failures."""

    def __init__(self, message: str, *, result: Result) -> None:
        super().__init__(message)
        self.result = result


class RunStopped(FanoutError, RuntimeError):
    """The run was stopped before its end. ``result`` holds all that succeeded; what was never answered is pending.

    ``kind`` is the machine's word for ``reason``: ``"unreachable"``, ``"refused"``, ``"deadline"``, ...
    """

    def __init__(self, reason: str, *, kind: StopKind, result: Result) -> None:
        super().__init__(f"{reason} ({_account(result)}; see .result)")
        self.reason = reason
        self.kind = kind
        self.result = result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C ended a blocking call. ``result`` holds all that succeeded; what was never answered is pending.

    It is a `KeyboardInterrupt` and no `Exception`, so that ``except Exception`` does not swallow Ctrl-C.
    """

    def __init__(self, reason: str, *, kind: StopKind, result: Result) -> None:
        super().__init__(f"{reason} ({_account(result)}; see .result)")
        self.reason = reason
        self.kind = kind
        self.result = result


def _account(result: Result) -> str:
    ok, pending = int(result.ok.sum()), sum(len(chunk) for chunk in result.pending)
    failed = len(result.ok) - ok - pending
    return f"{ok:,} rows done, {failed:,} failed, {pending:,} pending"
