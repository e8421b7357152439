"""All exceptions of fanout. Each one is also the builtin exception that a caller would catch by habit.

::

    FanoutError
    ├── ConfigError      (ValueError)       an argument, a job file or its input cannot be used
    │   ├── UnknownOptionError (TypeError)  an option with that name does not exist; the message names the nearest
    │   ├── InputError                      the input cannot be read, or holds rows that no codec can send
    │   └── ReplayError                     the recording holds no answer to this request
    ├── ClientStateError (RuntimeError)     the client is closed, not open yet, of another event loop, or forked
    ├── QueueFull        (RuntimeError)     ``max_pending`` calls of ``predict`` already wait for an answer
    ├── EncodeError      (ValueError)       the wire format cannot express these rows
    ├── InvalidResponse  (ValueError)       a response with status 200 that does not answer the request
    ├── TransportError   (ConnectionError)  one HTTP exchange failed before the response was complete
    │   ├── ConnectError                    no connection could be opened
    │   ├── StaleConnectionError            the server closed a kept-alive connection while it was reused
    │   ├── CredentialsError                ``auth`` obtained no credentials
    │   ├── CertificateError                the server's certificate is not valid for its host
    │   ├── AttemptTimeout (TimeoutError)   the deadline of the attempt passed
    │   ├── IncompleteResponse              the response broke off, or its framing or encoding is damaged
    │   │   └── MismatchedResponse          the response carries the id of another request
    │   └── ResponseTooLarge                the response exceeds ``max_response_bytes``
    ├── CallbackError    (RuntimeError)     code passed in by the caller raised something other than an Exception
    ├── RowsFailed       (RuntimeError)     the run finished, but some rows failed: see ``.result``
    └── RunStopped       (RuntimeError)     the run stopped early: see ``.reason`` and ``.result``

    Interrupted          (KeyboardInterrupt)     Ctrl-C ended a blocking call: see ``.result``

`EncodeError`, `InvalidResponse` and `TransportError` concern single requests: a run catches them, and retries, splits
or fails the rows. `RowsFailed` and `RunStopped` reach the caller, together with all rows that succeeded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._escape import escaped_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from fanout.results import Result
    from fanout.types import ErrorKind, StopKind


class FanoutError(Exception):
    """The base class: ``except fanout.FanoutError`` catches every exception that this package raises.

    Messages quote servers and files, so control characters in them are replaced by visible escapes.
    """

    def __init__(self, *arguments: object) -> None:
        # Messages end up on terminals and in logs, wherever the error is caught.
        super().__init__(*(escaped_lines(part) if isinstance(part, str) else part for part in arguments))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


def _restored(kind: type[BaseException], arguments: tuple[object, ...], state: dict[str, Any]) -> BaseException:
    """Return a copied or unpickled error. Its constructor wants other arguments than the text in ``args``."""
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    vars(error).update(state)
    return error


class ConfigError(FanoutError, ValueError):
    """An argument, option or job file that cannot be used. ``key`` is the name of the option at fault, or empty."""

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def needs_extra(subject: str, extra: str, *, key: str) -> ConfigError:
    """Return the error for a feature whose packages are not installed."""
    return ConfigError(f"{subject} needs more packages: pip install 'fanout-ml[{extra}]'", key=key)


class UnknownOptionError(ConfigError, TypeError):
    """An option with that name does not exist. The message names the nearest one, and ``key`` the unknown one."""


class InputError(ConfigError):
    """The input cannot be read, or holds rows that no codec can send."""


class ReplayError(ConfigError):
    """The recording holds no answer to a request. The message shows the nearest recorded request and the difference."""


class ClientStateError(FanoutError, RuntimeError):
    """A client is used before it is open, after it is closed, from another event loop, or after a fork."""


class QueueFull(FanoutError, RuntimeError):
    """``max_pending`` calls of `Client.predict` already wait for an answer. Nothing was sent for this call.

    A service that forwards its callers' rows answers 503 here, so that the callers slow down.
    """


class EncodeError(FanoutError, ValueError):
    """The wire format cannot express some rows.

    Args:
        reason: the fault. Where it names one of ``rows`` ("row 3 is empty"), the failure that the user sees counts that
            row from the start of the input.
        rows: positions of these rows in the argument of `Codec.encode`.
        every_row: the fault lies in a property that all rows of one array share (dtype, shape, names). Such an array is
            refused as a whole, with an `InputError`; rows that came one by one still fail alone.
        reasons: the fault of each of ``rows``, where they differ; ``reason`` is that of all if not given.
    """

    def __init__(
        self, reason: str, *, rows: Sequence[int], every_row: bool = False, reasons: Sequence[str] = ()
    ) -> None:
        super().__init__(reason)
        self.reasons = tuple(reasons)
        self.reason = reason
        self.rows = tuple(rows)
        self.every_row = every_row


class InvalidResponse(FanoutError, ValueError):
    """A response with status 200 that cannot be the answer to the request.

    Args:
        message: the fault.
        error_kind: the class of the fault. Two of one kind in a row rule out an accident.
        usage: units that the API counted for this response, if it reports them: an invalid response is billed too.
        rows: rows of the response that the message names ("row 3 holds null"). The failure that the user sees counts
            them from the start of the input.
        lengths: for rows of unequal length: length -> number of rows.
        answer: the text of a model, where that is at fault. The rows are then asked for again, as often as the codec's
            `Codec.reasks` says, and the text stands in their failure.
    """

    def __init__(
        self,
        message: str,
        *,
        error_kind: ErrorKind = "content",
        usage: Mapping[str, int] | None = None,
        rows: Sequence[int] = (),
        lengths: Mapping[int, int] | None = None,
        answer: str | None = None,
    ) -> None:
        super().__init__(message)
        self.error_kind = error_kind
        self.usage = usage or {}
        self.rows = tuple(rows)
        self.lengths = lengths or {}
        self.answer = answer


class TransportError(FanoutError, ConnectionError):
    """One HTTP exchange failed before the response was complete."""


class ConnectError(TransportError):
    """No connection could be opened: refused, unreachable, name not found, or ``timeouts.connect`` passed."""


class StaleConnectionError(TransportError):
    """The server closed a kept-alive connection while it was reused; no byte of a response arrived."""


class CredentialsError(TransportError):
    """``auth`` obtained no credentials, so no request could be sent.

    Args:
        reason: the fault.
        retryable: another try may succeed.
    """

    def __init__(self, reason: str, *, retryable: bool = True) -> None:
        super().__init__(reason)
        self.retryable = retryable


class CertificateError(TransportError):
    """The server's certificate is not valid for its host."""


