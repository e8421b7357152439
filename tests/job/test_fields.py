"""Paths that are found in an answer are paths by which the codec `json` reads it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import codec
from fanout.job.fields import find_answers
from fanout.types import Response


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        (0.5, {}),
        ("yes", {}),
        ([0.5, 1], {}),
        ({"score": 0.5}, {"score": "score"}),
        ({"a": {"score": 0.5}, "b": {"score": 1}}, {"score": "a.score", "b_score": "b.score"}),
        ({"the label": "x", "n": None}, {"the label": '"the label"'}),
        ({"boxes": [{"x": 1}]}, {"boxes": "boxes"}),
    ],
)
def test_the_answer_to_one_row_is_read_by_its_leaves(answer, outputs):
    found = find_answers(answer, 1, one_row=True)
    assert (found.answers, found.outputs) == (None, outputs)


def test_a_value_without_a_fixed_shape_is_kept_as_json():
    found = find_answers({"boxes": [{"x": 1}], "ragged": [[1], [1, 2]], "p": [1, 2]}, 1, one_row=True)
    assert found.json == ("boxes", "ragged")


def test_the_list_of_answers_has_as_many_items_as_there_are_rows():
    document = {"usage": [1, 2], "data": {"results": [{"index": i, "score": 0.5} for i in range(3)]}}
    found = find_answers(document, 3, one_row=False)
    assert (found.answers, found.outputs) == ("data.results", {"score": "score"})
    assert find_answers(document, 4, one_row=False) is None
    assert find_answers([1, 2, 3], 3, one_row=False).answers is None


LEAVES = st.floats(-1e9, 1e9) | st.booleans() | st.text(max_size=5) | st.lists(st.floats(-9, 9), min_size=1, max_size=4)
ANSWERS = st.dictionaries(
    st.text(min_size=1, max_size=4),
    st.recursive(LEAVES, lambda inner: st.dictionaries(st.text(min_size=1, max_size=4), inner, min_size=1, max_size=3)),
    min_size=1,
    max_size=5,
)


@given(answer=ANSWERS)
def test_the_codec_reads_what_the_paths_name(answer):
    found = find_answers(answer, 1, one_row=True)
    outputs = {
        name: {"path": path, "type": "json"} if name in found.json else path for name, path in found.outputs.items()
    }
    made = codec("json", request="{{row}}", outputs=outputs)
    values = made.decode(Response(status=200, headers={}, body=orjson.dumps(answer)), 1)
    assert set(values) == set(found.outputs)
