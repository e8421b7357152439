"""Loading: from the text of a job file to a `Job`, or to an error that lists all of its problems.

The order is: overrides, variables, the preset's defaults, the check of all tables, then the codec and the credentials.
"""

from __future__ import annotations

import json
import os
from dataclasses import is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from fanout._redact import Redactor, secrets_of
from fanout.auth import DEFAULT_TYPE, CommandAuth, auth_class
from fanout.codecs import Json, OpenAIChat
from fanout.codecs import codec as codec_by_name
from fanout.errors import ConfigError
from fanout.files import read_toml
from fanout.io.remote.file import is_web, url_of
from fanout.job.custom_codec import custom_codec, custom_function, is_custom
from fanout.job.edit import override
from fanout.job.model import Job, JobFile, Outline, beside, output_path
from fanout.job.problems import key_path, problems_of, without_key
from fanout.job.tables import Substitution, is_secret, with_preset
from fanout.options import option_names, require_known

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fanout.auth import Auth
    from fanout.codecs.base import Codec
    from fanout.job.tables import Location

_TYPED = (Json.name, OpenAIChat.name)
"""Codecs with typed answers."""


def load_job(file: str | Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Job:
    """Read and check a job file. A codec of the user's own is imported, which runs its module.

    Args:
        file: path of the TOML file.
        settings: overrides, ``KEY.PATH=VALUE`` each.
        environment: values of ``${NAME}``; the process's environment if not given.

    Raises:
        ConfigError: with one line for each problem: file, key, fault, and the nearest valid name. It shows neither
            values from the environment nor header values.
    """
    job = _load(Path(file), settings, environment, imports_code=True)
    if isinstance(job, Outline):
        raise ConfigError(job.missing, key=job.key)
    return job


def load_job_or_outline(
    file: str | Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Job | Outline:
    """Load a job without running code of the user's own.

    The `Outline` is returned if the codec is such code, or if the only problem is that variables in the secret tables
    are not set. Raises `ConfigError` as `load_job` does.
    """
    return _load(Path(file), settings, environment, imports_code=False)


def _load(
    file: Path, settings: Sequence[str], environment: Mapping[str, str] | None, *, imports_code: bool
) -> Job | Outline:
    tables = read_toml(file, "job file")
    overridden = {override(tables, setting) for setting in settings}
    substitution = Substitution(os.environ if environment is None else environment)
    tables = substitution.apply(tables)
    problems = dict(substitution.problems)
    # After the variables: a preset's own texts are no place for a reference to the environment.
    own, tables = tables, with_preset(tables, file, problems)
    model = _validate(tables, problems)
    # The codec checks its own options, so both lists of problems are reported together.
    is_skipped = not imports_code and (is_custom(_codec_name(tables)) or _names_function(tables))
    codec = None if is_skipped else _make_codec(tables, problems, file.parent)
    auth = make_auth(tables, problems, file)
    redactor = _redactor(tables, substitution, file)
    # All problems of a file are reported together, so that a user corrects it in one go.
    if model is None or (codec is None and not is_skipped) or problems:
        place_of = partial(_origin, file=file, overridden=overridden, own=own, tables=tables)
        lines = (
            f"{place_of(at)}{key_path(at)}: {redactor.text(substitution.redact(text, at))}"
            for at, text in problems.items()
        )
        text, key = "\n".join(lines), key_path(next(iter(problems)))
        # fanout status works without the credentials of the job.
        if not (substitution.unset and all(map(is_secret, problems))):
            raise ConfigError(text, key=key)
        path, reason = tables["output"]["path"], "variables of the job are not set"
    else:
        _add_secrets(redactor, model, auth)
        if codec is not None:
            return Job(file=file, tables=model, codec=codec, auth=auth, redactor=redactor)
        path, key, reason = model.output.path, "codec.name", "the job's codec is code, which this command does not run"
        text = f"{file}: {key}: {reason}"
    return Outline(
        file=file, output_path=output_path(file, path), redactor=redactor, missing=text, key=key, not_compared=reason,
        tables=model,
    )  # fmt: skip


def _add_secrets(redactor: Redactor, tables: JobFile, auth: Auth | None) -> None:
    """Let the redactor know the literal credentials in a job file, which are as secret as those from variables."""
    for one, _ in tables.endpoint.each():
        redactor.add(secrets_of(one.url, one.headers))
    for url in (tables.endpoint.proxy, tables.limits.shared):
        redactor.add(secrets_of(url or "", {}))
    redactor.add([*tables.storage.secrets, *secrets_of("", tables.storage.https)])
    redactor.add(secrets_of(url, {}) if (url := url_of(tables.input.path)) is not None and is_web(url) else ())
    if auth is not None:
        redactor.add(auth.secrets)


def _redactor(tables: Mapping[str, Any], substitution: Substitution, file: Path) -> Redactor:
    """Return the redactor of the substituted secrets. Paths of input and output are shown even if they contain one."""
    # A token that happens to be a part of a path, such as "data", would make the names of files unreadable.
    exempt = [str(file), *(text for table in ("input", "output") for text in _paths(tables.get(table), file))]
    return Redactor(substitution.secrets, prefixes=substitution.prefixes, exempt=exempt)


def _paths(table: object, file: Path) -> list[str]:
    path = table.get("path") if isinstance(table, dict) else None
    if not isinstance(path, str) or not path:
        return []
    if "://" in path:
        return [] if is_web(path) else [path]
    whole = beside(file, path)
    # The names of files beside an output begin with its name, with or without the suffix.
    every = (Path(path), whole, whole.absolute())
    return [path, *map(str, every), *(f"{one.with_suffix('')}." for one in every if one.name)]


def _validate(tables: dict[str, Any], problems: dict[Location, str]) -> JobFile | None:
    try:
        # Pydantic is strict with dataclasses in JSON only. Strict means that "8" and true are not numbers.
        return JobFile.model_validate_json(json.dumps(tables, default=str), strict=True)
    except ValidationError as error:
        for at, text in problems_of(error, tables):
            problems.setdefault(at, text)
        return None


def _codec_name(tables: dict[str, Any]) -> Any:
    table = tables.get("codec")
    return table.get("name") if isinstance(table, dict) else None


def _make_codec(tables: dict[str, Any], problems: dict[Location, str], folder: Path) -> Codec | None:
    if not isinstance(name := _codec_name(tables), str):
        return None  # _validate reports it
    options = {key: value for key, value in tables["codec"].items() if key not in ("name", "preset")}
    try:
        if is_custom(name):
            return custom_codec(name, options, folder)
        return codec_by_name(name, **_resolved(options, folder) if name in _TYPED else options)
    except ConfigError as error:
        at = ("codec", error.key or "name")
        problems.setdefault(at, without_key(str(error), error.key))
        return None


def _names_function(tables: dict[str, Any]) -> bool:
    return _codec_name(tables) in _TYPED and "validate" in tables["codec"]


def _resolved(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The options of typed answers, with the file of the schema beside the job file, and the function imported."""
    resolved = dict(options)
    if isinstance(schema := options.get("schema"), str):
        resolved["schema"] = str(folder / Path(schema).expanduser())
    if isinstance(function := options.get("validate"), str):
        resolved["validate"] = custom_function(function, folder, "validate")
    return resolved


def _origin(
    at: Location, file: Path, overridden: set[Location], own: Mapping[str, Any], tables: Mapping[str, Any]
) -> str:
    """Return the place of a value at fault: the command line, the job file, or the preset that the job file names."""
    if any(at[: len(place)] == place for place in overridden):
        return "--set "
    from_preset = _has(own, ("codec", "preset")) and not _has(own, at) and _has(tables, at)
    return f"{file}: preset {own['codec']['preset']!r}: " if from_preset else f"{file}: "


def _has(tables: Any, at: Location) -> bool:
    for key in at:
        if not isinstance(tables, dict) or key not in tables:
            return False
        tables = tables[key]
    return True


# Each reads the source of its class for the docstrings.
_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def make_auth(tables: Mapping[str, Any], problems: dict[Location, str], file: Path) -> Auth | None:
    """Make the `Auth` of a job's tables; None without an ``[auth]`` table, with an empty one, or with problems."""
    table = tables.get("auth")
    if not table or not isinstance(table, dict) or not isinstance(table.get("type", ""), str):
        return None  # the model of the whole file reports a wrong type
    options = dict(table)
    try:
        auth = _auth_of_type(options.pop("type", DEFAULT_TYPE), options)
        # As all paths in a job file, that of the folder begins in the folder of the job file.
        return replace(auth, cwd=str(beside(file, auth.cwd or "."))) if isinstance(auth, CommandAuth) else auth
    except ConfigError as error:
        at = ("auth", error.key) if error.key else ("auth",)
        problems.setdefault(at, without_key(str(error), error.key))
    except ValidationError as error:
        for place, text in problems_of(error, options):
            problems.setdefault(("auth", *place), text)
    return None


def _auth_of_type(name: str, options: dict[str, Any]) -> Auth:
    kind: Any = auth_class(name)
    if (known := option_names(kind)) is not None:
        require_known(f"auth of type {name!r}", options, known)
    if not is_dataclass(kind):  # of another package, which checks its options itself
        auth: Auth = kind(**options)
        return auth
    # As for all tables, strict in JSON: "8" and true are not numbers.
    validated: Auth = _adapter(auth_class(name)).validate_json(json.dumps(options, default=str), strict=True)
    return validated
