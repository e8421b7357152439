"""Make requests of a template: a body, a path and header fields with placeholders for the values of rows.

The constant parts are serialized when the codec is made. Nothing of a row is parsed again, and no row reaches the
origin of the URL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import numpy as np
import orjson

from fanout._headers import require_headers
from fanout._lazy import pattern
from fanout.codecs._bodies import FormBody, RawBody
from fanout.codecs._placeholders import Document, Placeholder, Text, as_bytes, parse
from fanout.codecs._rows import DUMPS, jsonable, to_json, value_to_json
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError, EncodeError, InputError
from fanout.rows import count_rows, without_mask
from fanout.types import Payload

if TYPE_CHECKING:
    from fanout.types import Rows

# From this size on, to send the parts of a body one after the other is cheaper than to copy the rows into it.
WORTH_NO_COPY = 64 * 2**10
_NOT_IN_A_HEADER = pattern("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# A chunk may have hundreds of bad rows, but hardly more causes than these.
_MOST_REASONS = 3


class RequestTemplate:
    """The request for some rows. The arguments are options of `Json`.

    Raises `ConfigError` for a template that cannot be used. The message names its key and position.

    Args:
        other_body: makes a body that is no JSON, in place of ``request``. Such a request carries one row.
    """

    def __init__(
        self,
        request: Any,
        item: Any = None,
        path: str = "",
        headers: Mapping[str, str] | None = None,
        *,
        missing: Literal["null", "fail"] = "null",
        other_body: RawBody | FormBody | None = None,
    ) -> None:
        if missing not in ("null", "fail"):
            raise ConfigError(f'missing must be "null" or "fail", not {missing!r}', key="missing")
        self.body = Document(request, "request", required=missing == "fail")
        self.other_body = other_body
        self.item = None if item is None else Document(item, "item", required=missing == "fail")
        self._path = _path(path)
        self._headers = _headers({} if headers is None else headers)
        texts = [text for text in (*self._path, *self._headers.values()) if isinstance(text, Text)]
        texts += [] if other_body is None else other_body.texts
        self.one_row = not any(text.alone is not None and text.alone.many for text in self.body.texts)
        """True if one request carries one row, because neither ``{{rows}}`` nor ``{{column[]}}`` is in it."""

        self._check(texts)
        every = [*self.body.texts, *([] if self.item is None else self.item.texts), *texts]
        if not every:
            key = "request" if not isinstance(other_body, FormBody) else "form"
            raise ConfigError(f"{key} has no placeholder such as {{{{rows}}}} or {{{{column}}}}", key=key)
        shaped = [] if self.item is None else [_ROWS]
        # With an item, {{rows}} stands for what the item takes of each row, and names no column itself.
        names = {placeholder.name for text in every for placeholder in text.placeholders if placeholder not in shaped}
        by_rows = self.item is None and any(text.alone == _ROWS for text in self.body.texts)
        self.columns: frozenset[str] | None = None if by_rows or "" in names else frozenset(names)
        """The columns that it names; None if it takes whole rows."""

        self.varies_url = any(isinstance(part, Text) for part in self._path)
        only_rows = by_rows and len(self.body.texts) == 1 and not texts and not self._headers
        self.around = self.body.constants if only_rows else None
        """The constants before and after the rows, if the request has nothing else; None for any other."""

    def encode(self, rows: Rows) -> Payload:
        """The request for ``rows``. Raises `EncodeError` for rows that it cannot express, and `InputError`."""
        if self.around is not None:
            before, after = self.around
            return _payload([before, to_json(rows), after])
        if self.one_row:
            payloads: list[Payload] = each_row(single_rows(rows, self.columns), self._one)
            if len(payloads) != 1:
                raise InputError(f"a request of this template carries one row, not {len(payloads)}")
            return payloads[0]
        singles = None if self.item is None else single_rows(rows, self.columns)
        payload = _payload(self.body.filled(lambda text: self._many(text, rows, singles)))
        # Header fields of several rows are constants: `_check` refuses a value of one row there.
        payload.headers = self._fields(None)
        return payload

    def _one(self, row: Any) -> Payload:
        if self.other_body is None:
            payload = _payload(self.body.filled(lambda text: text.json(row)))
        else:
            payload = self.other_body.payload(row)
        if self.varies_url:
            payload.path = self._filled_path(row)
        if self._headers:
            payload.headers = self._fields(row)
        return payload

    def _many(self, text: Text, rows: Rows, singles: Sequence[Any] | None) -> bytes:
        placeholder = text.alone
        assert placeholder is not None
        if placeholder.name or placeholder.filters:
            return _column(placeholder, rows)
        if self.item is None:
            return to_json(rows)
        assert singles is not None
        item = self.item
        return b"[%b]" % b",".join(each_row(singles, lambda row: b"".join(item.filled(lambda text: text.json(row)))))

    def _filled_path(self, row: Any) -> str:
        filled, in_query = [], False
        for part in self._path:
            if isinstance(part, str):
                filled.append(part)
                in_query = in_query or "?" in part
                continue
            value = part.text(row)
            if not in_query and value in ("", ".", ".."):
                # An empty or a dot segment would address another resource than the template does.
                raise Unfit(f"has {value!r} for {part.placeholders[0].shown}, which cannot be a part of a path")
            # Also the slash: a value is one segment, and never leads to another resource.
            filled.append(quote(as_bytes(value, part.key), safe=""))
        path = "".join(filled)
        if not {".", ".."}.isdisjoint(path.partition("?")[0].split("/")):
            raise Unfit("makes a path with a segment of dots alone")
        return path

    def _fields(self, row: Any) -> dict[str, str]:
        fields = {}
        for name, template in self._headers.items():
            value = template if isinstance(template, str) else template.text(row)
            if _NOT_IN_A_HEADER.search(value):
                raise Unfit(f"has a line end or another control character for the header {name}")
            fields[name] = value
        return fields

    def _check(self, targets: list[Text]) -> None:
        for text in [*self.body.texts, *([] if self.item is None else self.item.texts), *targets]:
            inside = self.item is not None and text in self.item.texts
            for placeholder in text.placeholders:
                if placeholder.many and (inside or text in targets):
                    raise ConfigError(
                        f"{text.key} has {placeholder.shown}, the values of all rows, where one row's belongs: write "
                        f"{placeholder._replace(many=False).shown}",
                        key=text.key,
                    )
                if placeholder.many and text.alone is None:
                    raise ConfigError(
                        f"{text.key} has {placeholder.shown}, a list, which cannot stand within a text", key=text.key
                    )
                if not placeholder.many and not inside and not self.one_row:
                    raise ConfigError(
                        f"{text.key} has {placeholder.shown}, a value of one row, but a request has many: put it into "
                        f"item, or write {placeholder._replace(many=True).shown}",
                        key=text.key,
                    )
        if self.item is not None and not any(text.alone == _ROWS for text in self.body.texts):
            raise ConfigError("item shapes the elements of {{rows}}, which the request does not have", key="item")


_ROWS = Placeholder("", many=True)


def _path(path: str) -> list[str | Text]:
    """The constant and the variable parts of a path, each placeholder a text of its own."""
    if not path:
        return []
    # Two slashes begin a host (RFC 3986, section 3.2), and the fragment behind a # is never sent.
    if not path.startswith("/") or path.startswith("//") or "#" in path:
        raise ConfigError(f'path must begin with one "/" and have no "#", not {path!r}', key="path")
    text = parse(path, "path")
    if isinstance(text, str):
        raise ConfigError("path has no placeholder such as {{column}}: write a constant path into the URL", key="path")
    return [part if isinstance(part, str) else Text([part], "path") for part in text.parts]


def _headers(fields: Mapping[str, str]) -> dict[str, str | Text]:
    if not isinstance(fields, Mapping):
        raise ConfigError(f"headers must be a table of names and texts, not {fields!r}", key="headers")
    require_headers(fields)
    return {name: parse(value, f"headers.{name}") for name, value in fields.items()}


def _payload(parts: list[bytes]) -> Payload:
    if sum(map(len, parts)) < WORTH_NO_COPY:
        return Payload(body=b"".join(parts))
    return Payload(body=tuple(parts))


def each_row(rows: Sequence[Any], encode: Callable[[Any], Any]) -> list[Any]:
    """``encode`` of each row. Raises `EncodeError` with all rows that it refuses."""
    encoded, refused = [], dict[int, str]()
    for i, row in enumerate(rows):
        try:
            encoded.append(encode(row))
        except Unfit as error:
            refused[i] = str(error)
    if refused:
        reasons = list(dict.fromkeys(refused.values()))
        more = f" and {len(reasons) - _MOST_REASONS} other reasons" if len(reasons) > _MOST_REASONS else ""
        each = [f"the row {reason}" for reason in refused.values()]
        raise EncodeError(f"the row {'; '.join(reasons[:_MOST_REASONS])}{more}", rows=list(refused), reasons=each)
    return encoded


def _column(placeholder: Placeholder, rows: Rows) -> bytes:
    """The values of one column as a JSON list."""
    if isinstance(rows, Mapping) and not placeholder.filters and placeholder.name in rows:
        return orjson.dumps(jsonable(np.asanyarray(rows[placeholder.name])), option=DUMPS)
    name = placeholder.name
    singles = single_rows(rows, frozenset([name]) if name else None)
    return b"[%b]" % b",".join(each_row(singles, lambda row: value_to_json(placeholder.value(row))))


def single_rows(rows: Rows, columns: frozenset[str] | None) -> Sequence[Any]:
    """The single rows, those of a mapping as dicts of ``columns`` (None: of all).

    Raises `InputError` where no row has the columns, for that is no fault of single rows.
    """
    if isinstance(rows, Mapping):
        n_rows = count_rows(rows)
        if columns is not None:
            for name in columns:
                if name not in rows and name.partition(".")[0] not in rows:
                    raise InputError(
                        f"the template has {{{{{name}}}}}, but the columns are {', '.join(map(repr, rows))}"
                    )
            rows = {
                name: rows[name]
                for name in rows
                if name in columns or any(other.startswith(f"{name}.") for other in columns)
            }
        cells = [_cells(without_mask(column, f"column {name!r}")) for name, column in rows.items()]
        if not cells:
            return [{}] * n_rows
        return [dict(zip(rows, row, strict=True)) for row in zip(*cells, strict=True)]
    if columns and not any(isinstance(row, Mapping) for row in rows):
        name = min(columns)
        raise InputError(
            f"the template has {{{{{name}}}}}, but the rows have no columns: write {{{{row}}}} for a row, or name the "
            f'columns of the input, such as [input] columns = ["{name}"]'
        )
    return _cells(rows) if isinstance(rows, np.ndarray) else rows


def _cells(array: Any) -> Sequence[Any]:
    array = np.asanyarray(array)
    # As Python's own, a float32 would be written with the digits of a float64.
    short = array.dtype.kind == "f" and array.dtype.itemsize < np.dtype(np.float64).itemsize
    cells: Sequence[Any] = array.tolist() if array.ndim == 1 and not short else list(array)
    return cells
