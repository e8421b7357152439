"""Validates responses: nothing is merged before its rows, dtype and shape are checked.

numpy would broadcast a one-row answer into 64 rows, cut 0.7 to 0 and turn "1" into 1 without an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.codecs._options import ANY_OUTPUT, spec_for
from fanout.errors import InvalidResponse
from fanout.rows import FEW_NUMBERS, hides_values, is_masked_array, within
from fanout.threads import DaemonThread
from fanout.types import Array, DecodedResponse, Schema, TensorSpec, Values, schema_of

if TYPE_CHECKING:
    from fanout.codecs.base import Codec
    from fanout.engine.chunker import ChunkTask
    from fanout.types import Response


class Unconfirmed(NamedTuple):
    """An answer that waits until the schema is known."""

    task: ChunkTask
    outputs: dict[str, Array]
    schema: Schema


class ResponseValidator:
    """Checks answers against the schema of the outputs, and learns it if the codec does not declare it.

    Args:
        spec: the dtype and shape that the codec declares, by output; ``"*"`` stands for every other output.
        reject_nonfinite: NaN and infinity make an answer invalid.
        capacity: number of chunks whose answers may wait for the schema.
        schema: dtype and shape of all answers, if an earlier run has learnt them.
        independent: answers may differ in shape and dtype, so none waits for a second one to confirm it.
    """

    def __init__(
        self,
        spec: Mapping[str, TensorSpec],
        *,
        reject_nonfinite: bool,
        capacity: int,
        schema: Schema | None = None,
        independent: bool = False,
    ) -> None:
        self._spec = spec
        self._reject_nonfinite = reject_nonfinite
        # Two chunks have to agree, so that with less room no schema would ever be settled.
        self._capacity = max(2, capacity)
        self._lax = not reject_nonfinite
        self._plain_form: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        """The schema if it is one unnamed output of floats. Most answers are, and take a short check."""
        self.schema: Schema | None = None
        """Dtype and trailing shape of each output; None while they are not known."""

        self.settled = independent
        """True once the schema is known, or if there is none: `validate` then checks everything."""

        self._whose = "other answers"
        self._settle_schema(schema)
        self._held: list[Unconfirmed] = []
        self._had_a_tie = False

    def validate(self, outputs: Array | Values, n_rows: int) -> dict[str, Array]:
        """``outputs`` by name, every check passed that needs no other answer. Raises `InvalidResponse`."""
        # The common case, in which one comparison and one pass over the numbers check everything.
        if self._plain_form is not None and type(outputs) is np.ndarray:
            dtype, shape = self._plain_form
            if outputs.shape == (n_rows, *shape) and outputs.dtype == dtype:
                # As `within` has it, without a call: NaN and infinity make the sum of squares one of them.
                few = outputs.size <= FEW_NUMBERS
                if self._lax or (few and np.vdot(outputs, outputs) < inf) or within(outputs):
                    return {"": outputs}
        return self._checked(outputs, n_rows)

    def _checked(self, outputs: Array | Values, n_rows: int) -> dict[str, Array]:
        schema = self.schema
        named = {"": outputs} if isinstance(outputs, np.ndarray) or not isinstance(outputs, Mapping) else dict(outputs)
        if schema is not None and named.keys() != schema.keys():
            raise InvalidResponse(f"the answer has outputs {_names(named)}, others have {_names(schema)}")
        for name, given in named.items():
            named[name] = array = _plain(name, given)
            if array.ndim == 0 or len(array) != n_rows:
                count = "no" if array.ndim == 0 else len(array)
                raise InvalidResponse(f"{_called(name)}{count} rows for {n_rows} that were sent", error_kind="rows")
            if schema is None:
                self._check_spec(name, array)
            elif (array.dtype, array.shape[1:]) != schema[name]:
                raise _other_form(name, array, schema[name], self._whose)
            if self._reject_nonfinite and array.dtype.kind in "fc" and not _all_finite(array):
                raise _nonfinite(name, array)
        if not named:
            raise InvalidResponse("the answer has no output")
        return named

    @property
    def learns_shapes(self) -> bool:
        """True unless the codec says of all outputs which shape their rows have."""
        shapes = [spec.shape for spec in self._spec.values()]
        return not shapes or any(shape is None or None in shape for shape in shapes)

    def offer(self, task: ChunkTask, outputs: dict[str, Array]) -> tuple[list[Unconfirmed], list[Unconfirmed]]:
        """Judge a checked answer while the form is not known.

        Returns the answers now accepted and those now refused. It is neither while it waits for one of another
        chunk that looks the same: one odd answer at the start must not condemn all the rest.
        """
        schema = schema_of(outputs) or {}
        held = Unconfirmed(task, outputs, schema)
        if self._complete(schema) or any(h.schema == schema and h.task.chunk != task.chunk for h in self._held):
            return self._settle(held)
        self._held.append(held)
        # By chunks: the parts of one that was split cannot agree with each other, however many they are.
        chunks = dict.fromkeys(h.task.chunk for h in self._held)
        if len(chunks) <= self._capacity:
            return [], []
        # The longest wait ends, so that the answers held in memory stay bounded.
        oldest = next(iter(chunks))
        refused = [h for h in self._held if h.task.chunk == oldest]
        self._held = [h for h in self._held if h.task.chunk != oldest]
        return [], refused

    def agree(self, schema: Schema, whose: str) -> list[Unconfirmed] | None:
        """Settle the schema by answers that were proven elsewhere; ``whose`` names them in messages.

        Returns the answers that are accepted now; None, and nothing is settled, if one that waits looks different.
        """
        # Answers from a cache or an earlier run may be of another model, which must not condemn those of this one.
        if any(held.schema != schema for held in self._held):
            return None
        self._settle_schema(schema)
        self._whose = whose
        held, self._held = self._held, []
        return held

    def close(self) -> tuple[list[Unconfirmed], list[Unconfirmed], bool]:
        """Judge the answers that still wait when no other one will come.

        Returns the accepted, the refused, and whether the refused are worth another attempt (once).
        """
        held, retry = self._held, not self._had_a_tie
        if held and all(h.schema == held[0].schema for h in held):
            accepted, refused = self._settle(held.pop())
            return accepted, refused, retry
        self._held, self._had_a_tie = [], bool(held)
        return [], held, retry

    def _settle(self, agreed: Unconfirmed) -> tuple[list[Unconfirmed], list[Unconfirmed]]:
        self._settle_schema(agreed.schema)
        held, self._held = [*self._held, agreed], []
        return [h for h in held if h.schema == agreed.schema], [h for h in held if h.schema != agreed.schema]

    def _settle_schema(self, schema: Schema | None) -> None:
        self.schema = schema
        self.settled = self.settled or schema is not None
        if schema is not None and schema.keys() == {""} and schema[""][0].kind == "f":
            self._plain_form = schema[""]

    def _complete(self, schema: Schema) -> bool:
        """True if the spec alone gives the schema: the names of the outputs with their dtypes and shapes."""
        named = self._spec.keys() - {ANY_OUTPUT} or {""}
        specs = [spec_for(self._spec, name) for name in schema]
        whole = all(s.dtype is not None and s.shape is not None and None not in s.shape for s in specs)
        return whole and schema.keys() == named

    def _check_spec(self, name: str, array: Array) -> None:
        spec = spec_for(self._spec, name)
        if spec.dtype is not None and array.dtype != spec.dtype:
            raise InvalidResponse(f"{_called(name)}dtype {array.dtype}, wanted {spec.dtype}", error_kind="dtype")
        if spec.shape is None:
            return
        shape = array.shape[1:]
        # None in the spec stands for a length that the answers show.
        alike = len(shape) == len(spec.shape) and all(
            want in (None, have) for want, have in zip(spec.shape, shape, strict=True)
        )
        if not alike:
            wanted = ["any" if length is None else length for length in spec.shape]
            raise InvalidResponse(f"{_called(name)}rows of shape {list(shape)}, wanted {wanted}", error_kind="shape")


def disagreement(refused: Unconfirmed) -> InvalidResponse:
    """Why an answer was refused that looks unlike the others."""
    schema = ", ".join(
        f"{_called(name)}{dtype} rows of shape {list(shape)}" for name, (dtype, shape) in refused.schema.items()
    )
    return InvalidResponse(
        f"{schema}: other answers look different; if this is the right form, give the codec its shape and dtype; rows "
        "that differ in length fit no array, but can be taken as texts",
        error_kind="shape",
    )


def _plain(name: str, array: object) -> Array:
    """The array in native byte order, texts as StringDType, so that equal schemas compare equal."""
    if not isinstance(array, np.ndarray):
        raise InvalidResponse(
            f"{_called(name)}a {type(array).__name__}: decode must return numpy arrays", error_kind="dtype"
        )
    if is_masked_array(array):
        if hides_values(array):
            raise InvalidResponse(f"{_called(name)}masked values, which are none", error_kind="content")
        array = np.ma.getdata(array)
    kind = array.dtype.kind
    if kind in "biuf" and array.dtype.isnative:
        return array
    if kind == "S":  # a conversion at once would take any bytes for UTF-8
        try:
            return np.char.decode(array, "utf-8").astype(np.dtypes.StringDType())
        except UnicodeDecodeError as error:
            raise InvalidResponse(
                f"{_called(name)}bytes that are no UTF-8 text ({error.reason})", error_kind="dtype"
            ) from None
    if kind == "U":
        return array.astype(np.dtypes.StringDType())
    if kind not in "biufcT":
        raise InvalidResponse(
            f"{_called(name)}dtype {array.dtype}, which is no number, bool or text", error_kind="dtype"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _all_finite(array: Array) -> bool:
    return (array.dtype.kind == "f" and within(array)) or bool(np.isfinite(array).all())


def _nonfinite(name: str, array: Array) -> InvalidResponse:
    bad = np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(axis=1))
    return InvalidResponse(
        f'{_called(name)}NaN or infinity in {len(bad)} of {len(array)} rows (nonfinite="keep" lets it pass)',
        error_kind="nonfinite",
    )


def _other_form(name: str, array: Array, schema: tuple[np.dtype[Any], tuple[int, ...]], whose: str) -> InvalidResponse:
    dtype, shape = schema
    if array.dtype != dtype:
        return InvalidResponse(f"{_called(name)}dtype {array.dtype}, {whose} have {dtype}", error_kind="dtype")
    return InvalidResponse(
        f"{_called(name)}rows of shape {list(array.shape[1:])}, {whose} have {list(shape)}", error_kind="shape"
    )


def _called(name: str) -> str:
    return f"output {name!r} has " if name else "the answer has "


def _names(outputs: Mapping[str, Any]) -> str:
    return ", ".join(sorted(outputs)) or "(none)"


class Decoded(NamedTuple):
    """A large response that the helper thread has decoded and validated: the results, or the errors raised."""

    values: Array | Values | DecodedResponse | BaseException
    outputs: dict[str, Array] | BaseException | None
    """None if the response could not be decoded."""

    schema: Schema | None
    """The schema that the outputs were validated against."""

    def decoded(self) -> Array | Values | DecodedResponse:
        """Return, or raise, the result of `Codec.decode`."""
        if isinstance(self.values, BaseException):
            raise self.values
        return self.values

    def validated(self) -> dict[str, Array]:
        """Return, or raise, the result of `ResponseValidator.validate`."""
        if isinstance(self.outputs, BaseException):
            raise self.outputs
        assert self.outputs is not None
        return self.outputs


class ResponseDecoder:
    """Decodes large responses on a helper thread, so that the event loop keeps its deadlines meanwhile.

    One after the other, because each may take several times its size in memory.
    """

    def __init__(self) -> None:
        self._thread: DaemonThread | None = None

    async def decode(self, codec: Codec, response: Response, n_rows: int, validator: ResponseValidator) -> Decoded:
        """Decode and validate ``response`` on the thread."""
        if self._thread is None:
            # Made with the first large response: most runs have none.
            self._thread = DaemonThread("fanout-decode")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _decode, codec, response, n_rows, validator)

    def close(self) -> None:
        """End the thread once it has finished the response at hand."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _decode(codec: Codec, response: Response, n_rows: int, validator: ResponseValidator) -> Decoded:
    schema = validator.schema
    try:
        decoded = codec.decode(response, n_rows)
    except BaseException as error:  # noqa: BLE001 - raised again on the loop
        return Decoded(error.with_traceback(None), None, schema)  # its frames would keep the response in memory
    values = decoded.values if isinstance(decoded, DecodedResponse) else decoded
    try:
        return Decoded(decoded, validator.validate(values, n_rows), schema)
    except BaseException as error:  # noqa: BLE001 - raised again on the loop
        return Decoded(decoded, error.with_traceback(None), schema)
