"""Answers at a name or a JMESPath, and items that state their row."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.codecs import V1, Json, in_row_order
from fanout.codecs._paths import Path
from fanout.errors import InvalidResponse

SCORES = [0.5, 0.1, 0.9, 0.3]
RANKED = [{"index": i, "relevance_score": SCORES[i], "labels": [i], "all": [i, i + 0.5]} for i in (2, 0, 3, 1)]


def values(response, field, document, n=4, **options):
    return Json(answers=field, **options).decode(response(document), n)


@pytest.mark.parametrize(
    "field",
    [
        "results[].relevance_score",
        "results[*].relevance_score",
        "results[?relevance_score > `0`].relevance_score",
        "results[0:4].relevance_score",
        "results[::-1].relevance_score",
        "(results)[*].relevance_score",
        "results | [*].relevance_score",
        "results[*] | [*].relevance_score",
        "map(&relevance_score, results)",
        "results[*].[relevance_score][]",
        "sort_by(results, &relevance_score)[].relevance_score",
        "sort_by(results, &relevance_score) | [*].relevance_score",
        "results[].not_null(missing, relevance_score)",
    ],
)
def test_items_are_placed_by_their_index(response, field):
    assert values(response, field, {"results": RANKED}).tolist() == SCORES


@pytest.mark.parametrize("field", ["results", "results[]", "results[*]", "sort_by(results, &score)"])
def test_objects_are_placed_by_an_index_that_is_no_output(response, field):
    document = {"results": [{"index": item["index"], "score": item["relevance_score"]} for item in RANKED]}
    result = values(response, field, document)
    assert {name: column.tolist() for name, column in result.items()} == {"score": SCORES}


def test_a_document_that_is_a_list_of_items(response):
    document = [{"index": item["index"], "score": item["relevance_score"]} for item in RANKED]
    assert values(response, "[].score", document).tolist() == SCORES
    assert values(response, "@", document)["score"].tolist() == SCORES


def test_several_parts_of_items_are_placed_alike(response):
    result = values(response, "{s: results[].relevance_score, a: results[*].all}", {"results": RANKED})
    assert result["s"].tolist() == SCORES
    assert result["a"].tolist() == [[i, i + 0.5] for i in range(4)]
    pairs = values(response, "results[].[index, relevance_score]", {"results": RANKED})
    assert pairs.tolist() == [[i, score] for i, score in enumerate(SCORES)]


@pytest.mark.parametrize(
    ("indices", "match"),
    [
        ([0, 1, 1, 3], "no item with the index 2.*twice"),
        ([0, 1, 2, 4], "no item with the index 3"),
        ([1, 2, 3, 4], "no item with the index 0"),
        ([0, 1, 2, -1], "no item with the index 3"),
        ([0, 1, None, None], "no index in 2 of 4 items"),
        ([0, 1, 2, 3.0], "no whole number"),
        ([0, 1, 2, "3"], "no whole number"),
        ([0, True, 2, 3], "no whole number"),
        ([0, 1, None, 4], "no item"),
    ],
)
@pytest.mark.parametrize("field", ["results[].y", "results", "map(&y, results)"])
def test_indices_that_are_no_order_are_invalid(response, indices, match, field):
    document = {"results": [{"index": index, "y": 1} for index in indices]}
    with pytest.raises(InvalidResponse, match=match) as caught:
        values(response, field, document)
    assert "codec.order" in str(caught.value)
    items = [{"index": index} for index in indices]
    with pytest.raises(InvalidResponse, match=match):
        in_row_order(items)


@pytest.mark.parametrize("field", ["results[].y", "results"])
def test_a_single_item_without_index_takes_the_place_that_is_left(response, field):
    document = {"results": [{"index": 2, "y": 2}, {"y": 1}, {"index": 0, "y": 0}]}
    result = values(response, field, document, 3)
    assert (result["y"] if field == "results" else result).tolist() == [0, 1, 2]


def test_items_without_an_index_are_in_order(response):
    assert values(response, "a[].y", {"a": [{"y": 3}, {"y": 1}]}, 2).tolist() == [3, 1]
    assert values(response, "a[].y", {"a": [{"y": 3, "index": None}, {"y": 1, "index": None}]}, 2).tolist() == [3, 1]


def test_an_index_that_is_the_models_is_left_alone(response):
    document = {"results": [{"index": 7, "y": 0.5}, {"index": 7, "y": 0.25}]}
    result = values(response, "results", document, 2, order="position")
    assert (result["index"].tolist(), result["y"].tolist()) == ([7, 7], [0.5, 0.25])
    assert values(response, "results[].index", document, 2).tolist() == [7, 7]
    assert values(response, "results", {"results": [{"index": 7}, {"index": 7}]}, 2)["index"].tolist() == [7, 7]
    predictions = response({"predictions": [{"index": 1, "y": 0.5}, {"index": 0, "y": 0.25}]})
    assert V1().decode(predictions, 2)["index"].tolist() == [1, 0]


def test_the_field_of_the_index_is_an_option(response):
    document = {"results": [{"document": 1, "y": 1, "index": 5}, {"document": 0, "y": 0, "index": 5}]}
    assert values(response, "results[].y", document, 2, order="document").tolist() == [0, 1]


def test_an_index_within_a_row_is_no_row_number(response):
    items = [{"best": {"index": 5, "p": 0.5}, "top": [{"index": 3, "p": i}]} for i in range(3)]
    assert values(response, "r[].best", {"r": items}, 3)["index"].tolist() == [5, 5, 5]
    assert values(response, "r[*].top[].p", {"r": items}, 3).tolist() == [0, 1, 2]
    assert values(response, "r[*].top[*].p", {"r": items}, 3).tolist() == [[0], [1], [2]]
    assert values(response, "map(&top[0].p, r)", {"r": items}, 3).tolist() == [0, 1, 2]
    assert values(response, "map(&max_by(top, &p).p, r)", {"r": items}, 3).tolist() == [0, 1, 2]


def test_an_object_with_numbers_for_keys_is_in_their_order(response):
    """As programs write maps: by the text of their keys."""
    document = {"results": {str(i): {"y": i} for i in sorted(range(12), key=str)}}
    assert values(response, "results.*.y", document, 12).tolist() == list(range(12))
    with pytest.raises(InvalidResponse, match="index 0"):
        values(response, "results.*.y", {"results": {"1": {"y": 1}, "2": {"y": 2}}}, 2)
    assert values(response, "results.*.y", {"results": {"a": {"y": 1}, "b": {"y": 2}}}, 2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("field", "items"),
    [
        ("r[].y", [{"y": 1}, {}, {"y": 3}, {"y": 4}]),
        ("r[*].y", [{"y": 1}, {"y": None}, {"y": 3}]),
        ("r[].y.z", [{"y": {"z": 1}}, {"y": {}}, {"y": {"z": 3}}]),
        ("r[].y[0]", [{"y": [1]}, {"y": []}, {"y": [3]}]),
        ("r[*].y[*].z", [{"y": [{"z": 1}, {"z": 2}]}, {"y": [{"z": None}, {"z": 2}]}]),
        ("r[?@].y", [{"y": 1}, {"z": 1}, {"y": 3}]),
        ("r[]", [1, None, 3]),
        ("r.*.y", {"a": {"y": 1}, "b": {}, "c": {"y": 3}}),
        ("map(&y, r)", [{"y": 1}, {}, {"y": 3}]),
    ],
)
def test_a_null_keeps_its_place_and_makes_the_answer_invalid(response, field, items):
    with pytest.raises(InvalidResponse, match="row 1 holds null"):
        values(response, field, {"r": items}, 2)


@pytest.mark.parametrize(
    ("field", "items"),
    [
        ("r[].labels[]", [{"labels": ["a", "b"]}, {"labels": []}]),
        ("r[*].labels[]", [{"labels": ["a", "b"]}, {"labels": []}]),
        ("r[*].labels | []", [{"labels": ["a", "b"]}, {"labels": []}]),
        ("r[].labels[].name", [{"labels": [{"name": "a"}, {"name": "b"}]}, {"labels": []}]),
        ("r[]", [["a", "b"], []]),
        ("r[]", [["a"], "b"]),
        ("r[].labels[]", [{"labels": ["a", "b"]}]),
        ("r[][]", [[["a", "b"]], [[]]]),
        ("r[*].labels[][]", [{"labels": [["a", "b"], []]}, {"labels": [["a"], ["b"]]}]),
    ],
)
def test_lists_of_several_rows_are_never_joined(response, field, items):
    with pytest.raises(InvalidResponse, match="joins"):
        values(response, field, {"r": items}, 2)


def test_lists_of_one_value_a_row_are_joined(response):
    items = [{"labels": ["a"]}, {"labels": ["b"]}]
    assert values(response, "r[].labels[]", {"r": items}, 2).tolist() == ["a", "b"]
    assert values(response, "r[]", {"r": [[1], [2]]}, 2).tolist() == [1, 2]
    nested = {"r": [{"m": [[1, 2], [3, 4]]}, {"m": [[5, 6], [7, 8]]}]}
    assert values(response, "map(&m[], r)", nested, 2).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_filter_leaves_no_row_out(response):
    items = [{"y": 1, "ok": True}, {"y": 2, "ok": False}, {"y": 3, "ok": True}]
    with pytest.raises(InvalidResponse, match="1 of 3 items that the filter"):
        values(response, "r[?ok].y", {"r": items}, 2)
    outputs = [{"name": "other", "data": [0]}, {"name": "score", "data": [1, 2, 3]}]
    assert values(response, "r[?name == 'score'].data | [0]", {"r": outputs}, 3).tolist() == [1, 2, 3]


def test_functions_see_integers_as_they_are_written(response):
    body = response(b'{"r": [[18446744073709551617, 0.5], []]}')
    result = Json(answers="r[*].to_string(@)").decode(body, 2)
    assert result.tolist() == ["[18446744073709551617,0.5]", "[]"]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda codec: pickle.loads(pickle.dumps(codec))])
def test_a_copy_of_the_codec_keeps_to_it(response, copied):
    codec = copied(Json(answers="results[].relevance_score"))
    assert codec.decode(response({"results": RANKED}), 4).tolist() == SCORES


def test_the_index_field_of_another_codec_makes_no_difference(response):
    """jmespath caches its compiled expressions."""
    Json(answers="results[].relevance_score", order="position")
    Json(answers="results[].relevance_score", order="relevance_score")
    assert values(response, "results[].relevance_score", {"results": RANKED}).tolist() == SCORES


fields = st.sampled_from(["items[].y", "items[*].y", "items", "items[]", "map(&y, items)", "items | [*].y"])


@given(st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sampled_from([None, *range(6)]), fields)
def test_each_row_has_its_own_value_or_the_answer_is_invalid(response, order, lost, nameless, field):
    """Whatever order items come in, and whatever they lack."""
    items = [{"index": i, "y": i * 10} for i in order]
    for i, item in enumerate(items):
        if i == nameless:
            del item["index"]
        if i in lost:
            item["y"] = None
    try:
        result = values(response, field, {"items": items}, 6)
    except InvalidResponse:
        assert lost
    else:
        assert (result["y"] if isinstance(result, dict) else result).tolist() == [i * 10 for i in range(6)]


def test_the_helper_of_custom_codecs_gives_items_in_order():
    assert [item["index"] for item in in_row_order(RANKED)] == [0, 1, 2, 3]
    assert in_row_order([{"id": 1}, {"id": 0}], "id") == [{"id": 0}, {"id": 1}]
    assert in_row_order([{"y": 1}, {"y": 0}]) == [{"y": 1}, {"y": 0}]
    assert in_row_order([]) == []


def test_two_answers_can_be_searched_at_once() -> None:
    # A large answer is searched on a helper thread. Here one search begins in the middle of the other.
    path = Path("results[].{score: score, parts: parts[].v}", "index")

    class Item(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            path.find({"results": []})
            return super().get(name, default)

    # An index within a row is no row number.
    parts = [{"index": 1, "v": "a"}, {"index": 0, "v": "b"}]
    found, _ = path.find({"results": [Item(index=0, score=1.0, parts=parts)]})
    assert found == [{"score": 1.0, "parts": ["a", "b"]}]
