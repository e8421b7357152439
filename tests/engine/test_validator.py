"""Validation of responses: values that numpy would convert silently are invalid here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout import TensorSpec
from fanout.engine.chunker import ChunkTask
from fanout.engine.validator import ResponseValidator
from fanout.errors import InvalidResponse
from fanout.types import Chunk


def validator(capacity: int = 4, *, reject: bool = True, **spec: TensorSpec) -> ResponseValidator:
    return ResponseValidator(
        {name.replace("any", "*"): one for name, one in spec.items()}, reject_nonfinite=reject, capacity=capacity
    )


def task(start: int, n: int = 2) -> ChunkTask:
    return ChunkTask(Chunk(start, start + n), np.zeros(n))


def settled_on(array: Any) -> ResponseValidator:
    known = validator()
    for start in (0, 100):
        known.offer(task(start, len(array)), known.validate(array, len(array)))
    assert known.settled
    return known


@pytest.mark.parametrize("rows", [1, 63, 65, 0])
def test_another_number_of_rows_is_invalid(rows: int) -> None:
    with pytest.raises(InvalidResponse, match=f"^output 'a' has {rows} rows for 64"):
        validator().validate({"a": np.zeros((rows, 3))}, 64)
    with pytest.raises(InvalidResponse, match=f"^the answer has {rows} rows for 64") as caught:
        validator().validate(np.zeros((rows, 3)), 64)
    assert caught.value.error_kind == "rows"


def test_a_bare_number_for_one_row_is_invalid() -> None:
    with pytest.raises(InvalidResponse, match="no rows for 1"):
        validator().validate(np.array(1.0), 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16"])
def test_nonfinite_numbers_are_invalid_unless_kept(bad: float, dtype: str) -> None:
    array = np.ones((4, 3), dtype)
    array[2, 1] = bad
    with pytest.raises(InvalidResponse, match="1 of 4 rows") as caught:
        validator().validate(array, 4)
    assert caught.value.error_kind == "nonfinite"
    assert validator(reject=False).validate(array, 4)[""] is array


def test_a_sum_that_overflows_is_no_infinity() -> None:
    array = np.full((3, 2), 60000, "f2")
    assert validator().validate(array, 3)[""] is array


def test_opposite_infinities_do_not_cancel_out() -> None:
    with pytest.raises(InvalidResponse):
        validator().validate(np.array([np.inf, -np.inf]), 2)


@pytest.mark.parametrize("array", [np.array([None, 1.0]), np.array(["2020-01-01"], "M8[D]"), [1.0, 2.0], 3.0, "text"])
def test_values_other_than_arrays_of_numbers_or_texts_are_invalid(array: Any) -> None:
    with pytest.raises(InvalidResponse) as caught:
        validator().validate(array, 2)
    assert caught.value.error_kind == "dtype"


def test_texts_of_any_width_have_one_dtype() -> None:
    known = settled_on(np.array(["a", "bb"]))
    assert known.validate(np.array(["longer", "x"]), 2)[""].dtype == np.dtypes.StringDType()


def test_foreign_byte_order_is_the_same_form() -> None:
    known = settled_on(np.zeros((2, 3), "<f4"))
    assert known.validate(np.ones((2, 3), ">f4"), 2)[""].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("other", "error_kind"),
    [
        (np.zeros((2, 4)), "shape"),
        (np.zeros(2), "shape"),
        (np.zeros((2, 3), "f4"), "dtype"),
        (np.zeros((2, 3), int), "dtype"),
        (np.full((2, 3), "1"), "dtype"),
        (np.zeros((2, 3), bool), "dtype"),
    ],
)
def test_an_answer_unlike_the_others_is_invalid(other: np.ndarray, error_kind: str) -> None:
    with pytest.raises(InvalidResponse) as caught:
        settled_on(np.zeros((2, 3))).validate(other, 2)
    assert caught.value.error_kind == error_kind


def test_other_outputs_than_before_are_invalid() -> None:
    known = settled_on(np.zeros((2, 3)))
    with pytest.raises(InvalidResponse, match="outputs other"):
        known.validate({"other": np.zeros((2, 3))}, 2)
    with pytest.raises(InvalidResponse, match="no output"):
        validator().validate({}, 2)


def test_the_spec_is_proven_from_the_first_answer_on() -> None:
    known = validator(any=TensorSpec(dtype=np.dtype("f4"), shape=(None, 3)))
    with pytest.raises(InvalidResponse, match="dtype float64, wanted float32"):
        known.validate(np.zeros((2, 5, 3)), 2)
    with pytest.raises(InvalidResponse, match=r"\[5, 4\], wanted \['any', 3\]"):
        known.validate(np.zeros((2, 5, 4), "f4"), 2)
    with pytest.raises(InvalidResponse, match=r"\[3\]"):
        known.validate(np.zeros((2, 3), "f4"), 2)
    assert known.validate(np.zeros((2, 5, 3), "f4"), 2)


def test_a_whole_spec_needs_no_second_answer() -> None:
    known = validator(any=TensorSpec(dtype=np.dtype("f8"), shape=(3,)))
    accepted, refused = known.offer(task(0), known.validate(np.zeros((2, 3)), 2))
    assert len(accepted) == 1
    assert not refused
    assert known.settled


def test_an_odd_first_answer_does_not_condemn_the_rest() -> None:
    known = validator()
    assert known.offer(task(0), known.validate(np.zeros((2, 4)), 2)) == ([], [])
    assert known.offer(task(2), known.validate(np.zeros((2, 3)), 2)) == ([], [])
    accepted, refused = known.offer(task(4), known.validate(np.ones((2, 3)), 2))
    assert [held.task.chunk.start for held in accepted] == [2, 4]
    assert [held.task.chunk.start for held in refused] == [0]


def test_two_parts_of_one_chunk_do_not_agree_for_the_others() -> None:
    known, whole = validator(), task(0)
    for half in whole.halves():
        assert known.offer(half, known.validate(np.zeros((1, 9)), 1)) == ([], [])
    assert not known.settled


def test_no_more_answers_wait_than_there_is_room_for() -> None:
    known = validator(capacity=3)
    for start in range(3):
        assert known.offer(task(start * 2), known.validate(np.zeros((2, start + 1)), 2)) == ([], [])
    accepted, refused = known.offer(task(6), known.validate(np.zeros((2, 9)), 2))
    assert not accepted
    assert [held.task.chunk.start for held in refused] == [0]


def test_room_is_counted_in_chunks_so_that_all_parts_of_one_can_wait() -> None:
    known, rows = validator(capacity=2), ChunkTask(Chunk(0, 8), np.zeros((8, 1)))
    for i in range(8):
        assert known.offer(rows.part(slice(i, i + 1)), known.validate(np.zeros((1, 3)), 1)) == ([], [])
    assert known.offer(task(8), known.validate(np.zeros((2, 4)), 2)) == ([], [])
    accepted, refused = known.offer(task(10), known.validate(np.zeros((2, 5)), 2))
    assert not accepted
    assert [held.task.chunk.start for held in refused] == [0] * 8


def test_the_only_answer_counts_when_no_other_comes() -> None:
    known = validator()
    known.offer(task(0), known.validate(np.zeros((2, 3)), 2))
    accepted, refused, _ = known.close()
    assert len(accepted) == 1
    assert not refused


def test_a_tie_at_the_end_gets_one_more_chance_and_then_fails() -> None:
    known = validator()
    for chance in (True, False):
        for start, width in ((0, 3), (2, 4)):
            known.offer(task(start), known.validate(np.zeros((2, width)), 2))
        accepted, refused, retry = known.close()
        assert not accepted
        assert len(refused) == 2
        assert retry is chance


@given(
    st.lists(st.tuples(st.sampled_from([(3,), (4,), ()]), st.sampled_from(["f8", "f4"])), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_every_answer_is_accepted_or_refused_once_and_the_accepted_look_alike(
    forms: list[tuple[tuple[int, ...], str]], capacity: int
) -> None:
    known = validator(capacity)
    accepted: list[Any] = []
    refused: list[Any] = []
    for number, (shape, dtype) in enumerate(forms):
        array = np.zeros((2, *shape), dtype)
        try:
            outputs = known.validate(array, 2)
        except InvalidResponse:
            refused.append(number)
            continue
        if known.settled:
            accepted.append((number, array.dtype, array.shape))
            continue
        yes, no = known.offer(task(2 * number), outputs)
        accepted += [(h.task.chunk.start // 2, h.outputs[""].dtype, h.outputs[""].shape) for h in yes]
        refused += [h.task.chunk.start // 2 for h in no]
    yes, no, _ = known.close()
    accepted += [(h.task.chunk.start // 2, h.outputs[""].dtype, h.outputs[""].shape) for h in yes]
    refused += [h.task.chunk.start // 2 for h in no]
    assert sorted([number for number, *_ in accepted] + refused) == list(range(len(forms)))
    assert len({schema for _, *schema in accepted for schema in [tuple(schema)]}) <= 1


@pytest.mark.parametrize(
    ("spec", "learns"),
    [
        ({}, True),
        ({"": TensorSpec(shape=(3,))}, False),
        ({"": TensorSpec(shape=())}, False),
        ({"": TensorSpec(shape=(None, 3))}, True),
        ({"": TensorSpec(dtype=np.dtype("f4"))}, True),
        ({"a": TensorSpec(shape=(3,)), "b": TensorSpec(shape=(None,))}, True),
    ],
)
def test_shapes_are_learnt_unless_all_are_declared(spec: dict[str, TensorSpec], learns: bool) -> None:
    assert ResponseValidator(spec, reject_nonfinite=True, capacity=2).learns_shapes is learns