class AttemptTimeout(TransportError, TimeoutError):
    """The deadline of the attempt passed (``timeouts.attempt``)."""


class IncompleteResponse(TransportError):
    """The response broke off before its end, or its framing or content encoding is damaged."""


class MismatchedResponse(IncompleteResponse):
    """The response carries the id of another request (``request_id_header``), so that its rows are not these."""


class ResponseTooLarge(TransportError):
    """The response exceeds ``max_response_bytes``, before or after decompression."""


class CallbackError(FanoutError, RuntimeError):
    """Code passed in by the caller (the input, the codec, ``headers=``, ...) raised something other than an Exception.

    Examples are a `CancelledError` although nothing was cancelled, and a `SystemExit`. The run then stops, and raises
    `RunStopped` of kind ``"error"``.
    """


class RowsFailed(FanoutError, RuntimeError):
    """The run finished, but some rows failed. ``result`` holds all rows that succeeded, and the failures."""

    def __init__(self, message: str, *, result: Result) -> None:
        super().__init__(message)
        self.result = result


# One is an Exception and the other, as a KeyboardInterrupt, is not.
class _EndedEarly(BaseException):
    """The shared part of `RunStopped` and `Interrupted`, which cannot be subclasses of each other."""

    def __init__(self, reason: str, *, kind: StopKind, result: Result) -> None:
        ok, pending = int(result.ok.sum()), sum(len(chunk) for chunk in result.pending)
        failed = len(result.ok) - ok - pending
        super().__init__(f"{reason} ({ok:,} rows done, {failed:,} failed, {pending:,} pending; see .result)")
        self.reason = reason
        self.kind = kind
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, vars(self))


class RunStopped(_EndedEarly, FanoutError, RuntimeError):
    """The run stopped before its end. ``result`` holds all rows that succeeded; unanswered rows are pending.

    ``kind`` classifies ``reason`` for programs: ``"unreachable"``, ``"refused"``, ``"deadline"``, ...
    """


# No subclass of Exception: an `except Exception` in the caller's code must not swallow Ctrl-C.
class Interrupted(_EndedEarly, KeyboardInterrupt):
    """Ctrl-C ended a blocking call. ``result`` holds all rows that succeeded; unanswered rows are pending."""
