"""The echo model: rows unchanged, and an embedding to rehearse with."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fanout.serving.models import embed, unchanged


def test_rows_come_back_as_they_are():
    """The very same object."""
    rows = np.arange(3)
    assert unchanged(rows) is rows


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_embeddings_of_any_text_are_unit_vectors(texts):
    """Shape (n, 64), float32, unit norm, and a text's vector does not depend on its neighbours."""
    vectors = embed(texts)
    assert vectors.shape == (len(texts), 64)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.array_equal(vectors[0], embed(texts[:1])[0])


def test_similar_texts_are_near():
    """Texts with shared trigrams have similar embeddings."""
    cat, cats, other = embed(["the cat sat on the mat", "The cats sat on the mat", "quarterly revenue 2031"])
    assert cat @ cats > 0.8 > cat @ other


def test_the_embedding_is_the_same_in_every_process():
    """No salted hash: a resumed run must give the same file."""
    space, letter, spread = 32, 97, 2654435769
    bucket = ((space * spread + letter) * spread + space) * spread % 2**32 >> 26
    assert embed(["a"])[0].nonzero()[0].tolist() == [bucket]
