"""Placeholders in texts and documents: ``{{column}}``, ``{{row}}``, ``{{rows}}``, ``{{column[]}}``, with filters.

A text is parsed once, when the codec is made. The values of a row are put between its parts and never parsed, so that
braces in data are data. ``{{"..."}}`` stands for a constant text, with which a template can write braces itself.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from math import isnan
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson

from fanout._escape import shortened
from fanout._lazy import pattern
from fanout.codecs._rows import DUMPS, holds_nonfinite, value_to_json
from fanout.codecs._values import Unfit
from fanout.errors import ConfigError
from fanout.options import did_you_mean
from fanout.types import PassedUrl, UnreadableFile

Filter: TypeAlias = Callable[[Any], Any]

_PLACEHOLDER = pattern(r'\{\{\s*(?:("(?:[^"\\]|\\.)*")|(.*?))\s*\}\}', re.DOTALL)
_LONGEST_SHOWN = 60
# Stands for a placeholder in a serialized document, because JSON itself never has this byte.
_HOLE = b"\0"
# The first bytes of files that models take, for the type in a data URL.
_SIGNATURES = (
    (pattern(rb"\x89PNG\r\n"), "image/png"),
    (pattern(rb"\xff\xd8\xff"), "image/jpeg"),
    (pattern(rb"GIF8[79]a"), "image/gif"),
    (pattern(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
    (pattern(rb"RIFF....WAVE", re.DOTALL), "audio/wav"),
    (pattern(rb"BM"), "image/bmp"),
    (pattern(rb"II\*\0|MM\0\*"), "image/tiff"),
    (pattern(rb"%PDF-"), "application/pdf"),
    (pattern(rb"ID3|\xff[\xfb\xf3\xf2]"), "audio/mpeg"),
    (pattern(rb"OggS"), "audio/ogg"),
    (pattern(rb"fLaC"), "audio/flac"),
    (pattern(rb"....ftyp", re.DOTALL), "video/mp4"),
)


class Placeholder(NamedTuple):
    """One ``{{...}}``."""

    name: str
    """Name of a column; empty for the whole row, or all rows."""

    many: bool
    """A value for each row of the request: ``{{rows}}`` or ``{{column[]}}``."""

    filters: tuple[Filter, ...] = ()

    @property
    def shown(self) -> str:
        """The placeholder as it is written."""
        if not self.name:
            return "{{rows}}" if self.many else "{{row}}"
        return f"{{{{{self.name}{'[]' if self.many else ''}}}}}"

    def value(self, row: Any) -> Any:
        """The value that ``row`` has here. Raises `Unfit` for a missing column, or a value that a filter refuses."""
        try:
            value = row[self.name] if self.name else row
        # A column may itself have a dot in its name, so that the whole name is looked up first.
        except (KeyError, IndexError, TypeError):
            value = self._within(row)
        if type(value) is UnreadableFile:
            raise Unfit(f"has no file: {value.reason}")
        for apply in self.filters:
            value = apply(value)
        return value

    def _within(self, row: Any) -> Any:
        """The value that a dotted name finds within the objects of a row."""
        value = row
        for part in self.name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise Unfit(f"has no {self.name!r}") from None
            value = value[part]
        return value


class Text:
    """A text with at least one placeholder.

    Args:
        parts: constant texts and placeholders, in order.
        key: the key of the template that holds it, for messages.
        required: refuse null, rather than send it, where a placeholder is the whole text.
    """

    def __init__(self, parts: list[str | Placeholder], key: str, *, required: bool = False) -> None:
        self.parts = parts
        self.key = key
        self.required = required
        only = parts[0] if len(parts) == 1 else None
        self.alone = only if isinstance(only, Placeholder) else None
        """The placeholder that is the whole text, so that its value keeps its type."""

    @property
    def placeholders(self) -> list[Placeholder]:
        """The placeholders in it."""
        return [part for part in self.parts if isinstance(part, Placeholder)]

    def json(self, row: Any) -> bytes:
        """The value for ``row`` as JSON. Raises `Unfit` where JSON cannot express it, or a value is missing."""
        if self.alone is not None:
            value = self.alone.value(row)
            if self.required and _is_missing(value):
                raise Unfit(f"has no value for {self.alone.shown}")
            return value_to_json(value)
        return value_to_json(self.text(row))

    def text(self, row: Any) -> str:
        """The text for ``row``. Raises `Unfit` where a value is missing, or is none that a text can hold."""
        return "".join([part if isinstance(part, str) else as_text(part.value(row), part) for part in self.parts])


def parse(text: str, key: str, *, required: bool = False) -> Text | str:
    """``text`` with its placeholders found, or the constant text (``required``: see `Text`).

    Raises `ConfigError` with the position of a fault.
    """
    parts: list[str | Placeholder] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        _add(parts, text[end : found.start()], end, key)
        where = f"{key} has {shortened(found[0], _LONGEST_SHOWN)} at position {found.start()}"
        try:
            # A constant is a JSON string, whose escapes can write any character.
            parts.append(orjson.loads(found[1]) if found[1] else _placeholder(found[2], where, key))
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{where}, which is no constant text: {error}", key=key) from None
        end = found.end()
    _add(parts, text[end:], end, key)
    if any(isinstance(part, Placeholder) for part in parts):
        return Text(parts, key, required=required)
    return "".join(map(str, parts))


def _add(parts: list[str | Placeholder], constant: str, start: int, key: str) -> None:
    if (at := constant.find("{{")) >= 0:
        raise ConfigError(
            f'{key} has a {{{{ at position {start + at} without }}}} behind it; braces themselves are {{{{"{{{{"}}}}',
            key=key,
        )
    if constant:
        parts.append(constant)


def _placeholder(inner: str, where: str, key: str) -> Placeholder:
    name, *names = [part.strip() for part in inner.split("|")]
    for each in names:
        if each not in FILTERS:
            hint = did_you_mean(each, FILTERS)
            raise ConfigError(f"{where} with an unknown filter {each!r}{hint}; there are {', '.join(FILTERS)}", key=key)
    filters = tuple(FILTERS[each] for each in names)
    if name == "rows":
        if filters:
            raise ConfigError(f"{where}, but rows take no filter: write it into item", key=key)
        return Placeholder("", many=True)
    many = name.endswith("[]")
    name = name.removesuffix("[]")
    if not name or "{{" in name:
        raise ConfigError(f"{where}, which names no column", key=key)
    # `row.NAME` reaches a column that is itself called row or rows.
    column = "" if name == "row" else name.removeprefix("row.")
    return Placeholder(column, many, filters)


def as_text(value: Any, placeholder: Placeholder) -> str:
    """``value`` within a text. Raises `Unfit` for a missing value, bytes, a list or an object."""
    if isinstance(value, str):
        return value
    if _is_missing(value):
        raise Unfit(f"has no value for {placeholder.shown}, which stands within a text")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # As JSON writes them: true rather than True, and the shortest digits that give the same float.
    if isinstance(value, bool | float | np.generic):
        return value_to_json(value).decode()
    remedy = "base64" if isinstance(value, bytes) else "json"
    kind = "bytes" if isinstance(value, bytes) else "a list" if isinstance(value, list | tuple) else "an object"
    raise Unfit(f"has {kind} for {placeholder.shown} within a text: write {placeholder.shown[:-2]} | {remedy}}}}}")


def _is_missing(value: Any) -> bool:
    # pandas has NaN for a missing value.
    return value is None or (isinstance(value, float | np.floating) and isnan(value))


def as_bytes(value: Any, name: str) -> bytes:
    """``value`` as bytes, for the filter ``name`` or another use. Raises `Unfit` for all but bytes and texts."""
    if type(value) is PassedUrl:
        raise Unfit(f"has a URL for {name}, which is not fetched: add its host to input.fetch_hosts")
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise Unfit("has half of a surrogate pair, which is no text") from None
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise Unfit(f"has {'no value' if value is None else type(value).__name__} for {name}, not bytes or a text")


def _data_url(value: Any) -> str:
    # The URL of an image takes the place of its data URL in all chat APIs.
    if type(value) is PassedUrl:
        return value
    kind = "text/plain;charset=utf-8" if isinstance(value, str) else None
    data = as_bytes(value, "the filter data_url")
    return f"data:{kind or media_type(data)};base64,{b64encode(data).decode()}"


def media_type(data: bytes) -> str:
    """The media type that the first bytes of a file show; ``application/octet-stream`` if they show none."""
    return next((name for signature, name in _SIGNATURES if signature.match(data)), "application/octet-stream")


def _text_objects(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise Unfit("has no list of texts for the filter text_objects")
    return [{"text": text} for text in value]


FILTERS: dict[str, Filter] = {
    "json": lambda value: value_to_json(value).decode(),
    "base64": lambda value: b64encode(as_bytes(value, "the filter base64")).decode(),
    "data_url": _data_url,
    "text_objects": _text_objects,
}


class Document:
    """A JSON value, serialized but for its texts with placeholders (``required``: see `Text`).

    Raises `ConfigError` for a document that JSON cannot express, or with a placeholder that cannot be read.
    """

    def __init__(self, value: Any, key: str, *, required: bool = False) -> None:
        self._required = required
        self.texts: list[Text] = []
        self.places: list[tuple[Any, ...]] = []
        """Names and positions that lead to each of the texts."""
        try:
            holey = self._with_holes(value, key, ())
            if holds_nonfinite(holey):
                raise ConfigError(f"{key} holds NaN or infinity, which JSON cannot express", key=key)
            self.constants = orjson.dumps(holey, option=DUMPS).split(_HOLE)
        except (orjson.JSONEncodeError, RecursionError) as error:
            raise ConfigError(f"{key} cannot be written as JSON: {error}", key=key) from None

    def filled(self, fill: Callable[[Text], bytes]) -> list[bytes]:
        """The parts of the serialized document, with ``fill`` of each text."""
        parts = [self.constants[0]]
        for text, constant in zip(self.texts, self.constants[1:], strict=True):
            parts.append(fill(text))
            parts.append(constant)
        return parts

    def _with_holes(self, value: Any, key: str, place: tuple[Any, ...]) -> Any:
        if isinstance(value, str):
            text = parse(value, key, required=self._required)
            if isinstance(text, str):
                return text
            self.texts.append(text)
            # Mocks find the values of a request again by these places.
            self.places.append(place)
            return orjson.Fragment(_HOLE)
        if isinstance(value, Mapping):
            for name in value:
                if isinstance(name, str) and "{{" in name:
                    raise ConfigError(f"{key} has a placeholder in the name {name!r}, which only values can", key=key)
            return {name: self._with_holes(inner, f"{key}.{name}", (*place, name)) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self._with_holes(inner, f"{key}[{i}]", (*place, i)) for i, inner in enumerate(value)]
        return value
