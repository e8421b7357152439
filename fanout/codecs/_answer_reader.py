"""Read the answers of a response in JSON: those of a large list slice by slice, all others as one document."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.codecs._parsing import invalid, read, read_with_usage
from fanout.codecs._paths import BODY, PLAIN_FIELD, stated_order
from fanout.codecs._slices import Uncut, rows_at
from fanout.codecs._values import Unfit, outputs
from fanout.exact_json import LIGHT
from fanout.types import DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from fanout.codecs._answers import Answers
    from fanout.codecs._numbers import PlacedNumbersReader
    from fanout.codecs._paths import UsagePaths
    from fanout.codecs.json import NumbersReader
    from fanout.types import Array, Response, Values

# Name of the rows that the items of a slice state, beside their values, and the number for an item without one.
_INDEX, _NONE = "\0index", -1
# A larger index is no number of a row, and its array of places would not fit the memory.
_MOST_ROWS = 2**40


class AnswerReader:
    """Reads the answers of responses: those of a large list slice by slice, all others as one document.

    Args:
        answers: reads documents.
        numbers: makes a reader of the numbers in a field (None: in a list that is the document), if the dtype has one.
        keep: NaN and infinity are values.
        usage: finds the usage in a document; None if none is wanted.
    """

    def __init__(
        self,
        answers: Answers,
        numbers: Callable[[str | None], NumbersReader | None],
        *,
        keep: bool,
        usage: UsagePaths | None,
    ) -> None:
        self.answers = answers
        self._path = answers.items.path
        self._numbers = numbers
        self._wanted = answers.outputs.wanted
        self._keep = keep
        self._usage = usage
        expression = self._path.expression
        is_name = answers.are_plain and (expression == BODY or PLAIN_FIELD.fullmatch(expression) is not None)
        self.fields: tuple[str | None, ...] = (None if expression == BODY else expression,) if is_name else ()
        """The fields in which a large list of rows may be; None: the document is the list."""

        self.quick: NumbersReader | PlacedNumbersReader | None = None
        """Reads answers that are small, and hold no values but numbers."""
        if usage is None:
            # The quick readers parse the values alone, and would lose the usage beside them.
            self.quick = numbers(self.fields[0]) if len(self.fields) == 1 else answers.placed_numbers()

    def read(self, response: Response, n_rows: int) -> Array | Values | DecodedResponse:
        """The answers, first axis: the rows; with the usage, if that is wanted. Raises `InvalidResponse`."""
        if len(response.body) > LIGHT and (rows := self._in_slices(response)) is not None:
            return rows

        def convert(document: Any) -> Array | Values:
            return self.document_values(document) if self.answers.are_plain else self.answers.values(document, n_rows)

        exactly, usage = self.answers.computes, self._usage
        if usage is None:
            return read(response, convert, keep=self._keep, exactly=exactly)

        def count(document: Any) -> tuple[Mapping[str, int], None]:
            return usage.of(document), None

        return read_with_usage(response, convert, keep=self._keep, exactly=exactly, count=count)

    def _in_slices(self, response: Response) -> Array | Values | DecodedResponse | None:
        """The rows of a large answer, read in slices; None if it cannot be cut."""
        before = set[str | None]()
        for field in self.fields:
            with suppress(Uncut):
                rows, rest = rows_at(response, field, self._rows, keep=self._keep, quick=self._rows_of_numbers)
                if field is not None and not before.isdisjoint(rest):
                    return None  # a field that goes first is there too, but is no list
                placed = self._placed(rows, response)
                return placed if self._usage is None else DecodedResponse(placed, usage=self._usage.of(rest))
            before.add(field)
        return None

    def _rows_of_numbers(self) -> Callable[[bytes], Array | None]:
        numbers = self._numbers(None)
        return (lambda _: None) if numbers is None else numbers.read

    def _rows(self, rows: Any) -> Array | Values:
        """The values of a slice of rows, with the rows that items state. Raises `Uncut` for odd statements of rows."""
        field = self._path.index
        if not field or not rows or type(rows[0]) is not dict or rows[0].keys() == {field}:
            return outputs(rows, self._wanted)
        stated = [row[field] if type(row) is dict and field in row else _NONE for row in rows]
        if set(map(type, stated)) != {int} or not _NONE <= min(stated) <= max(stated) < _MOST_ROWS:
            raise Uncut
        # The index is removed before the values are read, so that it becomes no output.
        if max(stated) != _NONE:
            rows = [{name: row[name] for name in row if name != field} if type(row) is dict else row for row in rows]
        values = outputs(rows, self._wanted)
        return {**values, _INDEX: np.array(stated, np.int64)} if isinstance(values, Mapping) else values

    def _placed(self, rows: Array | Values, response: Response) -> Array | Values:
        """The values of all slices in the order that the items state."""
        if not isinstance(rows, Mapping) or _INDEX not in rows:
            return rows
        stated = rows[_INDEX].tolist()
        try:
            order = stated_order([None if row == _NONE else row for row in stated], self._path.index)
        except Unfit as error:
            raise invalid(response, error) from None
        return {name: values if order is None else values[order] for name, values in rows.items() if name != _INDEX}

    def document_values(self, document: object) -> Array | Values:
        """The values of a document whose answers are plain. Raises `Unfit`."""
        answers, index = self._path.find(document)
        values = outputs(answers, self._wanted)
        if not isinstance(values, Mapping):
            return values
        return {name: array for name, array in values.items() if name != index}


class PredictionsReader(AnswerReader):
    """Reads answers in ``predictions``, or in the ``outputs`` of TensorFlow Serving."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # TensorFlow Serving calls them `outputs` in its columnar format.
        self.fields = ("predictions", "outputs")

    def document_values(self, document: object) -> Array | Values:
        """The values of a document that has either field. Raises `Unfit`."""
        fields = document if isinstance(document, dict) else {}
        answers = fields.get("predictions", fields.get("outputs"))
        if answers is None:
            raise Unfit("has neither 'predictions' nor 'outputs'")
        return outputs(answers, self._wanted)
