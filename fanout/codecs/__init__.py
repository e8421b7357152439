"""Codecs for wire formats, by name and as classes. Others register in the entry point group ``fanout.codecs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fanout._lazy import lazy
from fanout.codecs.base import Codec
from fanout.options import Registry, option_names, require_known

if TYPE_CHECKING:
    from fanout.codecs._paths import in_row_order
    from fanout.codecs.json import V1, Json
    from fanout.codecs.oip import Oip
    from fanout.codecs.openai_chat import OpenAIChat
    from fanout.codecs.openai_embeddings import OpenAIEmbeddings

__all__ = [
    "V1", "Codec", "Json", "Oip", "OpenAIChat", "OpenAIEmbeddings", "codec", "codec_class", "in_row_order", "names",
]  # fmt: skip

_PACKAGED = {
    "json": "fanout.codecs.json:Json",
    "v1": "fanout.codecs.json:V1",
    "oip": "fanout.codecs.oip:Oip",
    "openai-embeddings": "fanout.codecs.openai_embeddings:OpenAIEmbeddings",
    "openai-chat": "fanout.codecs.openai_chat:OpenAIChat",
}
__getattr__ = lazy(__name__, {"fanout.codecs._paths": ("in_row_order",)}, _PACKAGED.values())
_REGISTRY: Registry[Codec] = Registry(Codec, "codec", _PACKAGED, "fanout.codecs", "name")


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
    return _REGISTRY.find(name)


def names() -> list[str]:
    """Return the names of all codecs, the packaged ones first."""
    return _REGISTRY.names()
