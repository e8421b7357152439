"""Options that several commands share, types of options that click lacks, and help that is costly to make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    SliceType = click.ParamType[slice]  # generic in the newest versions of click only
    CountsType = click.ParamType[tuple[int, ...]]
    AgeType = click.ParamType[float]
else:
    SliceType = CountsType = AgeType = click.ParamType

JOB = click.argument("job", metavar="JOB.toml", type=click.Path())
SET = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the job file, for instance limits.concurrency=8. May be given several times.",
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout at the end, and nothing else there."
)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def leave(code: int) -> None:
    """End the current command with an exit code."""
    click.get_current_context().exit(code)


class RowRange(SliceType):
    """``START:STOP`` as a slice, as in Python: either may be left out or negative."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> slice:
        # click passes a default through the same conversion, where it may be no text.
        parts = str(value).split(":")
        try:
            start, stop = (int(part) if part.strip() else None for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not START:STOP, for instance 0:100, :100 or -100:", param, ctx)
        return slice(start, stop)


class Counts(CountsType):
    """``N,N,...`` as a tuple of whole numbers from 1 on."""

    name = "counts"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            counts = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            counts = ()
        if not counts or min(counts) < 1:
            self.fail(f"{value!r} is not a list of whole numbers from 1 on, for instance 8,16,32", param, ctx)
        return counts


class Age(AgeType):
    """A time such as ``30d``, ``12h``, ``90m`` or ``45s`` in seconds; a number without a unit is in seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        unit = _SECONDS.get(text[-1:])
        try:
            seconds = float(text) if unit is None else float(text[:-1]) * unit
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < float("inf"):
            self.fail(f"{value!r} is not a time, for instance 30d, 12h or 90m", param, ctx)
        return seconds


class CommandWithFaults(click.Command):
    """A command whose help ends with the names of the faults."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Imported here, because other commands do not need the servers.
        from fanout.faults.names import FAULTS

        with formatter.section("Faults (NAME=PROBABILITY; NAME:VALUE=PROBABILITY sets the capital word)"):
            formatter.write_dl(list(FAULTS.items()))
