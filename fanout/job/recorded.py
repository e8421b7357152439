"""The exchanges of a recording that hold one row, for people: abbreviated around that row (``fanout show``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fanout.cassettes import CassetteReader
from fanout.errors import ConfigError
from fanout.job.exchange import Exchange, abbreviated, shown_body
from fanout.job.report import SCHEMA_VERSION
from fanout.rows import RowSet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout.cassettes import Interaction


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedExchange:
    """One exchange of a recording.

    Attributes:
        number: its place in the recording, from 1 on.
        rows: start and stop of each unbroken range of its rows.
        place: position of the row in question among them.
        n_rows: their number.
        at: seconds from the first exchange of the recording to this one.
    """

    number: int
    rows: tuple[tuple[int, int], ...]
    place: int
    n_rows: int
    at: float
    exchange: Exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRow:
    """All exchanges of a recording that hold one row, in their order.

    Attributes:
        total: exchanges of the recording.
    """

    recording: str
    row: int
    total: int
    exchanges: tuple[RecordedExchange, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the exchanges in the form of the JSON output."""
        exchanges = []
        for one in self.exchanges:
            known = {"number": one.number, "rows": one.rows, "place": one.place, "at": one.at}
            exchanges.append(known | one.exchange.as_dict())
        return {"schema_version": SCHEMA_VERSION, "recording": self.recording, "row": self.row, "exchanges": exchanges}


def recorded_row(recording: Path, row: int) -> RecordedRow:
    """Return the exchanges of a recording that hold the row of that number, counted from 0.

    Raises:
        InputError: the recording cannot be read, or is none.
        ConfigError: no exchange holds that row.
    """
    cassette = CassetteReader(recording)
    exchanges = tuple(_exchanges(cassette, row))
    if not exchanges:
        known = RowSet(bounds for one in cassette.interactions for bounds in one.rows)
        listed = f"the rows {known.listed()}" if known else "no rows"
        causes = "it may have been answered by the cache or with an equal row, or in another run"
        raise ConfigError(f"row {row} is in no exchange of {recording}, which holds {listed}; {causes}", key="row")
    total = len(cassette.interactions)
    return RecordedRow(recording=str(recording), row=row, total=total, exchanges=exchanges)


def _exchanges(cassette: CassetteReader, row: int) -> Iterator[RecordedExchange]:
    for number, one in enumerate(cassette.interactions, 1):
        if (place := one.place_of(row)) is not None:
            exchange = _exchange(cassette, one, place)
            yield RecordedExchange(
                number=number, rows=one.rows, place=place, n_rows=one.n_rows, at=one.at, exchange=exchange
            )


def _exchange(cassette: CassetteReader, one: Interaction, place: int) -> Exchange:
    shorten = partial(abbreviated, item=(place, one.n_rows))
    answered = one.status is not None
    return Exchange(
        method=one.method,
        url=one.path,
        headers={},
        body=shown_body(cassette.body(one.sent), {}, shorten),
        status=one.status,
        answer_headers=one.headers,
        answer=shown_body(cassette.body(one.got), one.headers, shorten) if answered else None,
        error=f"{one.error}: {one.text}" if one.error else "",
        seconds=one.seconds,
    )
