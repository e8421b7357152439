"""The commands ``fanout presets`` and ``fanout presets show``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout.cli.output import print_error, print_json, print_text
from fanout.errors import ConfigError
from fanout.presets import load_preset, preset_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fanout.presets import Parameter, PresetFile

_COLUMN = re.compile(r"\{\{ *(\w+)(?:\[\])? *\}\}")
_NO_COLUMNS = frozenset({"row", "rows"})
_HOST = re.compile(r"\(([\w-]+(?:\.[\w-]+)+)\)")
_SUCH_AS = re.compile(r"such as ([\w./:-]+)\.$")
_EXAMPLES = {"string": '"NAME"', "integer": "1", "number": "0.0", "boolean": "true", "array": "[]", "object": "{}"}


def presets_command(*, as_json: bool) -> int:
    """List the presets of the package. Returns the exit code."""
    presets = [load_preset(name) for name in preset_names()]
    if as_json:
        print_json({"presets": [_as_json(preset) for preset in presets]})
    else:
        rows = _aligned((preset.name, preset.description) for preset in presets)
        print_text("\n".join([*rows, "", "fanout presets show NAME describes one, with a job file to start from."]))
    return 0


def preset_command(name: str, *, as_file: bool, as_json: bool) -> int:
    """Describe one preset, or print its file. Returns the exit code."""
    try:
        preset = load_preset(name)
    except ConfigError as error:
        return print_error(str(error), 2, as_json=as_json)
    if as_json:
        print_json(_as_json(preset))
    else:
        print_text(preset.file.read_text("utf-8").rstrip("\n") if as_file else "\n".join(_described(preset)))
    return 0


def _described(preset: PresetFile) -> Iterator[str]:
    yield f"{preset.name}: {preset.description}"
    if preset.documentation:
        yield preset.documentation
    if preset.checked:
        yield f"Compared on {preset.checked} with {preset.source or 'its documentation'}"
    yield ""
    if preset.path:
        yield f"Requests go to {preset.path} below endpoint.url."
    if auth := preset.tables.get("auth"):
        yield f"[auth] has type {auth['type']!r}" + (f", header {auth['header']!r}." if "header" in auth else ".")
    if preset.parameters:
        yield "Parameters, which are keys of [codec]:"
        yield from _aligned((f"  {one.name}", _kind(one), one.meaning) for one in preset.parameters.values())
    yield ""
    yield "A job file to start from:"
    yield ""
    yield from _starting_job(preset)
    yield ""
    yield f"The file of the preset: {preset.file}"


def _kind(parameter: Parameter) -> str:
    default = parameter.default
    need = "required" if parameter.required else "optional" if default is None else f"default {_toml(default)}"
    return f"{', '.join(map(str, parameter.choices)) or parameter.type}; {need}"


def _starting_job(preset: PresetFile) -> Iterator[str]:
    codec = preset.tables["codec"]
    columns = _columns(codec.get("request", {})) or ["text"]
    yield "[input]"
    yield 'path = "rows.jsonl"'
    yield f"columns = {_toml(columns)}" if len(columns) > 1 else f"column = {_toml(columns[0])}"
    yield ""
    yield "[endpoint]"
    host = _HOST.search(preset.description)
    yield f"url = {_toml('https://' + host[1] if host else 'http://localhost:8000')}"
    yield ""
    if "auth" in preset.tables:
        yield "[auth]"
        kind = preset.credentials_type
        yield f"type = {_toml(kind)}" if kind else 'token = "${API_KEY}"'
        yield ""
    yield "[codec]"
    yield f"preset = {_toml(preset.name)}"
    for one in preset.parameters.values():
        if one.required:
            yield f"{one.name} = {_example(one)}"
    yield ""
    yield "[output]"
    yield f'path = "answers.{"jsonl" if _has_texts(codec) else "npy"}"'


def _example(parameter: Parameter) -> str:
    if parameter.choices:
        return _toml(parameter.choices[0])
    named = _SUCH_AS.search(parameter.meaning)
    return _toml(named[1]) if named else _EXAMPLES[parameter.type]


def _has_texts(codec: dict[str, Any] | Any) -> bool:
    """True if answers are texts, or several outputs, which a .npy file does not hold."""
    outputs = codec.get("outputs", {})
    numbers = ("float32", "float64", "int64", "bool")
    plain = [isinstance(output, dict) and output.get("type") in numbers for output in outputs.values()]
    return codec.get("name") == "openai-chat" or not all(plain) or len(plain) > 1


def _columns(value: Any) -> list[str]:
    """Return the columns that a request names, in their order."""
    if isinstance(value, dict):
        found = [name for inner in value.values() for name in _columns(inner)]
    elif isinstance(value, list):
        found = [name for inner in value for name in _columns(inner)]
    else:
        found = _COLUMN.findall(value) if isinstance(value, str) else []
    return [name for name in dict.fromkeys(found) if name not in _NO_COLUMNS]


def _as_json(preset: PresetFile) -> dict[str, Any]:
    parameters = {
        one.name: {
            "type": one.type,
            "required": one.required,
            "default": one.default,
            "choices": list(one.choices),
            "meaning": one.meaning,
        }
        for one in preset.parameters.values()
    }
    return {
        "name": preset.name,
        "description": preset.description,
        "documentation": preset.documentation,
        "source": preset.source,
        "checked": preset.checked and preset.checked.isoformat(),
        "path": preset.path,
        "parameters": parameters,
        "tables": preset.tables,
        "file": str(Path(preset.file)),
    }


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield a line for each row, with columns of equal width."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, last in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last])
