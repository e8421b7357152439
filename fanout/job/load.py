"""Loading: from the text of a job file to a `Job`, or to an error that lists all of its problems."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fanout._redact import Redactor, secrets_of
from fanout.codecs import Json, OpenAIChat
from fanout.codecs import codec as codec_by_name
from fanout.errors import ConfigError
from fanout.io.remote import is_web, url_of
from fanout.job.auth import make_auth
from fanout.job.custom_codec import custom_codec, custom_function, is_custom
from fanout.job.edit import override
from fanout.job.model import Job, JobFile, Outline, beside, output_path
from fanout.job.preset import with_preset
from fanout.job.problems import key_path, problems_of, without_key
from fanout.job.variables import Substitution, is_secret
from fanout.toml_files import read_toml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fanout.codecs.base import Codec
    from fanout.job.variables import Location

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
    own, tables = tables, with_preset(tables, file, problems)
    model = _validate(tables, problems)
    # The codec checks its own options, so both lists of problems are reported together.
    is_skipped = not imports_code and (is_custom(_codec_name(tables)) or _names_function(tables))
    codec = None if is_skipped else _make_codec(tables, problems, file.parent)
    auth = make_auth(tables, problems, file)
    redactor = _redactor(tables, substitution, file)
    if model is None or (codec is None and not is_skipped) or problems:
        place_of = partial(_origin, file=file, overridden=overridden, own=own, tables=tables)
        lines = (
            f"{place_of(at)}{key_path(at)}: {redactor.text(substitution.redact(text, at))}"
            for at, text in problems.items()
        )
        text, key = "\n".join(lines), key_path(next(iter(problems)))
        # fanout status works without the credentials of the job.
        if substitution.unset and all(map(is_secret, problems)):
            path = output_path(file, tables["output"]["path"])
            reason = "variables of the job are not set"
            return Outline(
                file=file, output_path=path, redactor=redactor, missing=text, key=key, not_compared=reason, tables=model
            )
        raise ConfigError(text, key=key)
    for one, _ in model.endpoint.each():
        redactor.add(secrets_of(one.url, one.headers))
    # Literal credentials in the file are as secret as those from variables.
    for url in (model.endpoint.proxy, model.limits.shared):
        redactor.add(secrets_of(url or "", {}))
    redactor.add([*model.storage.secrets, *secrets_of("", model.storage.https)])
    redactor.add(secrets_of(url, {}) if (url := url_of(model.input.path)) is not None and is_web(url) else ())
    if auth is not None:
        redactor.add(auth.secrets)
    if codec is None:
        path, reason = output_path(file, model.output.path), "the job's codec is code, which this command does not run"
        missing = f"{file}: codec.name: {reason}"
        return Outline(
            file=file, output_path=path, redactor=redactor, missing=missing, key="codec.name", not_compared=reason,
            tables=model,
        )  # fmt: skip
    return Job(file=file, tables=model, codec=codec, auth=auth, redactor=redactor)


def _redactor(tables: Mapping[str, Any], substitution: Substitution, file: Path) -> Redactor:
    """Return the redactor of the substituted secrets. Paths of input and output are shown even if they contain one."""
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
