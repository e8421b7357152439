"""The commands ``fanout presets`` and ``fanout presets show``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanout.cli.output import print_result
from fanout.errors import ConfigError
from fanout.job.edit import Draft, toml
from fanout.presets import load_preset, preset_names
from fanout.presets import preset as make_preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fanout.presets import Parameter, PresetFile

# Descriptions of presets name the host of the API in parentheses, and the meanings of parameters an example.
_HOST = re.compile(r"\(([\w-]+(?:\.[\w-]+)+)\)")
_SUCH_AS = re.compile(r"such as ([\w./:-]+)\.$")
# Values for required parameters whose meaning names no example: the job file is valid, and shows where to write.
_EXAMPLES: dict[str, Any] = {
    "string": "NAME",
    "integer": 1,
    "number": 0.0,
    "boolean": True,
    "array": [],
    "object": {"text": "{{text}}"},
}


def presets_command(*, as_json: bool) -> int:
    """List the presets of the package. Returns the exit code."""
    presets = [load_preset(name) for name in preset_names()]
    rows = _aligned((preset.name, preset.description) for preset in presets)
    text = "\n".join([*rows, "", "fanout presets show NAME describes one, with a job file to start from."])
    print_result({"presets": [_as_json(preset) for preset in presets]}, text, as_json=as_json)
    return 0


def preset_command(name: str, *, as_file: bool, as_json: bool) -> int:
    """Describe one preset, or print its file. Returns the exit code."""
    preset = load_preset(name)
    text = preset.file.read_text("utf-8").rstrip("\n") if as_file else "\n".join(_described(preset))
    print_result(_as_json(preset), text, as_json=as_json)
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
    yield _starting_job(preset)
    yield f"The file of the preset: {preset.file}"


def _kind(parameter: Parameter) -> str:
    default = parameter.default
    need = "required" if parameter.required else "optional" if default is None else f"default {toml(default)}"
    return f"{', '.join(map(str, parameter.choices)) or parameter.type}; {need}"


def _starting_job(preset: PresetFile) -> str:
    required = {one.name: _example(one) for one in preset.parameters.values() if one.required}
    draft = Draft()
    # JSON lines hold columns of every kind, so that this suffix suits each preset.
    draft.set("input", "path", "rows.jsonl")
    columns = _columns(preset, required)
    if len(columns) > 1:
        draft.set("input", "columns", columns)
    else:
        draft.set("input", "column", columns[0])
    host = _HOST.search(preset.description)
    draft.set("endpoint", "url", f"https://{host[1]}" if host else "http://localhost:8000")
    # A cloud's own tools find such credentials, so that the file names no variable for them.
    if kind := preset.credentials_type:
        draft.set("auth", "type", kind)
    elif "auth" in preset.tables:
        draft.set("auth", "token", "${API_KEY}")
    draft.set("codec", "preset", preset.name)
    for name, value in required.items():
        draft.set("codec", name, value)
    draft.set("output", "path", f"answers.{'jsonl' if _has_texts(preset.tables['codec']) else 'npy'}")
    return draft.text()


def _example(parameter: Parameter) -> Any:
    if parameter.choices:
        return parameter.choices[0]
    named = _SUCH_AS.search(parameter.meaning)
    return named[1] if named else _EXAMPLES[parameter.type]


def _has_texts(codec: Mapping[str, Any]) -> bool:
    """True if answers are texts, or several outputs, which a .npy file does not hold."""
    outputs = codec.get("outputs", {})
    # Dtypes whose arrays a .npy file holds without pickle.
    numbers = ("float32", "float64", "int64", "bool")
    plain = [isinstance(output, dict) and output.get("type") in numbers for output in outputs.values()]
    return codec.get("name") == "openai-chat" or not all(plain) or len(plain) > 1


def _columns(preset: PresetFile, options: dict[str, Any]) -> list[str]:
    """Return the columns that the requests name; ``text`` if a row is one value."""
    try:
        columns = make_preset(preset.name, **options).codec.columns
    except ConfigError:  # a codec may accept no example of a value
        columns = None
    return sorted(columns or ["text"])


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


def _aligned(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield a line for each row, with columns of equal width."""
    rows = list(rows)
    # The last column is not padded, so that no line ends with spaces.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for *cells, last in rows:
        yield "  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last])
