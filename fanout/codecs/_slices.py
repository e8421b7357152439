"""Read the rows of large JSON answers into arrays, one slice of rows after the other.

A parser makes objects of a document that take up to 75 times its bytes. Here no more than one slice of rows exists as
objects at any time.

A slice is cut where rows seem to end, because that is quicker than to read every byte; the parser proves the cut. If
``[`` + slice + ``]`` is a list, the slice begins and ends between two rows. At the end the document is parsed with a
mark in place of the list: that shows that the list is where it should be, and that all around it is JSON. A document
that cannot be cut is left to `fanout.codecs._parsing.read`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import orjson

from fanout._lazy import pattern
from fanout.codecs._parsing import NoJson, converted, invalid
from fanout.codecs._values import Unfit
from fanout.errors import InvalidResponse
from fanout.exact_json import in_slices, last_comma, space_end, too_heavy, without_bom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fanout.types import Array, Buffer, Response, Values

    Quick = Callable[[bytes], Array | Values | None]
    Convert = Callable[[Any], Array | Values]

_SLICE = 128 * 2**10
# Bytes behind a slice in which its last row has to end.
_REACH = 256 * 2**10
# Cuts at places that look like the end of a row, before every byte is read: texts may hold all that rows end with.
_TRIES = 4
_MOST_STARTS = 3
_MOST_AXES = 64
_LIST = pattern(rb"[ \t\n\r]*:[ \t\n\r]*\[")
_OPENING = pattern(rb"(?:\[[ \t\n\r]*)+")
_FIRST_NAME = pattern(rb'\{[ \t\n\r]*("[^"\\]{0,100}")')
_BETWEEN_TEXTS = pattern(rb'"[ \t\n\r]*(,)[ \t\n\r]*(?=")')
_BETWEEN_OBJECTS = pattern(rb"\}[ \t\n\r]*(,)[ \t\n\r]*(?=\{)")
_BETWEEN_VALUES = pattern(rb"(,)")

# Bytes that are searched in one call.
_PIECE = 2**20


class Uncut(Exception):  # noqa: N818 - the answer has no fault
    """The document cannot be cut into slices of rows."""


def rows_at(
    response: Response, field: str | None, convert: Convert, *, keep: bool, quick: Callable[[], Quick] | None = None
) -> tuple[Array | Values, Any]:
    """Read the list of rows in a field. Returns the rows, and the document without that list.

    Args:
        response: its body is the JSON document.
        field: name of the list in the document's object; None: the document is the list.
        convert: makes an array, or name -> array, of some rows; raises `Unfit` where they do not fit.
        keep: see `fanout.codecs._parsing.read`.
        quick: makes a function that may read the text of some rows faster; it returns None for text that it leaves.

    Raises:
        Uncut: there is no such list, or it cannot be cut into slices.
        InvalidResponse: ``convert`` raised `Unfit`.
    """
    error: Unfit | InvalidResponse | None = None
    n_lists = 0
    for n_lists, start in enumerate(_starts(response.body, field), 1):  # noqa: B007 - counted for the error
        # A mark that no server can guess, so that no other field of the answer can hold it.
        mark = uuid4().hex
        try:
            rows, end = Reader(response, convert, keep=keep, quick=None if quick is None else quick()).read(start)
            document = around(response.body, [(start, end, mark)])
        except Uncut:
            continue
        except (Unfit, InvalidResponse) as one:
            error = one  # another list of that name may hold the rows
            continue
        # A list of this name may be nested anywhere; only the mark's place shows that this one is the field's.
        if (document if field is None else isinstance(document, dict) and document.get(field)) == mark:
            return rows, document
    if error is None or n_lists > 1:
        raise Uncut
    raise invalid(response, error) if isinstance(error, Unfit) else error


def lists_named(body: bytes, field: str) -> Iterator[int]:
    """The places where a list seems to begin in a field of that name."""
    name = orjson.dumps(field)
    at = _find(body, name, 0)
    while at >= 0:
        found = _LIST.match(body, at + len(name))
        if found is not None and body[at - 1 : at] != b"\\":  # a quote within a text has a backslash before it
            yield found.end() - 1
        at = _find(body, name, at + len(name))


def _find(body: bytes, name: bytes, at: int) -> int:
    """Return the first place of ``name`` from ``at`` on; -1 without one. Several times quicker than a pattern.

    The search goes piece by piece: one through a large body would hold the interpreter for 20 ms.
    """
    while at < len(body):
        place = body.find(name, at, at + _PIECE + len(name) - 1)
        if place >= 0:
            return place
        at += _PIECE
    return -1


def around(body: bytes, lists: list[tuple[int, int, str]]) -> Any:
    """Parse the document with marks in place of some lists, each given by its start, its end and its mark.

    Raises `Uncut` if that is no JSON, or would take too much memory.
    """
    view, at = memoryview(body), 0
    parts: list[Buffer] = []
    for start, end, mark in lists:
        parts += [view[at:start], b'"', mark.encode(), b'"']
        at = end
    text = without_bom(b"".join([*parts, view[at:]]))
    if too_heavy(text):
        raise Uncut
    try:
        return in_slices(text, orjson.loads)
    except orjson.JSONDecodeError:
        raise Uncut from None


def _starts(body: bytes, field: str | None) -> Iterator[int]:
    if field is not None:
        return islice(lists_named(body, field), _MOST_STARTS)
    at = space_end(body, len(body[:3]) - len(without_bom(body[:3])))
    return iter([at] if body[at : at + 1] == b"[" else [])


class Reader:
    """Read lists of the body of ``response``. See `rows_at` for the arguments."""

    def __init__(self, response: Response, convert: Convert, *, keep: bool, quick: Quick | None = None) -> None:
        self._response = response
        self._body = response.body
        self._convert = convert
        self._keep = keep
        self._quick = quick

    def read(self, start: int, depth: int = 1) -> tuple[Array | Values, int]:
        """The rows of the list that begins at ``start``, and the place behind it.

        Raises `Uncut`, `Unfit` and `InvalidResponse`.
        """
        if depth > _MOST_AXES:
            raise Unfit(f"is nested more than {_MOST_AXES} deep", row=0)
        parts, at, ended = _Parts(), space_end(self._body, start + 1), False
        first = at
        while not ended:
            if at > first and self._body[at : at + 1] == b"]":  # behind a comma
                raise Uncut
            try:
                # A list that is longer than a slice is itself read in slices.
                rows, at, ended = self._long_row(at, depth) if self._is_long_list(at) else self._slice(at)
                parts.add(rows)
            except Unfit as error:
                if error.row is not None:
                    # The error counts rows within its slice; at a depth the row is always the first.
                    error.row = error.row + parts.rows if depth == 1 else 0
                raise
            at = at if ended else space_end(self._body, at + 1)
        return parts.joined(), at + 1

    def _long_row(self, at: int, depth: int) -> tuple[Array | Values, int, bool]:
        """One row that is a long list, the place of its end, and whether the list of rows ends there."""
        rows, end = self.read(at, depth + 1)
        if isinstance(rows, Mapping):
            raise Uncut  # objects in lists in lists make no array, which the other parser reports
        end = space_end(self._body, end)
        if self._body[end : end + 1] not in (b",", b"]"):
            raise Uncut
        return rows[None], end, self._body[end : end + 1] == b"]"

    def _is_long_list(self, at: int) -> bool:
        """True if a list begins at ``at`` and does not end within a slice."""
        opening = _OPENING.match(self._body, at, at + 1000)
        if opening is None:
            return False
        closing = re.compile(rb"\](?:[ \t\n\r]*\]){%d}" % (opening[0].count(b"[") - 1))
        return not closing.search(self._body, at, at + _SLICE)

    def _slice(self, at: int) -> tuple[Array | Values, int, bool]:
        """Some rows from ``at`` on, the place of their end, and whether their list ends there."""
        for end in self._likely_cuts(at):
            try:
                return self._converted(at, end), end, False
            except NoJson:
                continue
        length, ended = last_comma(bytes(memoryview(self._body)[at : at + _SLICE + _REACH]))
        if length < 0:
            raise Uncut
        try:
            return self._converted(at, at + length), at + length, ended
        except NoJson:
            raise Uncut from None

    def _likely_cuts(self, at: int) -> Iterator[int]:
        """Places of commas behind which a row may begin."""
        last = at + _SLICE + _REACH
        # The last row of a slice may be long, so that the search ends only behind the reach.
        for separator in _between(self._body, at):
            found = separator.search(self._body, at + _SLICE, last)
            for _ in range(_TRIES):
                if found is None:
                    break
                yield found.start(1)
                found = separator.search(self._body, found.end(1), last)

    def _converted(self, start: int, end: int) -> Array | Values:
        text = b"".join((b"[", memoryview(self._body)[start:end], b"]"))
        if self._quick is not None and (rows := self._quick(text)) is not None:
            return rows
        return converted(replace(self._response, body=text), self._convert, keep=self._keep)


def _between(body: bytes, at: int) -> tuple[re.Pattern[bytes], ...]:
    """The text between two rows like the one that begins at ``at``, the likeliest first; its group is the comma."""
    if opening := _OPENING.match(body, at, at + 1000):
        depth = opening[0].count(b"[")
        return (re.compile(rb"\](?:[ \t\n\r]*\]){%d}[ \t\n\r]*(,)[ \t\n\r]*(?=\[)" % (depth - 1)),)
    if name := _FIRST_NAME.match(body, at, at + 1000):
        # Objects within a row rarely begin with the first name of the row.
        alike = re.compile(rb"\}[ \t\n\r]*(,)[ \t\n\r]*(?=\{[ \t\n\r]*" + re.escape(name[1]) + rb")")
        return alike, _BETWEEN_OBJECTS
    if body[at : at + 1] == b"{":
        return (_BETWEEN_OBJECTS,)
    return (_BETWEEN_TEXTS if body[at : at + 1] == b'"' else _BETWEEN_VALUES,)


class _Parts:
    """Join the arrays of slices."""

    def __init__(self) -> None:
        self._parts: list[Mapping[str, Array]] = []
        self._bare = True
        self.rows = 0

    def add(self, rows: Array | Values) -> None:
        """Add the next rows. Raises `Unfit` where they are unlike the first."""
        bare = not isinstance(rows, Mapping)
        named = rows if isinstance(rows, Mapping) else {"": rows}
        if self._parts:
            self._require_alike(named, bare=bare)
        self._bare = bare
        self._parts.append(named)
        self.rows += len(next(iter(named.values())))

    def joined(self) -> Array | Values:
        """One array for each name. Each part is freed once it is copied, so that no more than one is held twice."""
        parts, self._parts = self._parts[::-1], []
        # Memory for all rows, allocated once: `np.concatenate` would hold every part until its end.
        whole = {name: np.empty((self.rows, *first.shape[1:]), first.dtype) for name, first in parts[-1].items()}
        at = 0
        while parts:
            part, start = parts.pop(), at
            for name, array in part.items():
                at = start + len(array)
                whole[name][start:at] = array
        return whole[""] if self._bare else whole

    def _require_alike(self, named: Mapping[str, Array], *, bare: bool) -> None:
        first = self._parts[0]
        if bare != self._bare or named.keys() != first.keys():
            raise Unfit("has other fields than row 0", row=0)
        for name, array in named.items():
            of = f"of {name!r} " if name else ""
            if array.shape[1:] != first[name].shape[1:]:
                shapes = f"a row of shape {list(array.shape[1:])} where row 0 has {list(first[name].shape[1:])}"
                # The counts show the user whether a few rows or half of them differ.
                lengths = Counter({first[name].shape[1:2]: self.rows}) + Counter({array.shape[1:2]: len(array)})
                counts = {length: n for (length, *_), n in lengths.items()} if () not in lengths else None
                raise Unfit(f"{of}is ragged: it holds {shapes}", row=0, error_kind="shape", lengths=counts)
            if array.dtype != first[name].dtype:
                raise Unfit(f"{of}holds {array.dtype} where row 0 holds {first[name].dtype}", row=0)
