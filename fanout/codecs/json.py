"""APIs that take rows as a JSON list and answer with one; KServe's V1 protocol, which is TensorFlow Serving's, is one.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import orjson

from fanout.codecs import _options, _values
from fanout.codecs._numbers import AT_ONCE, NumbersReader
from fanout.codecs._options import DTypeOption, ShapeOption  # noqa: TC001 - the schema of job files resolves them
from fanout.codecs._parsing import invalid, read
from fanout.codecs._paths import BODY, INDEX, PLAIN_FIELD, Path, document_with, stated_order
from fanout.codecs._rows import DUMPS, to_json
from fanout.codecs._slices import Uncut, rows_at
from fanout.codecs.base import Codec
from fanout.errors import ConfigError
from fanout.exact_json import LIGHT
from fanout.types import Payload, Response

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.transport import Request
    from fanout.types import Array, Rows, Values

# Stands for the rows in the template of a body, because JSON itself never has this byte.
_HOLE = b"\0"
# From this size on, to send the parts of a body one after the other is cheaper than to copy the rows into it.
_WORTH_NO_COPY = 64 * 2**10
# Bytes that JMESPath, which is written in Python, searches within some ten milliseconds.
_MOST_FOR_JMESPATH = 128 * 2**10
# An error of SageMaker is shorter; a larger answer is not parsed for it.
_LARGEST_ERROR = 2**18
# Name of the rows that the items of a slice state, beside their values, and the number for an item without one.
_INDEX, _NONE = "\0index", -1
_MOST_ROWS = 2**40


class Json(Codec):
    """Rows as a JSON list in one field of the request, answers as a JSON list in the response.

    Rows may be arrays of numbers or bool (any rank), texts, lists, dicts, or a mapping of arrays (a row is then an
    object). An answer is a list of numbers, booleans, texts or (nested, rectangular) lists of those -> one array; a
    list of objects with the same fields, or an object of lists -> name -> array.

    Args:
        request_field: where the rows go; dotted for nesting; ``"@"``: the rows are the whole body.
        response_field: JMESPath of the answers; ``"@"``: the whole body.
        index_field: the field in which items of an answer state their row, if they do: they are placed by it. Set it to
            ``""`` where the model has an output of that name.
        extra: constant fields of the body.
        dtype, shape, nonfinite: see `fanout.Codec`. Numbers are float64 without ``dtype``; integers beyond 2**53, or
            those that the dtype does not hold exactly, make an answer invalid.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "json"
    takes_buffers = True

    def __init__(
        self,
        *,
        request_field: str = "instances",
        response_field: str = "predictions",
        index_field: str = INDEX,
        extra: Mapping[str, Any] | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
    ) -> None:
        super().__init__(dtype=dtype, shape=shape, nonfinite=nonfinite)
        field = _options.text("request_field", request_field)
        self._before, self._after = _template(field, _options.fields("extra", extra))
        response_field = _options.text("response_field", response_field)
        self._request_field, self._response_field = field, response_field
        # An empty text is allowed here: it disables the order by index.
        if not isinstance(index_field, str):
            raise ConfigError(f"index_field must be a text, not {index_field!r}", key="index_field")
        self._path = Path(response_field, index_field)
        self._quick = self._quick_reader(response_field)
        self.if_lengths_differ = (
            f'take each as JSON text, with codec.response_field = "{self._path.of_texts}" and no codec.dtype, or one '
            "value of each, with an index such as [0] behind its rows"
        )
        self._fields_of_rows = _fields_of_rows(response_field)
        if not self._fields_of_rows:  # only a name can be read in slices
            self.most_bytes_on_loop = _MOST_FOR_JMESPATH

    def encode(self, rows: Rows) -> Payload:
        """``rows`` in the request field.

        Raises:
            EncodeError: rows that JSON cannot express (NaN, infinity, bytes, integers beyond 64 bits).
            InputError: an array of a dtype that cannot be sent.
        """
        written = to_json(rows)
        if len(written) < _WORTH_NO_COPY:
            return Payload(body=self._before + written + self._after)
        return Payload(body=(self._before, written, self._after))

    def decode(self, response: Response, n_rows: int) -> Array | Values:
        """The list that the response field holds, first axis: the rows. Raises `InvalidResponse`."""
        # Small answers of plain numbers need none of the general machinery below.
        quick = self._quick if len(response.body) <= AT_ONCE else None
        if quick is not None and (numbers := quick.read(response.body)) is not None:
            return numbers
        if len(response.body) > LIGHT and (rows := self._in_slices(response)) is not None:
            return rows
        return read(response, self._answers, keep=self.nonfinite == "keep", exactly=self._path.computes)

    def serve(self, request: Request, model: Callable[[Any], Any]) -> Response:
        """The response of a mock server: ``model`` of the rows, at the place of ``response_field``.

        Raises `ConfigError` for a response field that is more than names and one list.
        """
        answers = to_json(model(_rows_in(request.joined(), self._request_field)))
        body = document_with(answers, self._response_field)
        return Response(status=200, headers={"Content-Type": "application/json"}, body=body)

    def classify(self, response: Response) -> int | None:
        """The container's own status, which SageMaker wraps into a 424."""
        if response.status != 424 or len(response.body) > _LARGEST_ERROR:
            return None
        try:
            original = orjson.loads(response.body)["OriginalStatusCode"]
        except (ValueError, TypeError, KeyError):
            return None
        return original if isinstance(original, int) and 400 <= original < 600 else None

    def _quick_reader(self, field: str) -> NumbersReader | None:
        dtype = self._dtype_of("") or np.dtype(np.float64)
        if dtype.kind != "f" or not (field == BODY or PLAIN_FIELD.fullmatch(field)):
            return None
        return NumbersReader(None if field == BODY else field, dtype)

    def _in_slices(self, response: Response) -> Array | Values | None:
        """The rows of a large answer, read in slices; None if it cannot be cut."""
        keep, before = self.nonfinite == "keep", set[str | None]()
        for field in self._fields_of_rows:
            with suppress(Uncut):
                rows, rest = rows_at(response, field, self._rows, keep=keep, quick=self._quick_rows)
                if field is not None and not before.isdisjoint(rest):
                    return None  # a field that goes first is there too, but is no list
                return self._placed(rows, response)
            before.add(field)
        return None

    def _quick_rows(self) -> Callable[[bytes], Array | None]:
        dtype = self._dtype_of("") or np.dtype(np.float64)
        return NumbersReader(None, dtype).read if dtype.kind == "f" else lambda _: None

    def _rows(self, rows: Any) -> Array | Values:
        """The values of a slice of rows, with the rows that items state. Raises `Uncut` for odd statements of rows."""
        field = self._path.index
        if not field or not rows or type(rows[0]) is not dict or rows[0].keys() == {field}:
            return _values.outputs(rows, self._wanted)
        stated = [row[field] if type(row) is dict and field in row else _NONE for row in rows]
        if set(map(type, stated)) != {int} or not _NONE <= min(stated) <= max(stated) < _MOST_ROWS:
            raise Uncut
        # The index is removed before the values are read, so that it becomes no output.
        if max(stated) != _NONE:
            rows = [{name: row[name] for name in row if name != field} if type(row) is dict else row for row in rows]
        values = _values.outputs(rows, self._wanted)
        return {**values, _INDEX: np.array(stated, np.int64)} if isinstance(values, Mapping) else values

    def _placed(self, rows: Array | Values, response: Response) -> Array | Values:
        """The values of all slices in the order that the items state."""
        if not isinstance(rows, Mapping) or _INDEX not in rows:
            return rows
        stated = rows[_INDEX].tolist()
        try:
            order = stated_order([None if row == _NONE else row for row in stated], self._path.index)
        except _values.Unfit as error:
            raise invalid(response, error) from None
        return {name: values if order is None else values[order] for name, values in rows.items() if name != _INDEX}

    def _answers(self, document: object) -> Array | Values:
        answers, index = self._path.find(document)
        values = _values.outputs(answers, self._wanted)
        if not isinstance(values, Mapping):
            return values
        return {name: array for name, array in values.items() if name != index}

    def _wanted(self, output: str) -> _values.Wanted:
        return _values.Wanted(self._dtype_of(output), keep=self.nonfinite == "keep")


