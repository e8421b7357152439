"""Job files are written as valid TOML, overridden by --set, and changed by --write without any other change."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.errors import ConfigError
from fanout.job import require_writable, write_settings
from fanout.job.edit import Draft, override, rewritten, toml

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ('"8"', "8"),
        ('["a", "b"]', ["a", "b"]),
        ("{ A = 1 }", {"A": 1}),
        ("out/y.npy", "out/y.npy"),
        ("https://host/a?b=c", "https://host/a?b=c"),
        ("", ""),
        ("2024-01-31", "2024-01-31"),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_value_is_toml_or_else_a_string(text, value):
    tables: dict[str, object] = {}
    assert override(tables, f"a.b={text}") == ("a", "b")
    assert tables == {"a": {"b": value}}


def test_a_key_that_is_there_is_replaced_and_its_neighbours_stay():
    tables = {"a": {"b": 1, "c": 2}}
    override(tables, "a.b=3")
    assert tables == {"a": {"b": 3, "c": 2}}


def test_keys_may_be_quoted():
    tables: dict[str, object] = {}
    override(tables, 'endpoint.headers."X-A.B"=v')
    assert tables == {"endpoint": {"headers": {"X-A.B": "v"}}}


@pytest.mark.parametrize("setting", ["", "=1", "a.b", "a b=1", "a..b=1", "[a]\nb=1"])
def test_an_invalid_setting_is_refused_with_an_example(setting):
    with pytest.raises(ConfigError, match=r"KEY\.PATH=VALUE"):
        override({}, setting)


def test_a_key_inside_a_value_that_is_no_table_is_refused():
    with pytest.raises(ConfigError, match="a is not a table"):
        override({"a": 1}, "a.b=1")


EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
FOUND = {"chunks.rows": 512, "limits.concurrency": 8}


def test_in_the_example_two_values_change_and_nothing_else():
    before = EXAMPLE.read_text("utf-8")
    after = rewritten(before, FOUND)
    assert before.count("rows = 64 ") == before.count("concurrency = 16 ") == 1
    assert after == before.replace("rows = 64 ", "rows = 512 ").replace("concurrency = 16 ", "concurrency = 8 ")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("limits = { concurrency = 16, max_requests = 9 } # l\nchunks.rows = 1\n",
         "limits = { concurrency = 8, max_requests = 9 } # l\nchunks.rows = 512\n"),
        ("[chunks]\r\nrows = 6_4 # é\r\n[limits]\r\nconcurrency=16\r\n",
         "[chunks]\r\nrows = 512 # é\r\n[limits]\r\nconcurrency=8\r\n"),
        ("[output]\npath = 'y' # last",
         "[output]\npath = 'y' # last\n[chunks]\nrows = 512\n\n[limits]\nconcurrency = 8\n"),
        ("[limits]\n# only this\n\n[output]\npath = 'y'\n", None),
        ('[limits]\nconcurrency = "auto"\n', None),
    ],
)  # fmt: skip
def test_other_forms_are_kept_too(before, after):
    changed = rewritten(before, FOUND)
    if after is not None:
        assert changed == after
    wanted = tomllib.loads(before)
    wanted.setdefault("chunks", {})["rows"], wanted.setdefault("limits", {})["concurrency"] = 512, 8
    assert tomllib.loads(changed) == wanted


@given(st.integers(1, 10**6), st.integers(1, 999), st.booleans())
def test_written_values_are_read_again_and_writing_them_twice_changes_nothing(rows, concurrency, missing):
    text = "# a job\n[output]\npath = 'y'\n" if missing else EXAMPLE.read_text("utf-8")
    settings = {"chunks.rows": rows, "limits.concurrency": concurrency}
    once = rewritten(text, settings)
    tables = tomllib.loads(once)
    assert (tables["chunks"]["rows"], tables["limits"]["concurrency"]) == (rows, concurrency)
    assert rewritten(once, settings) == once


def test_the_file_keeps_its_mode_and_the_link_that_leads_to_it(tmp_path):
    real = tmp_path / "real.toml"
    real.write_text("[limits]\nconcurrency = 16\n", "utf-8")
    real.chmod(0o640)
    link = tmp_path / "job.toml"
    link.symlink_to("real.toml")
    write_settings(link, {"limits.concurrency": 8})
    assert link.is_symlink()
    assert real.read_text("utf-8") == "[limits]\nconcurrency = 8\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.toml", "real.toml"]


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "job.toml"
    file.write_text("[limits]\nconcurrency = 16\n", "utf-8")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ConfigError, match=r"job.toml: cannot be written: No space left on device"):
        write_settings(file, FOUND)
    assert file.read_text("utf-8") == "[limits]\nconcurrency = 16\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_form_that_cannot_be_changed_is_refused(tmp_path):
    file = tmp_path / "job.toml"
    file.write_text("[limits\n", "utf-8")
    with pytest.raises(ConfigError, match=r"job.toml: cannot be changed: "):
        write_settings(file, FOUND)


def test_an_edit_that_would_change_something_else_is_refused(monkeypatch):
    monkeypatch.setattr("tomlkit.dumps", lambda document: "[limits]\nconcurrency = 8\n[chunks]\nrows = 512\n")
    with pytest.raises(ValueError, match="set the values by hand"):
        rewritten("[limits]\nconcurrency = 16\nmax_requests = 5\n", FOUND)


def test_a_file_that_cannot_be_written_is_reported_beforehand(tmp_path, monkeypatch):
    file = tmp_path / "job.toml"
    file.write_text("", "utf-8")
    require_writable(file)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ConfigError, match="cannot be written, nor replaced in its folder"):
        require_writable(file)


@given(value=VALUES)
def test_every_value_is_written_as_toml_reads_it(value):
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}


@given(tables=st.dictionaries(st.sampled_from(["input", "codec"]), st.dictionaries(st.text(max_size=4), VALUES)))
def test_a_draft_holds_what_was_set_with_its_comments(tables):
    draft = Draft(tables=tables, comments={"codec.a": "beside"}, hints={"codec": ("x = 1",)})
    assert tomllib.loads(draft.text()) == tables


def test_a_long_line_has_its_comment_above():
    draft = Draft()
    draft.set("codec", "request", ["x" * 100], "the body")
    draft.set("codec", "name", "json", "the format")
    assert draft.text().endswith(
        '[codec]\n# the body\nrequest = ["' + "x" * 100 + '"]\nname = "json"                     # the format\n'
    )
