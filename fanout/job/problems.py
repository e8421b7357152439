"""Problems of a job in words: the file, the key, the fault, and the nearest valid name.

Pydantic's errors lose their inputs on the way, which may be secrets.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fanout.errors import ConfigError, InputError
from fanout.job.model import CodecTable, JobFile
from fanout.options import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from fanout._redact import Redactor
    from fanout.job.tables import Location

_TYPE_NAMES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list of strings",
    "tuple_type": "a list of strings",
    "dict_type": "a table",
    "mapping_type": "a table",
    "model_type": "a table",
    "dataclass_type": "a table",
}
_UNKNOWN = {"extra_forbidden", "unexpected_keyword_argument"}
_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}
_TOML_NAMES = {str: "a string", bool: "true or false", int: "a whole number", float: "a number", list: "a list"}
_ENDPOINT_KEYS = {"url", "headers"}


@contextmanager
def locate_errors(file: Path, source: str = "", redactor: Redactor | None = None) -> Iterator[None]:
    """Prefix the message of each `ConfigError` raised inside with the job file and the key, and redact its secrets.

    ``source`` names the input, for errors that concern the input as a whole.
    """
    try:
        yield
    except ConfigError as error:
        if redactor is not None:
            error.args = (redactor.lines(str(error)),)
        key = _job_key(error)
        text = without_key(str(error), error.key)
        place = f"input ({source})" if key == "input" and source else key
        # The type stays, because callers catch InputError and ReplayError.
        raise type(error)(": ".join(part for part in (str(file), place, text) if part), key=key) from error


def problems_of(error: ValidationError, data: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    """Yield the location and the description of each problem of ``data``; one for each location."""
    wanted: dict[Location, list[str]] = {}
    for detail in error.errors(include_url=False):
        at = _place(detail, data)
        if kind := _wanted_type(detail, at):
            wanted.setdefault(at, []).append(kind)
        else:
            yield _explained(detail, at)
    for at, kinds in wanted.items():  # pydantic reports a union once for each of its types
        value = _value(data, at)
        yield at, f"must be {' or '.join(dict.fromkeys(kinds))}, not {_TOML_NAMES.get(type(value), 'a table')}"


def without_key(message: str, key: str) -> str:
    """Return ``message`` without its subject, if that is the key, which the caller writes before it."""
    return message.removeprefix(f"{key} ") if key else message


def key_path(at: Location) -> str:
    """Return a location as TOML writes it: ``limits.concurrency``."""
    return ".".join(str(part) for part in at)


def _job_key(error: ConfigError) -> str:
    """Return the key of the job file for an error of the library, whose keys are the names of its arguments."""
    # Errors of inputs and outputs have the whole key already, and an option of the command line is no key of the file.
    if "." in error.key or error.key.startswith("--"):
        return error.key
    if error.key == "recording":  # an option of the command line, not a key
        return ""
    if isinstance(error, InputError):
        return "input"
    if error.key in ("auth", "cache"):
        return error.key
    # The client raises keys of its own arguments; all others are options of the codec.
    table = "endpoint" if error.key in _ENDPOINT_KEYS else "codec"
    return f"{table}.{error.key}" if error.key else ""


def _wanted_type(detail: ErrorDetails, at: Location) -> str | None:
    """Return the right type for a value of a wrong type; None if its type is right."""
    if detail["type"] == "literal_error" and len(detail["loc"]) > len(at):  # the text is an alternative to another type
        return str(detail["ctx"]["expected"]).replace("'", '"')
    return _TYPE_NAMES.get(detail["type"])


def _explained(detail: ErrorDetails, at: Location) -> tuple[Location, str]:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _UNKNOWN:
        return at, f"unknown key{_nearest(at)}"
    if kind in _MISSING:
        return at, "is missing"
    if kind == "literal_error":
        return at, f"must be {context['expected']}, not {detail['input']!r}".replace("'", '"')
    if kind == "greater_than_equal":
        return at, f"must be at least {context['ge']}, not {detail['input']}"
    # A settings class raised a ConfigError, which names its key and the remedy.
    cause = context.get("error")
    if isinstance(cause, ConfigError):
        place = (*at, cause.key) if cause.key else at
        return place, without_key(str(cause), cause.key)
    message = detail["msg"]
    return at, message[:1].lower() + message[1:]


def _place(detail: ErrorDetails, data: Any) -> Location:
    """Return the error's location without the names of union members that pydantic adds."""
    place: list[str | int] = []
    for part in detail["loc"]:
        if isinstance(data, dict) and (part in data or detail["type"] in _MISSING):
            data = data.get(part)
        # Names of union members are in the location as well, and are no places in the data.
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        else:
            continue
        place.append(part)
    return tuple(place)


def _value(data: Any, at: Location) -> Any:
    for part in at:
        data = data[part]
    return data


def _nearest(at: Location) -> str:
    *tables, key = map(str, at)
    names = _keys(_table(tables))
    if hint := did_you_mean(key, names, '; did you mean "{}"?'):
        return hint
    for table in JobFile.model_fields:  # the right key in a wrong table
        if table != "codec" and key in _keys(_table([table])):
            return f'; did you mean "{table}.{key}"?'
    return f"; known here are {', '.join(names)}" if names else ""


def _table(path: list[str]) -> Any:
    model: Any = JobFile
    for name in path:
        model = model.model_fields[name].annotation if _is_model(model) and name in model.model_fields else None
    return model


def _keys(model: Any) -> list[str]:
    if _is_model(model):
        return [field.alias or name for name, field in model.model_fields.items()]
    return [field.name for field in fields(model)] if is_dataclass(model) else []


def _is_model(model: Any) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel) and model is not CodecTable
