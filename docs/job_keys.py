"""Make the tables of job file keys in these pages from the job file's JSON Schema.

A page holds placeholders: ``<!-- keys: limits -->`` for a table of the job file, ``<!-- options: oip -->`` for the
options of a codec, ``<!-- options: * -->`` for those that all packaged codecs of numbers share, and
``<!-- auth: bearer -->`` for the keys of a type of authentication. So the reference cannot disagree with the settings:
both are made from the same docstrings.
"""

from __future__ import annotations

import json
import re
from typing import Any

SHARED = ("dtype", "shape", "nonfinite")
"""Options of every codec of numbers."""

_PLACEHOLDER = re.compile(r"^<!-- (keys|options|auth): ([\w*-]+) -->$", re.MULTILINE)


def fill(page: str, schema: bytes) -> str:
    """Return ``page`` with a table in the place of each placeholder.

    Args:
        page: the text of a page, in Markdown.
        schema: the content of ``fanout.schema.json``.

    Raises:
        KeyError: a placeholder names a table or codec that the schema does not have.
    """
    job = json.loads(schema)

    def table(match: re.Match[str]) -> str:
        return _table(*{"keys": _keys_of, "options": _options_of, "auth": _auth_of}[match[1]](job, match[2]))

    return _PLACEHOLDER.sub(table, page)


def tables(schema: bytes) -> list[str]:
    """Names of the tables that a job file has, in their order."""
    return list(json.loads(schema)["properties"])


def codecs(schema: bytes) -> list[str]:
    """Names of the codecs that ``schema`` describes."""
    return list(_codecs(json.loads(schema)))


def _keys_of(job: dict[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    reference = job["properties"][name]
    definition = job["$defs"][reference["$ref"].rpartition("/")[2]]
    return definition["properties"], definition.get("required", [])


def _options_of(job: dict[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    every = _codecs(job)
    if name == "*":
        return {option: every["json"]["properties"][option] for option in SHARED}, []
    own = {option: value for option, value in every[name]["properties"].items() if option not in (*SHARED, "name")}
    return own, every[name].get("required", [])


def _auth_of(job: dict[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    rules = job["$defs"]["AuthTable"]["allOf"]
    keys = {rule["if"]["properties"]["type"]["const"]: rule["then"] for rule in rules}[name]
    return {key: value for key, value in keys["properties"].items() if key != "type"}, keys.get("required", [])


def _codecs(job: dict[str, Any]) -> dict[str, Any]:
    """Codec name -> the part of the schema that describes its options."""
    rules = job["$defs"]["CodecTable"]["allOf"]
    conditions = [(rule["if"]["properties"], rule["then"]) for rule in rules]
    return {properties["name"]["const"]: then for properties, then in conditions if "name" in properties}


def _table(properties: dict[str, Any], required: list[str]) -> str:
    if not properties:
        return "No options of its own."
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, value in properties.items():
        default = "required" if name in required else _default(value)
        lines.append(f"| `{name}` | {_type(value)} | {default} | {_cell(value.get('description', ''))} |")
    return "\n".join(lines)


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    return "" if default in (None, [], {}, "") else f"`{json.dumps(default)}`"


def _type(value: dict[str, Any]) -> str:
    """Describe a schema in the words of TOML."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(option) for option in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{json.dumps(option)}`" for option in value["enum"])
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if value.get("type") == "array":
        return f"list of {_plural(_type(value.get('items', {})))}"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
    return names.get(value.get("type", ""), "table" if value.get("type") == "object" else "any value")


def _plural(noun: str) -> str:
    return noun if noun.startswith("list") else f"{noun}s"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
