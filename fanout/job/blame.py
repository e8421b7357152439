"""Which key of the job file an error is about, when it shows only as the job runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from fanout.errors import ConfigError, InputError
from fanout.job.problems import without_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fanout._redact import Redactor

_ENDPOINT_KEYS = {"url", "headers"}


@contextmanager
def blaming(file: Path, source: str = "", redactor: Redactor | None = None) -> Iterator[None]:
    """Put the job file and the key in front of the message of any `ConfigError` raised inside, and hide its secrets.

    Where all that is known is that the input is at fault, ``source`` tells which that is.
    """
    try:
        yield
    except ConfigError as error:
        if redactor is not None:
            error.args = (redactor.lines(str(error)),)
        key = _key_path(error)
        text = without_key(str(error), error.key)
        place = f"input ({source})" if key == "input" and source else key
        raise type(error)(": ".join(part for part in (str(file), place, text) if part), key=key) from error


def _key_path(error: ConfigError) -> str:
    if "." in error.key:
        return error.key
    if error.key == "recording":  # an option of the command line named it
        return ""
    if isinstance(error, InputError):
        return "input"
    table = "endpoint" if error.key in _ENDPOINT_KEYS else "codec"
    return f"{table}.{error.key}" if error.key else ""
