"""The packaged classifier: right answers, the same bits in every batch, and clear refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout.serving.exchange import StatusError
from fanout.serving.models import classify


def test_the_example_agrees_with_the_documentation(examples):
    """`examples/digits.npz`: pixels / 16 in [0, 1] and whole labels."""
    images, labels = examples
    assert (images.shape, images.dtype) == ((1797, 64), np.float32)
    assert (labels.shape, labels.dtype) == ((1797,), np.int64)
    assert images.min() == 0
    assert images.max() == 1
    assert np.array_equal(images * 16, np.round(images * 16))


def test_more_than_95_percent_of_the_digits_are_right(examples):
    """More than 95 % are right; rows are probabilities in float32."""
    images, labels = examples
    probabilities = classify(images)
    assert probabilities.shape == (1797, 10)
    assert probabilities.dtype == np.float32
    assert (probabilities.argmax(axis=1) == labels).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@given(start=st.integers(0, 1796), rows=st.integers(1, 300))
def test_a_row_has_the_same_bits_in_any_batch(examples, start, rows):
    """Splitting, resuming and other chunk sizes must not change the last bit of an answer."""
    images, _ = examples
    assert np.array_equal(classify(images[start : start + rows]), classify(images)[start : start + rows])


def test_squares_and_other_dtypes_are_taken(examples):
    """(n, 8, 8) is (n, 64), and float64 is used as float32."""
    images, _ = examples
    assert np.array_equal(classify(images[:5].reshape(5, 8, 8).astype(np.float64)), classify(images[:5]))


def test_large_pixels_do_not_overflow():
    """The softmax is shifted: no NaN, no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(classify(np.full((1, 64), 1e6, np.float32))).all()


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (np.zeros((3, 63)), r"\(3, 63\)"),
        (np.zeros((3, 4, 16)), r"\(3, 4, 16\)"),
        (np.zeros(64), r"\(64,\)"),
        (["seven"], "list"),
        (np.array(["seven"]), "<U5"),
    ],
)
def test_the_error_for_another_shape_names_the_right_one(images, word):
    """400, naming the shapes taken and the one that came."""
    with pytest.raises(StatusError, match=rf"\(n, 64\) or \(n, 8, 8\).*{word}") as caught:
        classify(images)
    assert caught.value.status == 400
