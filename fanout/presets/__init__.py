"""Presets: the constants of APIs, as data. Each preset is a TOML file in this folder; users may write others.

`preset` gives a `Preset`, which a client takes in place of a codec.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fanout._lazy import lazy

if TYPE_CHECKING:
    from fanout.presets.applied import DEFAULT_CODEC, Preset, preset, require_options, with_headers
    from fanout.presets.file import TABLES, PresetFile, load_preset, merged, preset_names
    from fanout.presets.parameters import Parameter

__all__ = [
    "DEFAULT_CODEC", "TABLES", "Parameter", "Preset", "PresetFile", "load_preset", "merged", "preset", "preset_names",
    "require_options", "with_headers",
]  # fmt: skip

__getattr__ = lazy(
    __name__,
    {
        "fanout.presets.applied": ("DEFAULT_CODEC", "Preset", "preset", "require_options", "with_headers"),
        "fanout.presets.file": ("TABLES", "PresetFile", "load_preset", "merged", "preset_names"),
        "fanout.presets.parameters": ("Parameter",),
    },
)
