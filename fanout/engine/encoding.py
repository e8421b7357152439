"""Rows into a payload, once a work. Rows that the wire format cannot express fail alone, without a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanout.callbacks import abnormal
from fanout.errors import CallbackError, ConfigError, EncodeError, InputError
from fanout.types import Action, Payload, Verdict, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fanout.codecs.base import Codec
    from fanout.engine.packing import Packing
    from fanout.engine.task import ChunkTask


_BODIES = (bytes, bytearray, memoryview, tuple)


def encode(
    work: ChunkTask,
    codec: Codec,
    stamp: Callable[[Payload], Payload],
    fail: Callable[[ChunkTask, Verdict], None],
    *,
    uniform: bool = False,
) -> bool:
    """Make the payload of ``work``, with ``stamp`` on it. False when no row is left to send.

    Rows that cannot be expressed leave the work and fail.

    Raises `ConfigError` where the codec says that no row of this kind can be sent at all, and `InputError` where that
    is for the form of the rows, and all rows of the input have the same (``uniform``).
    """
    while work.payload is None:
        try:
            work.payload = stamp(_payload(codec.encode(work.rows)))
        except EncodeError as error:
            if error.every_row and uniform:
                raise InputError(error.reason) from None
            # A form that rows have only together, as 1 and 2.5 are float64, says nothing of each of them.
            alone = [row for row in error.rows if not _encodes(work, row, codec)] if error.every_row else []
            rows_left = _remove(work, alone or error.rows, work.in_input(error.reason, error.rows), fail)
        except (ConfigError, CallbackError):
            raise
        except Exception as error:  # noqa: BLE001 - a short codec does not foresee every row
            bad = [row for row in range(work.n) if not _encodes(work, row, codec)]
            rows_left = _remove(work, bad, f"{type(error).__name__}: {error}", fail)
        except BaseException as error:
            raise abnormal("the codec's encode", error) from error
        else:
            break
        if not rows_left:
            return False
    return True


def fitted(
    work: ChunkTask, put_back: Callable[[ChunkTask], None], packing: Packing, made: Callable[[ChunkTask], bool]
) -> ChunkTask | None:
    """``work`` with its payload, or its first rows alone where all together are too large.

    ``put_back`` takes the others. None where no row is left to send. ``made`` makes the payload, as `encode` does.
    """
    while made(work):
        packing.learn(work)
        if not packing.too_large(work):
            return work
        work, rest = work.halves()
        put_back(rest)
    return None


def _payload(made: object) -> Payload:
    if isinstance(made, Payload) and (type(made.body) is bytes or isinstance(made.body, _BODIES)):
        return made
    what = (
        f"a Payload with a body of type {type(made.body).__name__}" if isinstance(made, Payload) else repr(type(made))
    )
    raise ConfigError(f"encode must return a fanout.Payload whose body is bytes, not {what}", key="codec")


def _remove(work: ChunkTask, bad: Sequence[int], reason: str, fail: Callable[[ChunkTask, Verdict], None]) -> bool:
    is_bad = np.zeros(work.n, bool)
    is_bad[[row for row in bad if 0 <= row < work.n]] = True
    verdict = Verdict(action=Action.FAIL, reason=f"cannot be sent: {reason}")
    if is_bad.all() or not is_bad.any():  # in the second case the rows are to blame together
        fail(work, verdict)
        return False
    fail(work.part(np.flatnonzero(is_bad)), verdict)
    work.keep(np.flatnonzero(~is_bad))
    return True


def _encodes(work: ChunkTask, row: int, codec: Codec) -> bool:
    try:
        codec.encode(take_rows(work.rows, slice(row, row + 1)))
    except Exception:  # noqa: BLE001 - whatever it is, this row causes it
        return False
    except BaseException as error:
        raise abnormal("the codec's encode", error) from error
    return True
