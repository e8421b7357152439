"""Codecs for wire formats, by name and as classes. Others register in the entry point group ``fanout.codecs``."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from fanout.codecs._paths import in_row_order
from fanout.codecs.base import Codec
from fanout.codecs.json import V1, Json
from fanout.codecs.oip import Oip
from fanout.codecs.openai_chat import OpenAIChat
from fanout.codecs.openai_embeddings import OpenAIEmbeddings
from fanout.errors import ConfigError
from fanout.options import option_names, require_known

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

__all__ = [
    "V1", "Codec", "Json", "Oip", "OpenAIChat", "OpenAIEmbeddings", "codec", "codec_class", "in_row_order", "names",
]  # fmt: skip

_GROUP = "fanout.codecs"
_PACKAGED: dict[str, type[Codec]] = {kind.name: kind for kind in (Json, V1, Oip, OpenAIEmbeddings, OpenAIChat)}


def codec(name: str, **options: Any) -> Codec:
    """Make the codec of this name (see `names`) with its options.

    Raises:
        ConfigError: an unknown codec or option, or a value that the option does not accept.
    """
    kind = codec_class(name)
    if (known := option_names(kind)) is not None:
        require_known(f"codec {name!r}", options, known)
    return kind(**options)


def codec_class(name: str) -> type[Codec]:
    """Return the class of the codec of this name. Raises `ConfigError` if there is none."""
    # The packaged codecs first: entry points are found by a search through all installed packages.
    if name in _PACKAGED:
        return _PACKAGED[name]
    registered = _registered()
    if name not in registered:
        known = names()
        near = _nearest(name, known)
        raise ConfigError(f"there is no codec {name!r}{near}; there are {', '.join(known)}", key="name")
    return _loaded(registered[name])


def names() -> list[str]:
    """Return the names of all codecs, the packaged ones first."""
    return [*_PACKAGED, *sorted(_registered().keys() - _PACKAGED.keys())]


def _registered() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def _loaded(entry: EntryPoint) -> type[Codec]:
    try:
        kind = entry.load()
    except Exception as error:  # an import runs any code of the module
        raise ConfigError(f"codec {entry.name!r} ({entry.value}) cannot be imported: {error}", key="name") from error
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise ConfigError(f"codec {entry.name!r} ({entry.value}) is no subclass of fanout.Codec", key="name")
    return kind


def _nearest(name: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(name), list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
