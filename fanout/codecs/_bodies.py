"""Bodies that are no JSON, made of a template: the bytes of one value, and multipart forms (RFC 7578)."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np

from fanout.codecs._options import require_keys
from fanout.codecs._placeholders import Placeholder, Text, as_bytes, media_type, parse
from fanout.codecs._rows import value_to_json
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.types import Payload

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT = "text/plain; charset=utf-8"
# The same in every request, so that a recording of it can be replayed. A number follows if the data contains it.
_BOUNDARY = "fanout-7f0c1d52b6a94e38"
_PART_KEYS = ("value", "filename", "type")
# As browsers escape names in a form, by the HTML standard; servers read no other way.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class RawBody:
    """A body that is one value: bytes as they are, or a text in UTF-8.

    Raises `ConfigError` for a template without a placeholder.
    """

    def __init__(self, template: Any) -> None:
        text = parse(template, "raw") if isinstance(template, str) else template
        if not isinstance(text, Text):
            raise ConfigError(
                f"raw must be a text with a placeholder such as {{{{file}}}}, not {template!r}", key="raw"
            )
        self._text = text
        self.texts = [self._text]

    def payload(self, row: Any) -> Payload:
        """The body for ``row``, whose content type is the one that its first bytes show. Raises `Unfit`."""
        data, content_type = _content(self._text, row)
        return Payload(body=data, content_type=content_type)

    def row_in(self, body: bytes) -> Any:
        """The row of a request, as far as it shows."""
        return _row([(self._text, body)])


class FormBody:
    """A multipart form. Values that are bytes are files; all others are texts.

    Raises `ConfigError` for a field that cannot be used, or none with a placeholder.
    """

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, Mapping) or not fields:
            raise ConfigError("form must be a table of field names and values", key="form")
        self._fields = {str(name): _Field(str(name), value) for name, value in fields.items()}
        self.texts = [text for field in self._fields.values() for text in field.texts]

    def payload(self, row: Any) -> Payload:
        """The form for ``row``. Raises `Unfit` for a value that is missing or is no text, number or bytes."""
        parts = [field.part(row) for field in self._fields.values()]
        boundary = next(
            name
            for name in (_BOUNDARY + (f"-{number}" if number else "") for number in count())
            if not any(b"--" + name.encode() in data for _, data in parts)
        )
        body: list[bytes] = []
        for head, data in parts:
            body += [f"--{boundary}\r\n{head}\r\n\r\n".encode(), data, b"\r\n"]
        body.append(f"--{boundary}--\r\n".encode())
        return Payload(body=tuple(body), content_type=f"multipart/form-data; boundary={boundary}")

    def row_in(self, body: bytes) -> Any:
        """The row of a request, as far as it shows."""
        # The first line of a form is its boundary.
        boundary = body[: body.index(b"\r\n")]
        parts = body.split(boundary + b"\r\n")[1:]
        contents = [part.partition(b"\r\n\r\n")[2].rpartition(b"\r\n")[0] for part in parts]
        return _row(
            (field.value, data)
            for field, data in zip(self._fields.values(), contents, strict=True)
            if isinstance(field.value, Text)
        )


class _Field:
    """One field of a form."""

    def __init__(self, name: str, given: Any) -> None:
        key = f"form.{name}"
        options = given if isinstance(given, Mapping) else {"value": given}
        require_keys(key, options, _PART_KEYS)
        if "value" not in options:
            raise ConfigError(f"{key} has no value", key=key)
        value = options["value"]
        if not isinstance(value, str | int | float | bool):
            raise ConfigError(f"{key} must be a text or a number, not {type(value).__name__}", key=key)
        self._name = name
        self.value = parse(value, key) if isinstance(value, str) else value_to_json(value).decode()
        self._filename = _optional(options.get("filename"), f"{key}.filename")
        self._type = _optional(options.get("type"), f"{key}.type")
        self.texts = [text for text in (self.value, self._filename, self._type) if isinstance(text, Text)]

    def part(self, row: Any) -> tuple[str, bytes]:
        """The header fields and the content of this field. Raises `Unfit`."""
        if isinstance(self.value, str):
            data, kind, is_file = self.value.encode(), _TEXT, False
        else:
            data, kind = _content(self.value, row)
            is_file = kind != _TEXT
        filename = _filled(self._filename, row)
        kind = _filled(self._type, row) or kind
        head = f'Content-Disposition: form-data; name="{self._name.translate(_ESCAPES)}"'
        if not is_file and filename is None:
            return head, data
        # Many servers take a field for a file only if it has a file name.
        filename = filename or f"{self._name}{mimetypes.guess_extension(kind) or ''}"
        return f'{head}; filename="{filename.translate(_ESCAPES)}"\r\nContent-Type: {kind}', data


def _optional(template: Any, key: str) -> Text | str | None:
    if template is not None and not isinstance(template, str):
        raise ConfigError(f"{key} must be a text, not {type(template).__name__}", key=key)
    return None if template is None else parse(template, key)


def _filled(text: Text | str | None, row: Any) -> str | None:
    filled = text.text(row) if isinstance(text, Text) else text
    if filled is not None and any(ord(character) < ord(" ") for character in filled):
        raise Unfit("has a control character in the name or the type of a file")
    return filled


def _content(text: Text, row: Any) -> tuple[bytes, str]:
    """The bytes of a value, and their media type."""
    if text.alone is not None:
        value = text.alone.value(row)
        if isinstance(value, bytes | bytearray | memoryview):
            data = bytes(value)
            return data, media_type(data)
        if not isinstance(value, str | int | float | bool | np.generic):
            as_bytes(value, text.alone.shown)  # raises: it is missing, a list or an object
        if isinstance(value, str):
            return as_bytes(value, text.alone.shown), _TEXT
    return as_bytes(text.text(row), text.key), _TEXT


def _row(filled: Iterator[tuple[Text, bytes]] | list[tuple[Text, bytes]]) -> Any:
    row: dict[str, Any] = {}
    for text, data in filled:
        placeholder: Placeholder | None = text.alone
        if placeholder is not None:
            row.setdefault(placeholder.name, data)
    return row.get("", row)
