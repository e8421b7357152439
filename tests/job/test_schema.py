"""The committed schema and the committed example are those of the code."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pydantic
import pytest
from pydantic_core import PydanticUndefined

import fanout.job.schema as schema_module
from fanout.auth import auth_class, auth_types
from fanout.cli.output import schema_text
from fanout.codecs import Codec, codec_class, names
from fanout.job import JobFile, job_schema, load_job
from fanout.presets import load_preset, preset_names
from fanout.settings import PYTHON_ONLY

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "config.example.toml"


@cache
def current_schema() -> dict[str, Any]:
    """Return the schema, made once for all tests that add no class of their own."""
    return job_schema()


def test_the_committed_schema_is_current():
    committed, text = (ROOT / "fanout.schema.json").read_text(), schema_text() + "\n"
    if tuple(map(int, pydantic.VERSION.split(".")[:2])) < (2, 13):
        # Earlier releases leave out the description of a table that may be missing, and agree on all else.
        committed, text = (re.sub(r'"description": ".*",?', "", one) for one in (committed, text))
        committed, text = ("".join(one.split()) for one in (committed, text))
    assert committed == text, "run: fanout schema > fanout.schema.json"


def test_every_key_is_described_for_the_editor():
    schema = job_schema()
    for table in schema["$defs"].values():
        for key, described in table["properties"].items():
            assert described.get("description"), key


def test_no_key_allows_null_which_toml_has_not():
    assert '"type": "null"' not in schema_text()
    assert '"default": null' not in schema_text()


@pytest.mark.parametrize("name", names())
def test_a_codec_s_options_are_those_of_its_class(name):
    (branch,) = (
        branch["then"]
        for branch in current_schema()["$defs"]["CodecTable"]["allOf"]
        if branch["if"]["properties"].get("name") == {"const": name}
    )
    assert branch["properties"].keys() == {"name", *signature(codec_class(name)).parameters}
    assert branch["additionalProperties"] is False
    assert all("description" in option for key, option in branch["properties"].items() if key != "name")


def rule_of(preset: str) -> dict[str, Any]:
    """Return the keys of ``[codec]`` with a preset."""
    (rule,) = (
        branch["then"]
        for branch in current_schema()["$defs"]["CodecTable"]["allOf"]
        if branch["if"]["properties"].get("preset") == {"const": preset}
    )
    return rule


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_s_keys_are_its_parameters_and_the_options_of_its_codec(name):
    preset, rule = load_preset(name), rule_of(name)
    options = signature(codec_class(preset.tables["codec"].get("name", "json"))).parameters
    assert rule["properties"].keys() == {"name", "preset", *preset.parameters, *options}
    assert set(rule["required"]) == {one.name for one in preset.parameters.values() if one.required}


def test_a_parameter_has_its_type_choices_default_and_meaning():
    keys = rule_of("cohere-embed")["properties"]
    assert keys["output_dimension"]["type"] == "integer"
    assert keys["embedding_type"]["default"] == "float"
    assert "search_query" in keys["input_type"]["enum"]
    assert keys["model"]["description"].startswith("Name of the model")


def test_a_request_needs_no_name():
    assert {"required": ["request"]} in job_schema()["$defs"]["CodecTable"]["anyOf"]


class Foreign(Codec):
    """A codec of another package, with a type that only its own module knows."""

    def __init__(self, knob: Unknown, **more: Any) -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__()


class Required(Codec):
    """A codec with an option that has no default."""

    def __init__(self, *, knob: Unknown) -> None:  # type: ignore[name-defined]  # noqa: F821
        super().__init__()


@pytest.mark.parametrize(
    ("kind", "then"),
    [
        (Foreign, {"properties": {"name": True}}),
        (Required, {"properties": {"name": True, "knob": {}}, "required": ["knob"], "additionalProperties": False}),
    ],
)
def test_a_codec_that_cannot_be_looked_into_allows_any_value(monkeypatch, kind, then):
    monkeypatch.setattr(schema_module, "names", lambda: ["foreign"])
    monkeypatch.setattr(schema_module, "codec_class", lambda name: kind)
    monkeypatch.setattr(schema_module, "preset_names", list)
    (branch,) = job_schema()["$defs"]["CodecTable"]["allOf"]
    assert branch["then"] == then


def defaults(model: Any) -> dict[str, Any]:
    """Key -> default; ``...`` where there is none."""
    if is_dataclass(model):
        keys = [f for f in fields(model) if f.name not in PYTHON_ONLY]
        return {f.name: f.default if f.default is not MISSING else ... for f in keys}
    by_key = {field.alias or name: field.default for name, field in model.model_fields.items()}
    return {name: ... if default is PydanticUndefined else default for name, default in by_key.items()}


@pytest.mark.parametrize("table", list(JobFile.model_fields))
def test_the_example_shows_every_key_with_its_default(table):
    section = EXAMPLE.read_text().partition(f"\n[{table}]\n")[2].partition("\n[")[0]
    shown = tomllib.loads(section)
    for key, default in defaults(JobFile.model_fields[table].annotation).items():
        assert re.search(rf"^(# )?{key} = ", section, re.MULTILINE), f"{table}.{key} is not in the example"
        if default is not ... and default not in (None, "", ()):  # these stand for a key that is left out
            assert shown[key] == default


@pytest.mark.parametrize("name", auth_types())
def test_the_keys_of_a_type_of_authentication_are_those_of_its_class(name):
    rules = {
        rule["if"]["properties"]["type"]["const"]: rule for rule in current_schema()["$defs"]["AuthTable"]["allOf"]
    }
    then = rules[name]["then"]
    assert then["properties"].keys() == {"type", *signature(auth_class(name)).parameters}
    assert then["additionalProperties"] is False
    assert all("description" in key for at, key in then["properties"].items() if at != "type")


def test_the_example_shows_every_option_of_its_codec():
    section = EXAMPLE.read_text().partition("\n[codec]\n")[2].partition("\n[")[0]
    for option in signature(codec_class("oip")).parameters:
        assert re.search(rf"^# {option} = ", section, re.MULTILINE), option
    assert all(f" {name}" in section for name in names())


def test_the_example_is_a_valid_job_also_with_its_comments_taken_away(tmp_path):
    load_job(EXAMPLE)
    # A preset stands in place of the codec's name.
    everything = re.sub(r"^# (?=(?!preset)\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    (tmp_path / "job.toml").write_text(everything)
    environment = dict.fromkeys(("ML_API_KEY", "REDIS_PASSWORD", "SLURM_ARRAY_JOB_ID"), "x")
    assert load_job(tmp_path / "job.toml", environment=environment).tables.limits.max_requests == 10000


def test_the_example_names_its_schema_for_editors():
    assert EXAMPLE.read_text().startswith("#:schema ./fanout.schema.json\n")
