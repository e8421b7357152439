"""Preset files: what one may hold, and the tables that its parameters give."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest

from fanout import ConfigError
from fanout.presets import load_preset, merged, preset_names
from fanout.presets.file import FOLDER

if TYPE_CHECKING:
    from pathlib import Path

OWN = """
description = "A model of ours"
documentation = "https://wiki.example/model"
checked = 2026-11-30
path = "/m/{{parameters.model}}/predict?v={{parameters.version}}"

[parameters.model]
type = "string"
meaning = "Name of the model."

[parameters.version]
type = "integer"
default = 2
meaning = "Version of the API."

[parameters.options]
type = "object"
optional = true
meaning = "Options of the model."

[parameters.prompt]
type = "string"
optional = true
meaning = "Text before each row."

[headers]
X-Team = "{{parameters.model}}"

[codec]
extra.model = "{{parameters.model}}"
extra.version = "{{parameters.version}}"
extra.more = { options = "{{parameters.options}}" }

[given.prompt.codec]
answers = "rows"
extra = { prompt = "Say: {{parameters.prompt}}" }

[chunks]
rows = 8
"""


@pytest.fixture
def own(tmp_path: Path):
    """Write a preset of one's own and load it, with some text replaced."""

    def write(text: str = OWN, **replaced: str):
        for old, new in replaced.items():
            text = text.replace(old, new)
        (tmp_path / "own.toml").write_text(text, "utf-8")
        return load_preset("./own.toml", tmp_path)

    return write


def refused(own, text: str) -> str:
    """Return the message for a preset with a certain text, without the name of its file."""
    with pytest.raises(ConfigError) as error:
        own(text)
    assert error.value.key == "preset"
    place, _, message = str(error.value).partition(": ")
    assert place.endswith("own.toml")
    return message


def test_parameters_fill_path_headers_and_codec_with_their_types(own):
    path, tables = own().fill({"model": "a b/c", "options": {"k": [1]}})
    assert path == "/m/a%20b%2Fc/predict?v=2"
    assert tables["headers"] == {"X-Team": "a b/c"}
    assert tables["codec"]["extra"] == {"model": "a b/c", "version": 2, "more": {"options": {"k": [1]}}}
    assert tables["chunks"] == {"rows": 8}


def test_a_key_without_a_value_is_left_out_and_so_is_a_table_of_which_nothing_remains(own):
    _, tables = own().fill({"model": "m"})
    assert tables["codec"] == {"extra": {"model": "m", "version": 2}}


def test_further_tables_count_if_their_parameter_is_given(own):
    _, tables = own().fill({"model": "m", "prompt": "Hi {{parameters.model}}"})
    assert tables["codec"]["answers"] == "rows"
    # The value of a parameter is not searched for other parameters.
    assert tables["codec"]["extra"]["prompt"] == "Say: Hi {{parameters.model}}"
    assert tables["codec"]["extra"]["model"] == "m"


def test_keys_of_the_codec_override_the_preset_and_tables_are_merged(own):
    _, tables = own().fill({"model": "m", "answers": "x", "extra": {"version": 3, "mode": "fast"}})
    assert tables["codec"]["answers"] == "x"
    assert tables["codec"]["extra"] == {"model": "m", "version": 3, "mode": "fast"}


def test_filling_a_preset_does_not_change_it(own):
    preset = own()
    first = preset.fill({"model": "m", "extra": {"mode": "fast"}})
    assert first != preset.fill({"model": "m"})
    assert first == preset.fill({"model": "m", "extra": {"mode": "fast"}})


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, ("model", "is missing: Name of the model.")),
        ({"modle": "m"}, ("model", 'is missing: Name of the model. Is "modle" a misspelling of it?')),
        ({"model": 3}, ("model", "must be a string, not a whole number")),
        ({"model": True}, ("model", "must be a string, not true or false")),
        ({"model": "m", "version": True}, ("version", "must be a whole number, not true or false")),
        ({"model": "m", "version": 2.5}, ("version", "must be a whole number, not a number")),
        ({"model": "m", "options": [1]}, ("options", "must be a table, not a list")),
        ({"model": ".."}, ("model", "must be a name, since it is a part of the URL's path")),
        ({"model": ""}, ("model", "must be a name, since it is a part of the URL's path")),
    ],
)
def test_a_wrong_parameter_is_named_with_the_reason(own, options, problem):
    assert list(own().problems(options)) == [problem]


def test_every_problem_is_reported_at_once(own):
    assert [name for name, _ in own().problems({"version": "x", "prompt": 1})] == ["model", "version", "prompt"]


