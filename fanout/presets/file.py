"""Preset files: the constants of one API, as data in TOML.

A preset holds no origin, no ``${NAME}`` and no command. So a preset from another author sends nothing to a host of its
own, reads no secret, and runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fanout.errors import ConfigError
from fanout.files import read_toml
from fanout.options import did_you_mean
from fanout.presets.parameters import Parameter, declared, filled, filled_text, references, strings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FOLDER = Path(__file__).parent
TABLES = ("auth", "headers", "codec", "chunks", "timeouts", "limits")
"""Tables of a preset that become defaults of the job's."""

_KEYS = ("description", "documentation", "source", "checked", "path", "parameters", "given", *TABLES)
CODEC_OPTIONS = frozenset({"schema"})
"""Options of a codec that take other tables of a preset with them, as a parameter may."""

_TOKEN_TYPES = ("bearer", "api-key")
# Keys of `auth` that are the same for all users of an API. All others name a secret, an origin or a command.
_AUTH_KEYS = ("type", "header", "service", "scopes")


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetFile:
    """A preset as its file declares it.

    Attributes:
        name: the name by which a job gave it.
        path: appended to the endpoint's URL; with parameters.
        documentation: URL of the page for users of the API.
        source: URL of the specification, page or code with which the preset was compared on the day `checked`.
        tables: table name to defaults, with parameters.
        given: parameter name, or ``schema``, to further tables, which count if that is given.
    """

    name: str
    file: Path
    path: str = ""
    description: str = ""
    documentation: str = ""
    source: str = ""
    checked: date | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    given: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def credentials_type(self) -> str:
        """Type of credentials that are found where the cloud's tools look for them; empty if a job gives a token."""
        kind = str(self.tables.get("auth", {}).get("type", ""))
        return "" if kind in _TOKEN_TYPES else kind

    def problems(self, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the name and the problem of each parameter that is missing or has an invalid value."""
        others = [name for name in options if name not in self.parameters]
        for name, parameter in self.parameters.items():
            if name in options:
                problem = parameter.problem(options[name])
            else:
                hint = did_you_mean(name, others, ' Is "{}" a misspelling of it?')
                problem = f"is missing: {parameter.meaning}{hint}" if parameter.required else ""
            if problem:
                yield name, problem
        # Such a segment would lead to another page: /v1/models/.. is /v1.
        for name, _ in references(self.path):
            if str(options.get(name, ".x")) in ("", ".", ".."):
                yield name, "must be a name, since it is a part of the URL's path"

    def fill(self, options: Mapping[str, Any]) -> tuple[str, dict[str, dict[str, Any]]]:
        """Return the path and the tables for these keys of ``[codec]``, which have no `problems`.

        Keys that are no parameters are merged into the table ``codec``.
        """
        defaults = {name: one.default for name, one in self.parameters.items() if one.default is not None}
        values = defaults | {name: value for name, value in options.items() if name in self.parameters}
        tables = {name: filled(table, values) for name, table in self.tables.items()}
        for name, overlay in self.given.items():
            if name in values or (name in CODEC_OPTIONS and name in options):
                tables = merged(tables, filled(overlay, values))
        # Keys of the codec itself come last, so that a job overrides whatever the preset says.
        own = {name: value for name, value in options.items() if name not in self.parameters}
        tables["codec"] = merged(tables["codec"], own)
        # A model's name may hold a slash, which must not lead to another page; AWS has colons in its names.
        return filled_text(self.path, values, lambda text: quote(text, safe=":,")), tables


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``table`` with the keys of ``over``, which win; tables in both are merged in turn."""
    result = dict(table)
    for key, value in over.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def preset_names() -> list[str]:
    """Return the names of the presets in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_preset(name: str, folder: Path | None = None) -> PresetFile:
    """Read a preset of the package by its name, or a user's own by a path such as ``./mine.toml``.

    Args:
        name: the name or the path; a path has a ``/``, or ends with ``.toml``.
        folder: the folder to which a path is relative; the working folder if not given.

    Raises:
        ConfigError: there is no such preset, or the file is no valid preset; the message names the file and the key.
    """
    # A name never reads a file of the working folder: a preset decides where rows go and in which form.
    if "/" in name or name.endswith(".toml"):
        file = (folder or Path()) / Path(name).expanduser()
    elif name in preset_names():
        file = FOLDER / f"{name}.toml"
    else:
        hint = did_you_mean(name, preset_names(), "did you mean {!r}?", "fanout presets lists them")
        raise ConfigError(f"there is no preset {name!r}; {hint} (a file of your own: ./NAME.toml)", key="preset")
    try:
        return _checked(name, file, read_toml(file, "preset"))
    except ConfigError as error:
        raise ConfigError(str(error), key="preset") from None


def _checked(name: str, file: Path, data: dict[str, Any]) -> PresetFile:
    """Make a preset of a file's content. Raises `ConfigError` that names the file and the key at fault."""
    try:
        return _preset_of(name, file, data)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def _preset_of(name: str, file: Path, data: dict[str, Any]) -> PresetFile:
    """Make a preset of a file's content. Raises `ConfigError` that begins with the key at fault."""
    _require_known(data, _KEYS, "")
    texts = {key: data.get(key, "") for key in ("path", "description", "documentation", "source")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ConfigError(f"{key}: must be a string")
    checked = data.get("checked")
    # TOML has a type for dates, and a date with a time is an instance of `date` too.
    if checked is not None and type(checked) is not date:
        raise ConfigError("checked: must be a date, such as 2026-11-30, without quotation marks")
    given = {}
    for parameter in _table(data, "given"):
        overlay = _table(data["given"], parameter, "given.")
        _require_known(overlay, TABLES, f"given.{parameter}.")
        given[parameter] = {key: _table(overlay, key, f"given.{parameter}.") for key in overlay}
    tables = {key: _table(data, key) for key in TABLES if key == "codec" or key in data}
    preset = PresetFile(
        name=name,
        file=file,
        **texts,
        checked=checked,
        parameters={key: declared(key, table) for key, table in _table(data, "parameters").items()},
        tables=tables,
        given=given,
    )
    _require_harmless(preset)
    _require_declared(preset)
    return preset


def _table(tables: Mapping[str, Any], key: str, above: str = "") -> dict[str, Any]:
    table = tables.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{above}{key}: must be a table")
    return table


def _require_known(table: Mapping[str, Any], known: tuple[str, ...], above: str) -> None:
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known, 'did you mean "{}"?', f"known here are {', '.join(known)}")
            raise ConfigError(f"{above}{key}: unknown key; {hint}")


def _require_harmless(preset: PresetFile) -> None:
    """Raise `ConfigError` for an origin, a variable of the environment, or a command."""
    # A path that begins with two slashes would name a host.
    if preset.path and (not preset.path.startswith("/") or preset.path.startswith("//")):
        raise ConfigError(f"path: must begin with one /, and the endpoint's url has the origin, not {preset.path!r}")
    for at, tables in _places(preset):
        for text in strings(tables):
            if "${" in text:
                raise ConfigError(f"{at}: a preset reads no environment, but {text!r} does: make it a parameter")
            # Not only where requests go: an API may call back a URL in the body of a request.
            if "://" in text:
                raise ConfigError(f"{at}: a preset names no host, but {text!r} does: make it a parameter")
        _require_harmless_auth(tables.get("auth", {}), at)
        if ":" in str(tables.get("codec", {}).get("name", "")):
            raise ConfigError(f"{at}codec.name: a preset imports no code; name such a codec in the job file")


def _require_harmless_auth(auth: Mapping[str, Any], at: str) -> None:
    for key in auth:
        if key not in _AUTH_KEYS:
            raise ConfigError(f"{at}auth.{key}: belongs in the job file; a preset has {', '.join(_AUTH_KEYS)} only")
    if auth and "type" not in auth:
        raise ConfigError(f'{at}auth.type: is missing, such as "bearer" or "api-key"')
    # Such a preset would run whatever its author likes on the machine of every user.
    if auth.get("type") == "command":
        raise ConfigError(f'{at}auth.type: a preset runs no command; set type = "command" in the job file')


def _places(preset: PresetFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the prefix of the keys, and the tables, of the base and of each overlay; and of path and defaults."""
    yield "", preset.tables
    for name, overlay in preset.given.items():
        yield f"given.{name}.", overlay
    yield "", {"path": preset.path, "parameters": [one.default for one in preset.parameters.values()]}


def _require_declared(preset: PresetFile) -> None:
    """Raise `ConfigError` for a reference to no parameter, a parameter without a use, and a text with a gap."""
    used = set(preset.given)
    if unknown := used - preset.parameters.keys() - CODEC_OPTIONS:
        raise ConfigError(f"given.{min(unknown)}: is no parameter; write [parameters.{min(unknown)}]")
    for at, tables in _places(preset):
        # Within the tables of its own condition an optional parameter always has a value.
        # The prefix of a place is `given.NAME.`, or empty for the tables that always count.
        condition = at.removeprefix("given.").removesuffix(".")
        for name, whole in references(tables):
            parameter = preset.parameters.get(name)
            if parameter is None:
                raise ConfigError(f"{at}: {{{{parameters.{name}}}}} is not declared; write [parameters.{name}]")
            if parameter.optional and not whole and name != condition:
                raise ConfigError(f"{at}: {{{{parameters.{name}}}}} is optional, so that it must be a whole value")
            used.add(name)
    for name in preset.parameters:
        if name not in used:
            raise ConfigError(f"parameters.{name}: is not used")