class V1(Json):
    """``instances`` to a model's ``:predict``; ``predictions`` back, or the ``outputs`` of TensorFlow Serving.

    Rows and answers are those of `Json`: several inputs or outputs are objects row by row, outputs may also come as
    an object of columns.

    Args:
        signature_name: the signature of a TensorFlow model to call; the server has a default.
        dtype, shape, nonfinite: see `fanout.Codec`.

    Raises:
        ConfigError: an option that cannot be used.
    """

    name: ClassVar[str] = "v1"
    path = "/v1/models/{model}:predict"

    def __init__(
        self,
        *,
        signature_name: str | None = None,
        dtype: DTypeOption = None,
        shape: ShapeOption = None,
        nonfinite: Literal["reject", "keep"] = "reject",
    ) -> None:
        signature = _options.text_or_none("signature_name", signature_name)
        extra = None if signature is None else {"signature_name": signature}
        # Predictions are in the order of the instances, so that a field "index" is an output of the model.
        super().__init__(index_field="", extra=extra, dtype=dtype, shape=shape, nonfinite=nonfinite)
        self.if_lengths_differ = f'take the codec "json" for "v1": {self.if_lengths_differ}'
        self._fields_of_rows = ("predictions", "outputs")

    def _answers(self, document: object) -> Array | Values:
        fields = document if isinstance(document, dict) else {}
        answers = fields.get("predictions", fields.get("outputs"))
        if answers is None:
            raise _values.Unfit("has neither 'predictions' nor 'outputs'")
        return _values.outputs(answers, self._wanted)


