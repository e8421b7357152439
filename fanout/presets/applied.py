"""Presets with the values of their parameters: the codec and the settings that a client takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from fanout._url import with_path
from fanout.auth import DEFAULT_TYPE, auth_class
from fanout.codecs import codec as codec_by_name
from fanout.codecs import codec_class
from fanout.errors import ConfigError
from fanout.options import option_names, require_known
from fanout.presets.file import PresetFile, load_preset
from fanout.settings import Chunks, Limits, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from fanout.addresses import Endpoint
    from fanout.auth import Auth
    from fanout.codecs.base import Codec

DEFAULT_CODEC = "json"
"""The codec of a preset that names none."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Preset:
    """The wire format of one API, and the settings that suit it: ``Client(url, codec=fanout.preset(...))``.

    The client's own arguments win over those of the preset.

    Attributes:
        path: appended to the endpoint's URL.
        headers: header fields that all requests of this API have.
        auth_options: type of the credentials, and the header field that carries them; empty if the API needs none.
    """

    name: str
    codec: Codec
    path: str
    headers: Mapping[str, str]
    auth_options: Mapping[str, Any]
    chunks: Chunks
    timeouts: Timeouts
    limits: Limits

    def endpoint(self, endpoint: Endpoint) -> Endpoint:
        """Return ``endpoint`` with the preset's path and header fields."""
        headers = with_headers(self.headers, endpoint.headers)
        return replace(endpoint, url=with_path(endpoint.url, self.path), headers=headers)

    def auth(self, **secrets: str) -> Auth:
        """Return the credentials of this API: ``Client(url, codec=preset, auth=preset.auth(token=key))``.

        Raises `ConfigError` for a secret that cannot be used.
        """
        # The caller's type wins, for a gateway may want other credentials than the API behind it.
        options = {**self.auth_options, **secrets}
        return auth_class(options.pop("type", DEFAULT_TYPE))(**options)

    def __repr__(self) -> str:
        return f"<Preset {self.name!r} {self.path}>"


def preset(name: str | PathLike[str], /, **options: Any) -> Preset:
    """Make the preset of this name, or of a TOML file of your own, for a `Client`.

    ::

        preset = fanout.preset("cohere-embed", model="embed-v4.0", input_type="search_document")
        vectors = fanout.map(texts, "https://api.cohere.com", codec=preset, auth=preset.auth(token=key))

    Args:
        name: the name of a preset of the package (``fanout presets`` lists them), or the path of a file.
        options: values of the preset's parameters, and options of its codec in place of the preset's.

    Raises:
        ConfigError: there is no such preset, a required parameter is missing, or an option cannot be used.
    """
    file = load_preset(str(name))
    # The first problem ends it: a later one may follow from it, as a misspelt name does from a missing parameter.
    for key, problem in file.problems(options):
        raise ConfigError(f"{key} {problem} (preset {file.name!r})", key=key)
    path, tables = file.fill(options)
    require_options(file, tables["codec"], options)
    return Preset(
        name=file.name,
        codec=codec_by_name(**tables["codec"]),
        path=path,
        headers=tables.get("headers", {}),
        auth_options=tables.get("auth", {}),
        chunks=_settings(Chunks, file, "chunks", tables),
        timeouts=_settings(Timeouts, file, "timeouts", tables),
        limits=_settings(Limits, file, "limits", tables),
    )


def require_options(file: PresetFile, codec: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Raise `UnknownOptionError` for the first option that neither the preset nor its codec has."""
    name = codec.setdefault("name", DEFAULT_CODEC)
    if not isinstance(name, str) or ":" in name:
        return  # a codec of the user's own, which the job imports
    # Both lists together: a user does not know which of them an option belongs to.
    known = option_names(codec_class(name))
    if known is not None:
        require_known(f"preset {file.name!r}", options, list(dict.fromkeys([*file.parameters, *known, "name"])))


def with_headers(headers: Mapping[str, str], over: Mapping[str, str]) -> dict[str, str]:
    """Return ``headers`` with the fields of ``over``, which win. Names are compared without regard to case."""
    own = {name.lower() for name in over}
    return {**{name: value for name, value in headers.items() if name.lower() not in own}, **over}


def _settings(kind: Callable[..., T], file: PresetFile, table: str, tables: Mapping[str, Mapping[str, Any]]) -> T:
    try:
        return kind(**tables.get(table, {}))
    except ConfigError as error:
        # The message names preset and table, since the user has written neither.
        raise ConfigError(f"preset {file.name!r}: {table}.{error}", key=f"{table}.{error.key}") from None
