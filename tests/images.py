"""Small PNG files, and a vision model that reads the number which is the colour of their only pixel."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from pathlib import Path

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(number: int) -> bytes:
    """A PNG file of one pixel, whose red and green are ``number``."""
    red, green = divmod(number, 256)
    parts = {b"IHDR": struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(bytes([0, red, green, 7]))}
    parts[b"IEND"] = b""
    chunks = (struct.pack(">I", len(data)) + kind + data + _crc(kind + data) for kind, data in parts.items())
    return _SIGNATURE + b"".join(chunks)


def number_in(image: bytes) -> int:
    """The number in a file of `png`. Raises `ValueError` for any other file."""
    if not image.startswith(_SIGNATURE):
        raise ValueError("no PNG file")
    at = image.index(b"IDAT")
    (size,) = struct.unpack(">I", image[at - 4 : at])
    if _crc(image[at : at + 4 + size]) != image[at + 4 + size : at + 8 + size]:
        raise ValueError("damaged")
    pixel = zlib.decompress(image[at + 4 : at + 4 + size])
    return pixel[1] * 256 + pixel[2]


def write_photos(folder: Path, n: int) -> None:
    """Write ``n`` PNG files, ``photo-0.png`` and so on."""
    folder.mkdir()
    for i in range(n):
        (folder / f"photo-{i}.png").write_bytes(png(i))


class Vision:
    """Reads the images in chat requests, raw bodies and forms; ``passed`` are the URLs that it got instead."""

    def __init__(self) -> None:
        self.requests = 0
        self.passed: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        kind = request.content_type
        if kind == "application/json":
            url = (await request.json())["messages"][0]["content"][1]["image_url"]["url"]
            if not url.startswith("data:image/png;base64,"):
                self.passed.append(url)
                return _answer(-1)
            return _answer(number_in(b64decode(url.partition(",")[2], validate=True)))
        if kind == "multipart/form-data":
            form = await request.post()
            image, label = form["image"], form["label"]
            assert isinstance(image, web.FileField)
            assert image.content_type == "image/png"
            assert image.filename == label
            return _answer(number_in(image.file.read()))
        assert kind == "image/png"
        return _answer(number_in(await request.read()))


def _answer(number: int) -> web.Response:
    return web.json_response({"choices": [{"message": {"content": str(number)}}]})


def _crc(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))
