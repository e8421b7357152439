"""The file of a cassette: lines of JSON, and bodies as they are, each of them once.

::

    {"fanout cassette":3}
    1c291ca3 {"body":"0f3c...","bytes":196608,"stored":196608,"coding":""}
    <196608 bytes>
    5f0e8d21 {"key":"9a...","method":"POST","path":"/v2/models/m/infer","sent":"0f3c...","status":200,
     "headers":{...},"got":"77...","at":0.01,"seconds":0.25}                              (on one line)

Every line begins with its checksum (CRC-32). Bodies are most of a cassette. Numbers hardly shrink, and are to be read
as fast as the disk allows, so a body is compressed only if that halves it. A text with control characters is written in
base64: else they would reach the terminal of a user who opens the file. Records are appended, so a kill costs the
record in hand.
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from base64 import b64decode, b64encode
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import orjson

from fanout._escape import holds_control_characters, safe_json
from fanout._url import redact_url
from fanout.errors import ConfigError, InputError
from fanout.files import PRIVATE, open_at_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from fanout.types import Buffer

HEAD = b'{"fanout cassette":3}\n'
# The key of errors about a cassette.
KEY = "recording"

_DIGEST = 16
_SAMPLE = 2**14
_LINE = re.compile(rb"([0-9a-f]{8}) (\{.*\})", re.DOTALL)

_Coding: TypeAlias = Literal["", "zlib", "base64"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One exchange: the request, and the response or the error. Digests stand for bodies."""

    key: str
    method: str
    path: str
    """With the query, whose values are redacted. The host is no part of it: a response serves any host."""

    sent: str
    status: int | None = None
    """None if no whole response came; ``error`` and ``text`` give the reason."""

    headers: Mapping[str, str] = field(default_factory=dict)
    got: str = ""
    error: str = ""
    text: str = ""
    at: float = 0.0
    """Seconds from the first request to this one."""

    seconds: float = 0.0
    """The duration of the exchange."""

    rows: tuple[tuple[int, int], ...] = ()
    """Start and stop of each unbroken range of the rows in the request, by their numbers in the input of the run."""

    def place_of(self, row: int) -> int | None:
        """Return the position of a row among those of the request; None if it is not one of them."""
        before = 0
        for start, stop in self.rows:
            if start <= row < stop:
                return before + row - start
            before += stop - start
        return None

    @property
    def n_rows(self) -> int:
        """Number of rows in the request."""
        return sum(stop - start for start, stop in self.rows)


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    stored: int
    coding: _Coding
    size: int
    """Bytes of the body once it is decoded."""


def digest(parts: Iterable[Buffer]) -> str:
    """The digest of a body in any number of buffers."""
    digest = blake2b(digest_size=_DIGEST)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def path_of(url: str) -> str:
    """The part of a URL that distinguishes one request from another."""
    # The host is left out, so that a cassette of one server replays for another.
    parts = urlsplit(redact_url(url))
    return parts._replace(scheme="", netloc="").geturl() or "/"


def key_of(method: str, path: str, sent: str) -> str:
    """The key by which the replayer looks a response up."""
    return digest([f"{method}\0{path}\0{sent}".encode()])


class CassetteReader:
    """Reads a cassette. Raises `InputError` for a file that is none, or is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.interactions: list[Interaction] = []
        self._places: dict[str, _Place] = {}
        try:
            with open_at_once(path) as file:
                # Mapped, because a cassette may be larger than the memory, and its bodies are read one by one.
                self._data: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            self._data = b""
        except OSError as error:
            raise InputError(f"the cassette {path} cannot be read: {error.strerror or error}", key=KEY) from None
        if self._data[: len(HEAD)] != HEAD:
            raise InputError(f"{path} is no cassette of this version of fanout", key=KEY)
        self.interactions += self._read()

    def body(self, name: str) -> bytes:
        """A body by its digest."""
        place = self._places.get(name)
        if place is not None:
            raw = self._data[place.start : place.start + place.stored]
            try:
                # A few bytes could unpack to more than the memory holds, so that the stated size is the bound.
                body = zlib.decompressobj().decompress(raw, place.size + 1) if place.coding == "zlib" else raw
                body = b64decode(body, validate=True) if place.coding == "base64" else body
            except (zlib.error, ValueError):
                body = b""
            # The checksums of lines do not cover bodies, but the name of a body does.
            if digest([body]) == name:
                return body
        raise InputError(f"the cassette {self.path} is damaged: body {name} is not what was recorded", key=KEY)

    def _read(self) -> Iterator[Interaction]:
        at, size = len(HEAD), len(self._data)
        while (end := self._data.find(b"\n", at)) >= 0:
            try:
                line = _checked(self._data[at:end])
                if "body" in line:
                    stored, decoded = line["stored"], line["bytes"]
                    # A negative length would lead back to this line, again and again.
                    if not (type(stored) is type(decoded) is int and min(stored, decoded) >= 0):
                        raise ValueError
                    self._places[line["body"]] = _Place(end + 1, stored, line["coding"], decoded)
                    # Bodies are passed over here: most replays read few of them.
                    end += stored + 1
                    if end >= size:
                        return  # its writer was killed
                    if self._data[end] != ord("\n"):
                        raise ValueError
                else:
                    yield Interaction(**{**line, "rows": tuple(map(tuple, line.get("rows", ())))})
            except (ValueError, KeyError, TypeError):
                raise InputError(f"the cassette {self.path} is damaged at byte {at:,}", key=KEY) from None
            at = end + 1


class CassetteWriter:
    """Writes a new cassette. Raises `ConfigError` if the file exists, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: set[str] = set()
        if path.exists():
            raise ConfigError(f"the cassette {path} already exists: remove it, or give another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE), "wb", 0)
        except OSError as error:
            raise self._refusal(error) from None
        self._write(HEAD)

    def add(self, interaction: Interaction, bodies: Mapping[str, bytes]) -> None:
        """Append an exchange, with those of its bodies that are not there yet."""
        # Attempts of one chunk send the same body, and many responses are alike.
        new = {name: body for name, body in bodies.items() if name not in self._written}
        frames = [_framed(name, body) for name, body in new.items()]
        fields = {name: value for name, value in asdict(interaction).items() if value not in (None, "", {}, ())}
        # One write, and the bodies first: a kill leaves no exchange whose bodies are missing.
        self._write(b"".join([*frames, _line(fields)]))
        self._written.update(new)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            # An unbuffered file may take a part of the data at a time.
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: OSError) -> ConfigError:
        return ConfigError(f"the cassette {self.path} cannot be written: {error.strerror or error}")


def _framed(name: str, body: bytes) -> bytes:
    stored, coding = body, ""
    # A sample decides, because compressing floats costs time and gains nothing.
    if len(zlib.compress(body[:_SAMPLE], 1)) * 2 <= len(body[:_SAMPLE]):
        stored, coding = zlib.compress(body, 1), "zlib"
    elif holds_control_characters(body):
        stored, coding = b64encode(body), "base64"
    head = {"body": name, "bytes": len(body), "stored": len(stored), "coding": coding}
    return b"".join([_line(head), stored, b"\n"])


def _line(fields: Mapping[str, Any]) -> bytes:
    data = safe_json(fields)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _checked(line: bytes) -> dict[str, Any]:
    match = _LINE.fullmatch(line)
    if match is None or int(match[1], 16) != zlib.crc32(match[2]):
        raise ValueError
    fields: dict[str, Any] = orjson.loads(match[2])
    return fields