def _rows_in(body: bytes, field: str) -> Any:
    """The rows of a request to a mock server: an array where they are numbers of one shape, else a list."""
    rows = orjson.loads(body)
    for name in () if field == BODY else field.split("."):
        rows = rows[name]
    try:
        array = np.array(rows)
    except ValueError:  # the rows differ in length
        return rows
    return array if array.dtype.kind in "biuf" else rows


def _fields_of_rows(field: str) -> tuple[str | None, ...]:
    """The fields in which a large list of rows may be; none for an expression that is more than a name."""
    if field == BODY:
        return (None,)
    return (field,) if PLAIN_FIELD.fullmatch(field) else ()


def _template(field: str, extra: dict[str, Any]) -> tuple[bytes, bytes]:
    """The parts of the body before and behind the rows."""
    if field == BODY:
        if extra:
            raise ConfigError('extra needs a body of fields, but request_field is "@", the whole body', key="extra")
        return b"", b""
    *parents, last = field.split(".")
    if not all([*parents, last]):
        raise ConfigError(f"request_field {field!r} has an empty part between its dots", key="request_field")
    # Copies, because `extra` belongs to the user.
    body = level = dict(extra)
    for name in parents:
        inner = level.get(name, {})
        if not isinstance(inner, dict):
            clash = f"extra has a constant at {name!r}, where request_field {field!r} needs an object"
            raise ConfigError(clash, key="extra")
        level[name] = level = dict(inner)
    if last in level:
        raise ConfigError(f"extra has the field {last!r} too, where request_field {field!r} puts the rows", key="extra")
    # The constant parts of the body are written once, not for every request.
    level[last] = orjson.Fragment(_HOLE)
    before, after = orjson.dumps(body, option=DUMPS).split(_HOLE)
    return before, after
