"""The schema of a model's answers: a table of fields, a JSON Schema or a pydantic model, to outputs with dtypes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fanout.codecs._json_schema import KEY, SchemaType
from fanout.codecs._options import require_keys
from fanout.codecs._rows import json_text
from fanout.codecs._values import Unfit, Wanted, array
from fanout.errors import ConfigError
from fanout.types import TensorSpec

if TYPE_CHECKING:
    from fanout.types import Array

_TYPES = {
    "str": "string", "int": "integer", "float": "number", "bool": "boolean", "list": "array", "object": "object",
}  # fmt: skip
_KEYWORDS = {
    "min": "minimum", "max": "maximum", "min_length": "minLength", "max_length": "maxLength", "pattern": "pattern",
    "min_items": "minItems", "max_items": "maxItems", "enum": "enum", "description": "description",
}  # fmt: skip
_KEYS = ("type", "null", "items", "fields", *_KEYWORDS)
_STRING = np.dtypes.StringDType()
_DTYPES: dict[str, np.dtype[Any]] = {
    "string": _STRING, "integer": np.dtype(np.int64), "number": np.dtype(np.float64), "boolean": np.dtype(np.bool_),
}  # fmt: skip


class _Output(NamedTuple):
    """One field of the answers as an output."""

    spec: TensorSpec
    is_json: bool = False
    """A value of any shape, kept as JSON text."""

    keeps_null: bool = False
    """Null becomes NaN or an empty text."""

    def array(self, value: Any) -> Array:
        """The value of one row, shape (1, ...). Raises `Unfit`."""
        if self.is_json:
            return array([json_text(value)], Wanted(_STRING))
        # An array of texts has no missing value.
        if value is None and self.spec.dtype == _STRING:
            value = ""
        return array([value], Wanted(self.spec.dtype, nulls=self.keeps_null))


class AnswerSchema:
    """Reads answers, and makes an output of each field.

    Raises `ConfigError` for a schema that cannot be used. The message names the place.

    Args:
        schema: name -> field, a table with ``type`` (``"str"``, ``"int"``, ``"float"``, ``"bool"``, ``"list"``,
            ``"object"``), ``enum``, ``min``, ``max``, ``min_length``, ``max_length``, ``pattern``, ``items``,
            ``min_items``, ``max_items``, ``fields``, ``null``, ``description``, or the type alone; a JSON Schema of
            an object, or the path of a file with one; or a pydantic model.
    """

    def __init__(self, schema: object) -> None:
        # By its attributes: importing pydantic would slow down everyone who gives a table.
        model = schema if hasattr(schema, "model_validate_json") else None
        self.document = _json_schema(schema)
        """The JSON Schema as it was given, or read from a file."""

        checked = SchemaType(self.document)
        self.schema = checked.schema
        """The strict JSON Schema."""

        self.identity: Any = self.schema if model is None else [self.schema, model]
        """Distinguishes it from other schemas. A model may have validators, which are in no JSON Schema."""

        properties = self.schema.get("properties")
        if self.schema.get("type", "object") != "object" or not isinstance(properties, Mapping) or not properties:
            raise ConfigError("schema must describe an object with at least one field", key=KEY)
        self.outputs = {name: _output(one) for name, one in properties.items()}
        # APIs differ in the characters that the name of a schema or a tool may have: all accept letters and digits.
        self.name = (
            "".join(c for c in str(self.schema.get("title", "answer")) if c.isascii() and c.isalnum()) or "answer"
        )
        self._read: Callable[[str], Any] = checked.validator() if model is None else _reader(model)

    @property
    def spec(self) -> dict[str, TensorSpec]:
        """Output name -> dtype and shape."""
        return {name: output.spec for name, output in self.outputs.items()}

    @property
    def keeps_null(self) -> bool:
        """True if NaN stands for null in an output."""
        return any(output.keeps_null for output in self.outputs.values())

    def read(self, text: str) -> dict[str, Any]:
        """The answer in a text. Raises ValueError with the fault, and its place in the answer."""
        try:
            answer: dict[str, Any] = self._read(text)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        return answer

    def arrays(self, answer: Mapping[str, Any]) -> dict[str, Array]:
        """The outputs of one row, each of shape (1, ...). Raises ValueError for a value that no dtype holds."""
        arrays = {}
        for name, output in self.outputs.items():
            try:
                arrays[name] = output.array(answer[name])
            except Unfit as error:
                raise ValueError(f"it {error.args[0]} - at `$.{name}`") from None
        return arrays

    def example(self) -> Any:
        """An answer that has the form of the schema, for mocks."""
        return _example(self.schema)


def _json_schema(schema: object) -> Mapping[str, Any]:
    if isinstance(schema, str | Path):
        return _from_file(Path(schema))
    if isinstance(schema, _Document):
        return schema
    if hasattr(schema, "model_json_schema"):
        model_schema: Mapping[str, Any] = schema.model_json_schema()
        return model_schema
    if not isinstance(schema, Mapping) or not schema:
        raise ConfigError(
            f"schema must be a table of fields, a JSON Schema, the path of a file with one, or a pydantic model, not "
            f"{schema!r}",
            key=KEY,
        )
    # A table of fields may have a field called "type" or "properties", but hardly both in these forms.
    is_json_schema = "$ref" in schema or (
        schema.get("type") == "object" and isinstance(schema.get("properties"), Mapping)
    )
    return schema if is_json_schema else _object(schema, KEY)


class _Document(dict[str, Any]):
    """A JSON Schema that was read from a file, which may have no ``type``."""


def _from_file(path: Path) -> Mapping[str, Any]:
    try:
        schema = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"schema cannot be read from {path}: {error}", key=KEY) from None
    if not isinstance(schema, Mapping):
        raise ConfigError(f"schema in {path} must be an object, the JSON Schema of an answer", key=KEY)
    return _Document(schema)


def _object(fields: Mapping[str, Any], at: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: _field(one, f"{at}.{name}") for name, one in fields.items()}}


def _field(field: object, at: str) -> dict[str, Any]:
    """The JSON Schema of one field of a table."""
    table = {"type": field} if isinstance(field, str) else field
    if not isinstance(table, Mapping) or table.get("type") not in _TYPES:
        kind = table.get("type") if isinstance(table, Mapping) else table
        raise ConfigError(f"{at} must have a type, one of {', '.join(_TYPES)}, not {kind!r}", key=KEY)
    require_keys(at, table, _KEYS, KEY)
    kind, null = _TYPES[table["type"]], table.get("null", False)
    if not isinstance(null, bool):
        raise ConfigError(f"{at}.null must be true or false, not {null!r}", key=KEY)
    schema: dict[str, Any] = {"type": [kind, "null"] if null else kind}
    schema |= {_KEYWORDS[key]: value for key, value in table.items() if key in _KEYWORDS}
    # An enum lists all values, whatever the types say.
    if null and isinstance(schema.get("enum"), list):
        schema["enum"] = [*schema["enum"], None]
    if kind == "array":
        schema["items"] = _field(table.get("items", "str"), f"{at}.items")
    if kind == "object":
        if not isinstance(table.get("fields"), Mapping) or not table["fields"]:
            raise ConfigError(f"{at} must have fields, a table of its own fields", key=KEY)
        schema |= {**_object(table["fields"], at), "type": schema["type"]}
    return schema


def _output(schema: Mapping[str, Any]) -> _Output:
    """The output of a field: a plain value in its dtype, a list of fixed length as an array, others as JSON text."""
    kinds = _kinds(schema)
    null = "null" in kinds
    shape: tuple[int, ...] = ()
    if kinds == {"array"} and schema.get("minItems") == schema.get("maxItems", -1):
        kinds, shape = _kinds(schema.get("items", {})), (int(schema["minItems"]),)
    plain = kinds - {"null"}
    kind = "number" if plain == {"number", "integer"} else next(iter(plain)) if len(plain) == 1 else ""
    # Whole numbers have no place for null, floats have NaN.
    if null and kind == "integer":
        kind = "number"
    # Bools and arrays have no place for null either, and none of their values could stand for it.
    if kind not in _DTYPES or (null and (kind == "boolean" or shape)) or (shape and "null" in kinds):
        return _Output(TensorSpec(dtype=_STRING, shape=()), is_json=True)
    return _Output(TensorSpec(dtype=_DTYPES[kind], shape=shape), keeps_null=null and kind == "number")


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a strict schema accepts; empty if it accepts any."""
    if "anyOf" in schema:
        return {kind for one in schema["anyOf"] for kind in _kinds(one)}
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        # By the exact type: True is an instance of int.
        return {{str: "string", int: "integer", type(None): "null"}.get(type(value), "") for value in values}
    kinds = schema.get("type", "object" if "properties" in schema else ())
    return {kinds} if isinstance(kinds, str) else set(kinds)


