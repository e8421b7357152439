"""JSON Schemas of a model's answers: what servers accept in strict mode, and validators made of them by msgspec.

https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, Union

from fanout.errors import ConfigError

Schema: TypeAlias = Mapping[str, Any]

KEY = "schema"
"""The option of codecs that holds a schema."""

_NOTES = frozenset({
    "title", "description", "default", "example", "examples", "deprecated", "format", "$schema", "$id", "$comment",
    "$defs", "definitions", "discriminator", "readOnly", "writeOnly",
})  # fmt: skip
"""Keywords that describe a value, and do not restrict it."""

_BOUNDS = {
    "minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt", "multipleOf": "multiple_of",
    "minLength": "min_length", "maxLength": "max_length", "pattern": "pattern",
    "minItems": "min_length", "maxItems": "max_length",
}  # fmt: skip
"""Keyword -> the constraint of msgspec that means the same."""

_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OF_TYPE: dict[str, tuple[str, ...]] = {
    "string": ("minLength", "maxLength", "pattern"),
    "integer": _NUMBER,
    "number": _NUMBER,
    "array": ("items", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
    "boolean": (),
    "null": (),
}
"""Type -> its keywords."""


class SchemaType:
    """A JSON Schema, resolved and strict: every property is required, and no other is allowed.

    Raises `ConfigError` for a schema that is recursive, or has a keyword which is not supported, with its place.
    """

    def __init__(self, schema: Schema) -> None:
        self._root = schema
        self.schema: dict[str, Any] = self._strict(schema, KEY, ())
        """The schema without references."""

    def validator(self) -> Callable[[str], Any]:
        """A function that reads a JSON text as this schema has it: plain dicts, lists, texts and numbers.

        The function raises ValueError, whose message names the place of the fault in the text, or RecursionError.
        """
        import msgspec  # imported with the first codec that needs it

        try:
            decoder = msgspec.json.Decoder(self._type(self.schema, KEY))
        except ConfigError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"{KEY} cannot be checked: {error}", key=KEY) from None
        return lambda text: msgspec.to_builtins(decoder.decode(text))

    def _strict(self, schema: object, at: str, seen: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(schema, Mapping):
            raise ConfigError(f"{at} must be a table with a type, not {schema!r}", key=KEY)
        if "$ref" in schema:
            name = schema["$ref"]
            if name in seen:
                raise ConfigError(f"{at} refers to itself by {name!r}, but answers have a fixed depth", key=KEY)
            rest = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
            return self._strict({**self._resolved(name, at), **rest}, at, (*seen, str(name)))
        if isinstance(schema.get("allOf"), list) and len(schema["allOf"]) == 1:  # pydantic wraps a reference like this
            rest = {keyword: value for keyword, value in schema.items() if keyword != "allOf"}
            return self._strict({**schema["allOf"][0], **rest}, at, seen)
        # The same choice by another name: answers are validated against the first that fits.
        choices = schema.get("anyOf", schema.get("oneOf"))
        strict = {keyword: value for keyword, value in schema.items() if keyword not in ("$defs", "definitions")}
        if choices is not None:
            # The structured outputs of OpenAI know anyOf alone.
            strict.pop("oneOf", None)
            strict["anyOf"] = [self._strict(one, f"{at}.anyOf[{i}]", seen) for i, one in enumerate(choices)]
        if "items" in schema:
            strict["items"] = self._strict(schema["items"], f"{at}.items", seen)
        if isinstance(properties := schema.get("properties"), Mapping):
            strict["properties"] = {
                name: self._strict(one, f"{at}.properties.{name}", seen) for name, one in properties.items()
            }
            # Strict schemas of OpenAI have both; the types of the properties say which of them may be null.
            strict["required"], strict["additionalProperties"] = list(properties), False
        elif isinstance(schema.get("additionalProperties"), Mapping):
            inner = schema["additionalProperties"]
            strict["additionalProperties"] = self._strict(inner, f"{at}.additionalProperties", seen)
        return strict

    def _resolved(self, name: object, at: str) -> Schema:
        # Only references within the schema: no other document is ever fetched.
        subschema: Any = self._root
        for part in str(name).removeprefix("#/").split("/"):
            subschema = subschema.get(part) if isinstance(subschema, Mapping) else None
        if not str(name).startswith("#/") or not isinstance(subschema, Mapping):
            raise ConfigError(f"{at} refers to {name!r}, which the schema does not have", key=KEY)
        return subschema

    def _type(self, schema: Schema, at: str) -> Any:
        """The type of msgspec that accepts the values of a strict schema."""
        if "anyOf" in schema:
            self._require_known(schema, ("anyOf",), at)
            if sum("properties" in one or one.get("type") == "object" for one in schema["anyOf"]) > 1:
                raise ConfigError(f"{at}.anyOf has more than one object: make one of them, or a model", key=KEY)
            return Union[tuple(self._type(one, f"{at}.anyOf[{i}]") for i, one in enumerate(schema["anyOf"]))]  # noqa: UP007
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        if values is not None:
            self._require_known(schema, ("const", "enum", "type"), at)
            if not isinstance(values, list) or not values or not {*map(type, values)} <= {str, int, type(None)}:
                raise ConfigError(f"{at}.enum must be a list of texts or whole numbers", key=KEY)
            return Literal[tuple(values)]
        kinds = schema.get("type", "object" if "properties" in schema else None)
        if kinds is None:
            self._require_known(schema, (), at)
            return Any
        listed = kinds if isinstance(kinds, list) else [kinds]
        for kind in listed:
            if kind not in _OF_TYPE:
                raise ConfigError(f"{at}.type must be one of {', '.join(_OF_TYPE)}, not {kind!r}", key=KEY)
        self._require_known(schema, ("type", *(keyword for kind in listed for keyword in _OF_TYPE[kind])), at)
        return Union[tuple(self._of_kind(kind, schema, at) for kind in listed)]  # noqa: UP007

    def _of_kind(self, kind: str, schema: Schema, at: str) -> Any:
        import msgspec

        plain: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": None}
        if kind == "object":
            return self._object(schema, at)
        one = list[self._type(schema.get("items", {}), f"{at}.items")] if kind == "array" else plain[kind]  # type: ignore[misc]
        bounds = {
            _BOUNDS[keyword]: schema[keyword] for keyword in _OF_TYPE[kind] if keyword in schema and keyword in _BOUNDS
        }
        if kind == "integer" and not all(isinstance(bound, int) for bound in bounds.values()):
            raise ConfigError(f"{at} has whole numbers, so its bounds must be whole, too", key=KEY)
        try:
            return Annotated[one, msgspec.Meta(**bounds)] if bounds else one
        except (TypeError, ValueError, re.error) as error:
            raise ConfigError(f"{at} has a bound that cannot be used: {error}", key=KEY) from None

    def _object(self, schema: Schema, at: str) -> Any:
        import msgspec

        properties = schema.get("properties")
        if properties is None:
            inner = schema.get("additionalProperties")
            return dict[str, self._type(inner, f"{at}.additionalProperties") if isinstance(inner, Mapping) else Any]  # type: ignore[misc]
        # A property may have any name, a field of a class may not.
        names = {f"field_{i}": name for i, name in enumerate(properties)}
        fields = [(field, self._type(properties[name], f"{at}.properties.{name}")) for field, name in names.items()]
        return msgspec.defstruct("Answer", fields, rename=names, forbid_unknown_fields=True)

    def _require_known(self, schema: Schema, known: Sequence[str], at: str) -> None:
        for keyword in schema:
            if keyword not in known and keyword not in _NOTES:
                raise ConfigError(
                    f"{at} has the keyword {keyword!r}, which is not supported here: leave it out, and check it in a "
                    "function that validate names",
                    key=KEY,
                )
