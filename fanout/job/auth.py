"""The table ``[auth]`` of a job file: from its keys to an `Auth`, and its JSON Schema."""

from __future__ import annotations

import json
from dataclasses import is_dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from fanout.auth import DEFAULT_TYPE, CommandAuth, auth_class
from fanout.errors import ConfigError
from fanout.job.model import beside
from fanout.job.problems import problems_of, without_key
from fanout.options import option_names, require_known

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fanout.auth import Auth
    from fanout.job.variables import Location


def make_auth(tables: Mapping[str, Any], problems: dict[Location, str], file: Path) -> Auth | None:
    """Make the `Auth` of a job's tables; None without an ``[auth]`` table, with an empty one, or with problems."""
    table = tables.get("auth")
    if not table or not isinstance(table, dict) or not isinstance(table.get("type", ""), str):
        return None  # the model of the whole file reports a wrong type
    options = dict(table)
    try:
        auth = _made(options.pop("type", DEFAULT_TYPE), options)
        # As all paths in a job file, that of the folder begins in the folder of the job file.
        return replace(auth, cwd=str(beside(file, auth.cwd or "."))) if isinstance(auth, CommandAuth) else auth
    except ConfigError as error:
        at = ("auth", error.key) if error.key else ("auth",)
        problems.setdefault(at, without_key(str(error), error.key))
    except ValidationError as error:
        for place, text in problems_of(error, options):
            problems.setdefault(("auth", *place), text)
    return None


def _made(name: str, options: dict[str, Any]) -> Auth:
    kind: Any = auth_class(name)
    if (known := option_names(kind)) is not None:
        require_known(f"auth of type {name!r}", options, known)
    if not is_dataclass(kind):  # of another package, which checks its options itself
        auth: Auth = kind(**options)
        return auth
    # As for all tables, strict in JSON: "8" and true are not numbers.
    validated: Auth = TypeAdapter(kind).validate_json(json.dumps(options, default=str), strict=True)
    return validated
