"""Presets in a job file: ``[codec] preset`` gives defaults for the job's tables."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fanout._url import with_path
from fanout.errors import ConfigError
from fanout.presets import DEFAULT_CODEC, TABLES, load_preset, merged, require_options, with_headers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fanout.job.variables import Location

# Each describes the body of a request of the default codec.
_BODIES = {"request", "raw", "form"}


def with_preset(tables: Mapping[str, Any], file: Path, problems: dict[Location, str]) -> dict[str, Any]:
    """Return the tables of a job file with the defaults of its preset. Adds its faults to ``problems``.

    With an invalid preset the table ``codec`` has its default only. A body without a name is one of the codec json.
    """
    codec = tables.get("codec")
    if not isinstance(codec, dict):
        return dict(tables)
    if "preset" not in codec:
        return {**tables, "codec": {"name": DEFAULT_CODEC, **codec}} if _BODIES & codec.keys() else dict(tables)
    name, invalid = codec["preset"], {**tables, "codec": {"name": DEFAULT_CODEC}}
    try:
        if not isinstance(name, str) or not name:
            raise ConfigError("must be the name of a preset, or the path of a file", key="preset")
        preset = load_preset(name, file.parent)
        options = {key: value for key, value in codec.items() if key != "preset"}
        # All parameters are checked before one is reported, as for the other tables.
        wrong = dict(preset.problems(options))
        for key, text in wrong.items():
            problems.setdefault(("codec", key), f"{text} (preset {name!r})" if key not in options else text)
        if wrong:
            return invalid
        path, defaults = preset.fill(options)
        require_options(preset, defaults["codec"], options)
    except ConfigError as error:
        problems.setdefault(("codec", error.key), str(error))
        return invalid
    defaults["codec"]["preset"] = name
    return _merged(tables, path, defaults)


def _merged(tables: Mapping[str, Any], path: str, defaults: dict[str, dict[str, Any]]) -> dict[str, Any]:
    result = {**tables, "codec": defaults.pop("codec")}
    endpoint = tables.get("endpoint")
    if isinstance(endpoint, dict):
        result["endpoint"] = _endpoint(endpoint, path, defaults.get("headers", {}))
    for table in TABLES:
        own = tables.get(table, {})
        if table in defaults and table != "headers" and isinstance(own, dict):
            # Credentials may also be header fields, be of another type, or not be needed behind a gateway.
            if table == "auth" and (not own or own.get("type", defaults[table]["type"]) != defaults[table]["type"]):
                continue
            result[table] = merged(defaults[table], own)
    return result


def _endpoint(endpoint: Mapping[str, Any], path: str, headers: Mapping[str, str]) -> dict[str, Any]:
    result = dict(endpoint)
    own = endpoint.get("headers", {})
    if headers and isinstance(own, dict):
        result["headers"] = with_headers(headers, own)
    if "url" in endpoint:
        result["url"] = _whole(endpoint["url"], path)
    if isinstance(endpoint.get("urls"), list):
        result["urls"] = [_whole(url, path) for url in endpoint["urls"]]
    return result


def _whole(url: Any, path: str) -> Any:
    """Return ``url`` with the path; as it is if it is no URL, which the check of the endpoint reports."""
    if isinstance(url, str) and "://" in url:
        with suppress(ValueError):
            return with_path(url, path)
    return url
