"""Types of options that click does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    Base = click.ParamType[slice]  # generic in the newest versions of click alone
else:
    Base = click.ParamType


class RowRange(Base):
    """``START:STOP`` as a slice, with Python's meaning: either may be left out or negative."""

    name = "range"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> slice:
        """The slice. Fails for what is none."""
        parts = str(value).split(":")
        try:
            start, stop = (int(part) if part.strip() else None for part in parts)
        except ValueError:
            self.fail(f"{value!r} is not START:STOP, for instance 0:100, :100 or -100:", param, ctx)
        return slice(start, stop)