def test_a_value_that_is_no_choice_is_refused_with_the_choices(own):
    preset = own(OWN.replace("default = 2", "default = 2\nchoices = [1, 2]"))
    assert not list(preset.problems({"model": "m", "version": 1}))
    assert list(preset.problems({"model": "m", "version": 3})) == [("version", "must be one of 1, 2, not 3")]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('path = "/m/', 'path = "http://evil.example/m/', "path: must begin with one /"),
        ('path = "/m/', 'path = "//evil.example/m/', "path: must begin with one /"),
        ("answers", 'webhook = "https://evil.example"\nanswers', "given.prompt.: a preset names no host"),
        ('"A model of ours"', '"ok"\n[endpoint]\nurl = "http://evil.example"', "endpoint: unknown key"),
        ('X-Team = "', 'X-Team = "${AWS_SECRET_ACCESS_KEY}', "a preset reads no environment"),
        ("default = 2", 'default = "${HOME}"', "parameters.version.default: must be a whole number"),
        ("[chunks]", '[auth]\ntoken = "secret"\n[chunks]', "auth.token: belongs in the job file"),
        ("[chunks]", '[auth]\ntype = "command"\n[chunks]', "auth.type: a preset runs no command"),
        ("[chunks]", '[auth]\ncommand = ["id"]\n[chunks]', "auth.command: belongs in the job file"),
        ("[codec]", '[codec]\nname = "evil.py:Codec"', "codec.name: a preset imports no code"),
        ("[codec]", "[codek]", 'codek: unknown key; did you mean "codec"?'),
        ('type = "integer"', 'type = "int"', "parameters.version.type: must be one of"),
        ('meaning = "Version of the API."', "", "parameters.version.meaning: is missing"),
        ("default = 2", 'default = "2"', "parameters.version.default: must be a whole number, not a string"),
        ("default = 2", "default = 2\noptional = true", "parameters.version: has a default"),
        ("default = 2", "default = 2\nrange = 3", "parameters.version.range: unknown key"),
        ("[parameters.version]", "[parameters.name]", "parameters.name: write another name"),
        ("checked = 2026-11-30", 'checked = "2026-11-30"', "checked: must be a date"),
        ("v={{parameters.version}}", "v={{parameters.vers}}", "{{parameters.vers}} is not declared"),
        ("v={{parameters.version}}", "v={{parameters.prompt}}", "{{parameters.prompt}} is optional"),
        ("[given.prompt.codec]", "[given.promt.codec]", "given.promt: is no parameter"),
        ("[given.prompt.codec]", "[given.prompt.codek]", "given.prompt.codek: unknown key"),
        ('extra.more = { options = "{{parameters.options}}" }', "", "parameters.options: is not used"),
        ("[chunks]", "[chunks", "line 38: not valid TOML"),
        ("[codec]\nextra", "[codec.extra]\nextra", ""),
    ],
)
def test_a_file_that_is_no_preset_is_refused_with_the_key_at_fault(own, old, new, message):
    assert OWN.count(old) >= 1
    if message:
        assert message in refused(own, OWN.replace(old, new))
    else:
        own(OWN.replace(old, new))


def test_a_parameter_that_may_be_missing_can_be_a_part_of_a_text_where_it_is_given(own):
    assert "Say: {{parameters.prompt}}" in OWN
    own()


def test_an_unknown_name_names_the_nearest_preset():
    with pytest.raises(ConfigError, match="there is no preset 'azure-openai-chatt'; did you mean 'azure-openai-chat'"):
        load_preset("azure-openai-chatt")
    with pytest.raises(ConfigError, match="there is no preset 'x'; fanout presets lists them"):
        load_preset("x")


def test_a_missing_file_names_a_similar_one(own, tmp_path):
    own()
    with pytest.raises(ConfigError, match=r'there is no preset .*owm\.toml; did you mean ".*own\.toml"'):
        load_preset("owm.toml", tmp_path)


def test_merging_keeps_both_tables():
    base, over = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2]}, "d": {"e": 1}}
    assert merged(base, over) == {"a": {"b": 1, "c": [2]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 1}


@pytest.mark.parametrize("name", preset_names())
def test_a_packaged_preset_says_what_it_is_and_when_it_was_checked(name):
    preset = load_preset(name)
    assert preset.description
    assert not preset.description.endswith(".")
    assert preset.documentation.startswith("https://")
    # A preset that was not compared with anything that its vendor publishes has no date.
    assert (preset.checked is not None) == preset.source.startswith("https://")
    assert preset.checked is None or date(2026, 11, 1) <= preset.checked
    assert all(one.meaning.endswith(".") for one in preset.parameters.values())


def test_the_packaged_presets_are_files_of_the_package():
    assert {path.name for path in FOLDER.glob("*.toml")} == {f"{name}.toml" for name in preset_names()}
