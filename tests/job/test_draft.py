"""A draft is a valid TOML file with the values that were set."""

from __future__ import annotations

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from fanout.job.edit import Draft, toml

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


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