def _reader(model: Any) -> Callable[[str], Any]:
    """A function that reads a text by a pydantic model, without conversions from another type."""

    def read(text: str) -> Any:
        try:
            return model.model_validate_json(text, strict=True).model_dump(mode="json", by_alias=True)
        except ValueError as error:
            faults = error.errors(include_url=False) if hasattr(error, "errors") else ()
            shown = "; ".join(f"{one['msg']} - at `$.{'.'.join(map(str, one['loc']))}`" for one in faults)
            raise ValueError(shown or str(error)) from None

    return read


def _example(schema: Mapping[str, Any]) -> Any:
    if "anyOf" in schema:
        return _example(schema["anyOf"][0])
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    kinds = schema.get("type", "object")
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if kind == "object":
        return {name: _example(one) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"})) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        # A pattern is not followed, so that the validation of a mock's answer may refuse it.
        return "mock".ljust(schema.get("minLength", 0), "k")[: schema.get("maxLength")]
    if kind in ("number", "integer"):
        return _number(schema, whole=kind == "integer")
    return False if kind == "boolean" else None


def _number(schema: Mapping[str, Any], *, whole: bool) -> Any:
    """A number within the bounds of a schema: the lowest, or one between two that are excluded."""
    # The bounds themselves are the simplest numbers that keep them.
    step = schema.get("multipleOf", 1)
    if "minimum" in schema:
        low = schema["minimum"]
        return -(-low // step) * step if whole or "multipleOf" in schema else low
    if "exclusiveMinimum" in schema:
        low, high = schema["exclusiveMinimum"], schema.get("exclusiveMaximum", schema.get("maximum"))
        return (low // step + 1) * step if whole or high is None else (low + high) / 2
    if "maximum" in schema:
        return min(0, schema["maximum"] // step * step)
    return min(0, (schema["exclusiveMaximum"] - 1) // step * step) if "exclusiveMaximum" in schema else 0
