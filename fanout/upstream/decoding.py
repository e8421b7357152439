"""Large answers are decoded on a helper thread, so that the event loop keeps its deadlines meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from fanout.daemon_thread import DaemonThread
from fanout.types import DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs.base import Codec
    from fanout.engine.validator import ResponseValidator
    from fanout.types import Array, Response, Schema, Values

T = TypeVar("T")


class Outcome(Generic[T]):
    """The result of a call, or the error that it raised."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._error: BaseException | None = None
        try:
            self._value = call()
        except BaseException as error:  # noqa: BLE001 - `get` raises it where it is handled
            self._error = error.with_traceback(None)  # whose frames would keep the answer in memory

    def get(self) -> T:
        """Return or raise what the call did."""
        if self._error is not None:
            raise self._error
        return self._value


class Decoded(NamedTuple):
    """An answer that the thread has decoded and checked."""

    decoded: Outcome[Array | Values | DecodedResponse]
    checked: Outcome[dict[str, Array]] | None
    """None if there was nothing to check."""
    schema: Schema | None
    """The form that it was checked against."""


class Decoding:
    """Decodes large answers one after the other: each may take several times its bytes."""

    def __init__(self) -> None:
        self._thread: DaemonThread | None = None

    async def decode(self, codec: Codec, response: Response, n_rows: int, validator: ResponseValidator) -> Decoded:
        """Decode and check ``response`` on the thread."""
        if self._thread is None:
            self._thread = DaemonThread("fanout-decode")
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, _decode, codec, response, n_rows, validator
        )

    def close(self) -> None:
        """End the thread once it is done with the answer in hand."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _decode(codec: Codec, response: Response, n_rows: int, validator: ResponseValidator) -> Decoded:
    schema = validator.schema
    decoded = Outcome(lambda: codec.decode(response, n_rows))
    try:
        found = decoded.get()
    except BaseException:  # noqa: BLE001 - raised again on the loop
        return Decoded(decoded, None, schema)
    values = found.values if isinstance(found, DecodedResponse) else found
    return Decoded(decoded, Outcome(lambda: validator.checked(values, n_rows)), schema)
