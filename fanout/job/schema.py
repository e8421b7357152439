"""The JSON Schema of job files, for editors that complete and check TOML."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from inspect import Parameter, getdoc, signature
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from fanout.addresses import Endpoint
from fanout.auth import DEFAULT_TYPE, auth_class, auth_types
from fanout.codecs import base, codec_class, names
from fanout.job.model import JobFile
from fanout.options import option_names, required_options
from fanout.presets import DEFAULT_CODEC, load_preset, preset_names
from fanout.settings import PYTHON_ONLY, Chunks, Hedge, Limits, RetryPolicy, Timeouts

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import core_schema

# Names in the annotations of codecs. Their modules import most of them for type checkers only.
_ANNOTATIONS = {"Mapping": Mapping, "Sequence": Sequence, **vars(base)}


def job_schema() -> dict[str, Any]:
    """Return the schema as plain dicts and lists. It includes codecs that other packages register."""
    schema = JobFile.model_json_schema(schema_generator=_Toml)
    tables = schema["$defs"]
    for settings in (Chunks, Endpoint, Hedge, Limits, RetryPolicy, Timeouts):
        described = tables[settings.__name__] | {"description": getdoc(settings)}  # pydantic before 2.13 omits it
        tables[settings.__name__] = dict(sorted(described.items()))
        for key in described["properties"].values():
            # Every whole number among the settings is a count, and their constructors refuse those below 1.
            for kind in key.get("anyOf", [key]):
                if kind.get("type") == "integer":
                    kind["minimum"] = 1
    # Their values are functions, which no job file can hold.
    for name in PYTHON_ONLY:
        del tables["RetryPolicy"]["properties"][name]
    auth = tables["AuthTable"]
    auth["properties"]["type"]["examples"] = auth_types()
    auth["allOf"] = [_keys_of_auth(name) for name in auth_types()]
    table = tables["CodecTable"]
    # Examples instead of an enum: a codec may be registered only on the machine that runs the job.
    table["properties"]["name"]["examples"] = names()
    # A body or a preset stands in place of the name.
    del table["required"]
    table["anyOf"] = [{"required": [key]} for key in ("name", "preset", "request", "raw", "form")]
    table["properties"]["preset"]["examples"] = preset_names()
    table["allOf"] = [*map(_options_if_named, names()), *map(_options_of_preset, preset_names())]
    return {"$schema": _Toml.schema_dialect, "title": "fanout job", **schema}


def _keys_of_auth(name: str) -> dict[str, Any]:
    kind: Any = auth_class(name)
    then: dict[str, Any] = {"properties": {"type": True}}
    if is_dataclass(kind):
        keys = TypeAdapter(kind).json_schema(schema_generator=_Toml)
        then["properties"] |= keys["properties"]
        then["required"] = keys.get("required", [])
        then["additionalProperties"] = False
    # An empty table stands for none, and one without a type has the default type.
    required = ["type"] if name != DEFAULT_TYPE else []
    condition = {"properties": {"type": {"const": name}}, "required": required, "minProperties": 1}
    return {"if": condition, "then": then}


def _options_if_named(name: str) -> dict[str, Any]:
    kind = codec_class(name)
    parameters = signature(kind).parameters.values()
    then: dict[str, Any] = {"properties": {"name": True}}
    # A codec that accepts any option cannot be checked by an editor.
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        hints, descriptions = _hints(kind), {**_descriptions(base.Codec), **_descriptions(kind)}
        then["properties"] |= {p.name: _option(p, hints.get(p.name, Any), descriptions.get(p.name)) for p in parameters}
        then["required"] = required_options(kind)
        then["additionalProperties"] = False
    condition = {"properties": {"name": {"const": name}}, "not": {"required": ["preset"]}}
    return {"if": condition | ({} if name == DEFAULT_CODEC else {"required": ["name"]}), "then": then}


def _options_of_preset(name: str) -> dict[str, Any]:
    preset = load_preset(name)
    # Options of the codec are described where it is named; here they may override the preset's.
    options = option_names(codec_class(preset.tables["codec"].get("name", DEFAULT_CODEC))) or []
    properties: dict[str, Any] = dict.fromkeys(("name", "preset", *options), True)
    for one in preset.parameters.values():
        enum = {"enum": list(one.choices)} if one.choices else {}
        default = {} if one.default is None else {"default": one.default}
        properties[one.name] = {"type": one.type, **enum, **default, "description": one.meaning}
    then = {
        "properties": properties,
        "required": [one.name for one in preset.parameters.values() if one.required],
        "additionalProperties": False,
    }
    return {"if": {"properties": {"preset": {"const": name}}, "required": ["preset"]}, "then": then}


def _hints(kind: type[base.Codec]) -> dict[str, Any]:
    try:
        return get_type_hints(kind.__init__, localns=_ANNOTATIONS)
    except NameError:  # a codec of another package, with types of its own: allow any value
        return {}


def _option(parameter: Parameter, hint: Any, description: str | None) -> dict[str, Any]:
    option = TypeAdapter(hint).json_schema(schema_generator=_Toml)
    if description:
        option["description"] = description
    # Other defaults, such as None, cannot be written in TOML.
    if isinstance(parameter.default, (str, int, float)):
        option["default"] = parameter.default
    return option


def _descriptions(kind: type) -> dict[str, str]:
    """Return option -> description, from the section Args of the class's docstring."""
    arguments = (getdoc(kind) or "").partition("Args:\n")[2]
    # The docstring is the only description of an option, for readers and for editors.
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", arguments, re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}


class _Toml(GenerateJsonSchema):
    """Pydantic's generator without null, which TOML lacks, and without titles, which repeat the keys."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        generated = super().default_schema(schema)
        if generated.get("default", ...) is None or isinstance(generated.get("default"), dict):
            del generated["default"]
        return generated

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def generate(self, schema: Any, mode: Any = "validation") -> JsonSchemaValue:
        generated = super().generate(schema, mode)
        for table in (generated, *generated.get("$defs", {}).values()):
            table.pop("title", None)
        return generated
