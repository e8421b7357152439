"""Rows from a text file: each line is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout.errors import InputError
from fanout.io.readers.base import Source
from fanout.io.readers.origins import File, line_blocks, lines_about, not_utf8
from fanout.types import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fanout.io.readers.origins import Origin


class TextSource(Source):
    r"""The lines of texts without their ends, which are ``\n`` or ``\r\n``.

    An empty line is a row like any other, so that row i is line i + 1 of the (first) text.

    Raises:
        InputError: a ``column`` or ``id``, which lines do not have; as it is read, a line that is not UTF-8.
    """

    def __init__(
        self,
        origins: Sequence[Origin],
        column: str | Sequence[str] | None = None,
        id: str | None = None,  # noqa: A002
    ) -> None:
        for key, value in (("column", column), ("id", id)):
            if value is not None:
                told = f"{origins[0].name} is read as lines of text, which have no names: leave {key} out"
                raise InputError(told, key=f"input.{key}")
        self._origins = origins
        self.repeatable = all(origin.repeatable for origin in origins)
        self.files = tuple(origin.path for origin in origins if isinstance(origin, File))

    def blocks(self) -> Iterator[Block]:
        """See `Source.blocks`."""
        for origin in self._origins:
            with origin.opened() as file:
                for number, lines in line_blocks(file):
                    yield Block(_texts(lines, number, origin.name))

    def rows_about(self) -> int | None:
        """See `Source.rows_about`."""
        return lines_about(self._origins)

    def fingerprint(self) -> dict[str, Any] | None:
        """See `Source.fingerprint`."""
        files = [origin.fingerprint() for origin in self._origins]
        return None if None in files else {"format": "txt", "files": files}


def _texts(lines: list[bytes], number: int, name: str) -> list[str]:
    texts = []
    for i, line in enumerate(lines, number):
        try:
            texts.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise not_utf8(name, i) from None
    return texts
