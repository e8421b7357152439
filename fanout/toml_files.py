"""Read TOML files that people write: job files and presets."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any

from fanout.errors import ConfigError
from fanout.options import nearest

if TYPE_CHECKING:
    from pathlib import Path


def read_toml(file: Path, kind: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises `ConfigError` that names the file, and the line at fault or a file with a similar name. ``kind`` is the noun
    for a missing file: "job file".
    """
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no {kind} {file}{_nearest(file)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not a text file in UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"^(.*) \(at (?:line (\d+), column \d+|end of document)\)$", str(error), re.DOTALL)
        reason, line = place.groups() if place else (str(error), None)
        raise ConfigError(f"{file}: {f'line {line}' if line else 'last line'}: not valid TOML: {reason}") from None


def _nearest(file: Path) -> str:
    near = nearest(file.name, [path.name for path in file.absolute().parent.glob("*.toml")])
    return f'; did you mean "{file.with_name(near)}"?' if near else ""
