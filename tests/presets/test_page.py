"""The table in docs/presets.md is that of the files. Its examples are run with those of all pages."""

from __future__ import annotations

import re
from pathlib import Path

from fanout.presets import load_preset, preset_names

PAGE = Path(__file__).absolute().parents[2] / "docs" / "presets.md"


def row(name: str) -> str:
    """Return the row of a preset in the table."""
    preset = load_preset(name)
    parameters = ", ".join(
        f"**`{one.name}`**" if one.required else f"`{one.name}`" for one in preset.parameters.values()
    )
    compared = f"[{preset.checked}]({preset.source})" if preset.checked else "no"
    return f"| [`{name}`]({preset.documentation}) | {preset.description} | {parameters} | {compared} |"


def test_the_table_of_presets_is_that_of_the_files():
    rows = re.findall(r"^\| \[`.*$", PAGE.read_text("utf-8"), re.MULTILINE)
    wanted = [row(name) for name in preset_names()]
    assert rows == wanted, "write into docs/presets.md:\n" + "\n".join(wanted)
