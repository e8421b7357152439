"""The file of a recording: lines of JSON, and bodies as they are, each of them once.

::

    {"fanout recording":1}
    {"body":"0f3c...","bytes":196608,"stored":196608,"zlib":false}
    <196608 bytes>
    {"key":"9a...","method":"POST","path":"/v2/models/m/infer","sent":"0f3c...","status":200,"headers":{...},
     "got":"77...","at":0.01,"seconds":0.25}                                              (on one line)

Bodies are most of a recording. Numbers hardly shrink and are wanted as fast as the disk gives them, so a body is
compressed only where that halves it. What is written is appended, so a kill costs the record that it falls into.
"""

from __future__ import annotations

import mmap
import zlib
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from fanout.errors import ConfigError
from fanout.settings import masked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from fanout.types import Buffer

HEAD = b'{"fanout recording":1}\n'
_DIGEST = 16
_SAMPLE = 2**14


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """One exchange: what was asked, and what came of it. Bodies are told by their digests."""

    key: str
    method: str
    path: str
    """With the query, whose values are masked. The host is not part of it: an answer is good for any."""

    sent: str
    status: int | None = None
    """None where no whole answer came; ``error`` and ``text`` tell why."""

    headers: Mapping[str, str] = field(default_factory=dict)
    got: str = ""
    error: str = ""
    text: str = ""
    at: float = 0.0
    """Seconds from the first request to this one."""

    seconds: float = 0.0
    """How long the exchange took."""


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    stored: int
    zlib: bool


def digest(parts: Iterable[Buffer]) -> str:
    """Of a body, whatever buffers it is in."""
    made = blake2b(digest_size=_DIGEST)
    for part in parts:
        made.update(part)
    return made.hexdigest()


def path_of(url: str) -> str:
    """What of a URL tells one request from another."""
    parts = urlsplit(masked(url))
    return parts._replace(scheme="", netloc="").geturl() or "/"


def key_of(method: str, path: str, sent: str) -> str:
    """By this an answer is found again."""
    return digest([f"{method}\0{path}\0{sent}".encode()])


class Pages:
    """A recording's file, being read. Raises `ConfigError` where it is none, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.interactions: list[Interaction] = []
        self._places: dict[str, _Place] = {}
        try:
            with path.open("rb") as file:
                self._data: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            self._data = b""
        except OSError as error:
            raise ConfigError(f"the recording {path} cannot be read: {error.strerror or error}") from None
        if self._data[: len(HEAD)] != HEAD:
            raise ConfigError(f"{path} is no recording of this version of fanout")
        for line in self._lines():
            if "key" in line:
                self.interactions.append(Interaction(**line))

    def body(self, name: str) -> bytes:
        """A body by its digest."""
        place = self._places.get(name)
        if place is not None:
            raw = self._data[place.start : place.start + place.stored]
            try:
                body = zlib.decompress(raw) if place.zlib else raw
            except zlib.error:
                body = b""
            if digest([body]) == name:
                return body
        raise ConfigError(f"the recording {self.path} is damaged: body {name} is not what was recorded")

    def _lines(self) -> Iterator[dict[str, Any]]:
        at, size = len(HEAD), len(self._data)
        while (end := self._data.find(b"\n", at)) >= 0:
            try:
                line: dict[str, Any] = orjson.loads(self._data[at:end])
                if "body" in line:
                    self._places[line["body"]] = _Place(end + 1, line["stored"], line["zlib"])
                    end += line["stored"] + 1
                    if end >= size:
                        return  # its writer was killed
                yield line
            except (ValueError, KeyError, TypeError):
                raise ConfigError(f"the recording {self.path} is damaged at byte {at:,}") from None
            at = end + 1


class Writer:
    """A recording's file, being written. Raises `ConfigError` where it is there already, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: set[str] = set()
        if path.exists():
            raise ConfigError(f"the recording {path} is there already: remove it, or give another name")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb", buffering=0)
        except OSError as error:
            raise self._refusal(error) from None
        self._write(HEAD)

    def add(self, interaction: Interaction, bodies: Mapping[str, bytes]) -> None:
        """Append an exchange, with those of its bodies that are not there yet."""
        new = {name: body for name, body in bodies.items() if name not in self._written}
        frames = [_framed(name, body) for name, body in new.items()]
        told = {name: value for name, value in asdict(interaction).items() if value not in (None, "", {})}
        self._write(b"".join([*frames, orjson.dumps(told), b"\n"]))
        self._written.update(new)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise self._refusal(error) from None

    def _refusal(self, error: OSError) -> ConfigError:
        return ConfigError(f"the recording {self.path} cannot be written: {error.strerror or error}")


def _framed(name: str, body: bytes) -> bytes:
    stored = body
    if len(zlib.compress(body[:_SAMPLE], 1)) * 2 <= len(body[:_SAMPLE]):
        stored = zlib.compress(body, 1)
    head = {"body": name, "bytes": len(body), "stored": len(stored), "zlib": stored is not body}
    return b"".join([orjson.dumps(head), b"\n", stored, b"\n"])
