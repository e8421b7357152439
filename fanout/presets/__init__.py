"""Presets: the constants of APIs, as data. Each preset is a TOML file in this folder; users may write others."""

from fanout.presets.api import DEFAULT_CODEC, Preset, preset, require_options, with_headers
from fanout.presets.file import TABLES, PresetFile, load_preset, merged, preset_names
from fanout.presets.parameters import Parameter

__all__ = [
    "DEFAULT_CODEC", "TABLES", "Parameter", "Preset", "PresetFile", "load_preset", "merged", "preset", "preset_names",
    "require_options", "with_headers",
]  # fmt: skip
