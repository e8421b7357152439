"""The call of a user's function: its arguments, and the results that are accepted."""

from __future__ import annotations

import numpy as np
import pytest

from fanout.serving.exchange import StatusError
from fanout.serving.models import Model, call, jsonable, require_finite, require_model, rows_of


class Frame:
    """Stands for a data frame or tensor of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.arange(2.0)


def result_of(result, n_rows=2):
    return call(Model(name="m", function=lambda rows: result), [1] * n_rows, n_rows)


@pytest.mark.parametrize(
    ("instances", "dtype", "shape"),
    [([[1.5, 2], [3, 4]], np.float64, (2, 2)), ([1, 2], np.int64, (2,)), ([True, False], np.bool_, (2,))],
)
def test_numbers_become_an_array(instances, dtype, shape):
    """First axis: the rows."""
    array = rows_of(instances)
    assert (array.dtype, array.shape) == (dtype, shape)


@pytest.mark.parametrize("instances", [["a", "b"], [{"a": 1}], [[1], [2, 3]], [1, "a"], [None, 1.0], [["a"]], []])
def test_anything_else_stays_a_list(instances):
    """Texts, objects, rows of unequal length and mixtures are not forced into an array."""
    assert rows_of(instances) is instances


@pytest.mark.parametrize("result", [np.arange(2.0), [0.0, 1.0], (0.0, 1.0), Frame(), [np.float64(0), np.float64(1)]])
def test_results_become_arrays(result):
    """Whatever knows how to be an array is one."""
    (column,) = result_of(result).values()
    assert isinstance(column, np.ndarray)
    assert column.tolist() == [0.0, 1.0]


def test_named_results_keep_their_names_and_order():
    """A dict of arrays or lists of texts."""
    outputs = result_of({"score": [1, 2], "label": ["a", "b"]})
    assert list(outputs) == ["score", "label"]
    assert outputs["label"] == ["a", "b"]


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (np.zeros(1), "the result of model 'm' has 1 rows for the 2 rows sent"),
        ({"y": [1, 2, 3]}, "output 'y' of model 'm' has 3 rows for the 2"),
        (["a"], "has 1 rows"),
        (7, "is of type int, not an array of 2 rows"),
        (None, "is of type NoneType"),
        ({}, "returned no output"),
    ],
)
def test_a_result_without_one_entry_a_row_is_an_error(result, text):
    """Never passed on: a client could take it for an answer."""
    with pytest.raises(StatusError, match=text) as caught:
        result_of(result)
    assert caught.value.status == 500


@pytest.mark.parametrize("error", [KeyError("weight"), SystemExit(1)])
def test_an_exception_is_named_and_its_traceback_goes_to_stderr(error, capsys):
    """The server lives on, even when the function wants to end it."""

    def fail(rows):
        raise error

    with pytest.raises(StatusError, match=rf"model 'm' failed: {type(error).__name__}: ") as caught:
        call(Model(name="m", function=fail), [1], 1)
    assert caught.value.status == 500
    assert "Traceback" in capsys.readouterr().err


def test_batches_are_neither_empty_nor_larger_than_the_bound():
    """As Triton: 400, and the function is not called."""
    model = Model(name="m", function=lambda rows: pytest.fail("called"), max_batch_size=2)
    with pytest.raises(StatusError, match="empty"):
        call(model, [], 0)
    with pytest.raises(StatusError, match="batch-size must be <= 2 for 'm'; this has 3 rows") as caught:
        call(model, [1, 2, 3], 3)
    assert caught.value.status == 400


def test_another_model_is_unknown():
    """404, naming the one that is here."""
    with pytest.raises(StatusError, match="unknown model 'x': this server has 'm'") as caught:
        require_model(Model(name="m", function=len), "x")
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "column",
    [
        np.array([1, np.nan]),
        np.array([1, np.inf]),
        np.array([1, np.nan], object),
        [{"a": [1.0, (2.0, float("nan"))]}],
        [[1.0], [np.float32("inf"), 2.0]],
    ],
)
def test_values_that_json_cannot_express_are_found_at_any_depth(column):
    """orjson would write null for it."""
    with pytest.raises(StatusError, match="output 'y' of model 'm' holds NaN or infinity") as caught:
        require_finite(Model(name="m", function=len), {"y": column})
    assert caught.value.status == 500


def test_finite_values_pass():
    """Texts and integers cannot be non-finite."""
    columns = {"a": np.arange(3), "b": ["nan", {"c": None}], "c": np.array(["nan"]), "d": np.ones(2)}
    require_finite(Model(name="m", function=len), columns)


def test_arrays_that_orjson_does_not_take_are_changed():
    """Big-endian, not contiguous, texts and bytes."""
    assert jsonable(np.array([1], ">i4")).dtype.isnative
    assert jsonable(np.ones((3, 2)).T).flags.c_contiguous
    assert jsonable(np.array([b"\xc3\xa9"])) == ["é"]
    assert jsonable(np.array(["é"], np.dtypes.StringDType())) == ["é"]
    assert jsonable([{"a": 1}]) == [{"a": 1}]
