"""Encodes the rows of a task once. Rows that the wire format cannot express fail alone, without a request."""

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
    task: ChunkTask,
    codec: Codec,
    stamp: Callable[[Payload], Payload] | None,
    fail: Callable[[ChunkTask, Verdict], None],
    *,
    uniform: bool = False,
) -> bool:
    """Make the payload of ``task``, with ``stamp`` on it. False if no row is left to send.

    Rows that cannot be expressed leave the task and fail.

    Raises `ConfigError` where the codec says that no row of this kind can be sent at all, and `InputError` where that
    is for the form of the rows, and all rows of the input have the same (``uniform``).
    """
    while task.payload is None:
        try:
            payload = codec.encode(task.rows)
            if not (isinstance(payload, Payload) and isinstance(payload.body, _BODIES)):
                raise _no_payload(payload)
            task.payload = payload if stamp is None else stamp(payload)
        except EncodeError as error:
            if error.every_row and uniform:
                raise InputError(error.reason) from None
            # A form that rows have only together, as 1 and 2.5 are float64, says nothing of each of them.
            alone = [row for row in error.rows if not _encodes(task, row, codec)] if error.every_row else []
            rows_left = _remove(task, alone or error.rows, task.in_input(error.reason, error.rows), fail)
        except (ConfigError, CallbackError):
            raise
        except Exception as error:  # noqa: BLE001 - a short codec does not foresee every row
            bad = [row for row in range(task.n) if not _encodes(task, row, codec)]
            rows_left = _remove(task, bad, f"{type(error).__name__}: {error}", fail)
        except BaseException as error:
            raise abnormal("the codec's encode", error) from error
        else:
            break
        if not rows_left:
            return False
    return True


def fitted(
    task: ChunkTask, put_back: Callable[[ChunkTask], None], packing: Packing, made: Callable[[ChunkTask], bool]
) -> ChunkTask | None:
    """``task`` with its payload, or its first rows alone where all together are too large.

    ``put_back`` takes the others. None where no row is left to send. ``made`` makes the payload, as `encode` does.
    """
    while made(task):
        packing.learn(task)
        if not packing.too_large(task):
            return task
        task, rest = task.halves()
        put_back(rest)
    return None


def _no_payload(returned: object) -> ConfigError:
    held = f"a Payload with a body of type {type(returned.body).__name__}" if isinstance(returned, Payload) else None
    kind = held or repr(type(returned))
    return ConfigError(f"encode must return a fanout.Payload whose body is bytes, not {kind}", key="codec")


def _remove(task: ChunkTask, bad: Sequence[int], reason: str, fail: Callable[[ChunkTask, Verdict], None]) -> bool:
    is_bad = np.zeros(task.n, bool)
    is_bad[[row for row in bad if 0 <= row < task.n]] = True
    verdict = Verdict(action=Action.FAIL, reason=f"cannot be sent: {reason}")
    if is_bad.all() or not is_bad.any():  # in the second case the rows are to blame together
        fail(task, verdict)
        return False
    fail(task.part(np.flatnonzero(is_bad)), verdict)
    task.keep(np.flatnonzero(~is_bad))
    return True


def _encodes(task: ChunkTask, row: int, codec: Codec) -> bool:
    try:
        codec.encode(take_rows(task.rows, slice(row, row + 1)))
    except Exception:  # noqa: BLE001 - whatever it is, this row causes it
        return False
    except BaseException as error:
        raise abnormal("the codec's encode", error) from error
    return True
