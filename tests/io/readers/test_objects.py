"""Objects that are tables, and objects that are not."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from fanout.errors import InputError
from fanout.io.readers.tables import as_source


@pytest.mark.parametrize(
    "rows",
    [np.zeros(3), [1, 2], ["a"], "text", {"a": np.zeros(3)}, iter([1]), range(3), object(), None],
    ids=lambda rows: type(rows).__name__,
)
def test_rows_without_columns_are_no_table(rows):
    assert as_source(rows) is None


def test_a_lazy_frame_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"call its \.collect\(\) first"):
        as_source(pl.LazyFrame({"a": [1]}))


def test_no_library_of_tables_is_imported_for_anything_else():
    program = (
        "import sys, numpy; import fanout.io.readers.opening; "
        "from fanout.io.readers.tables import as_source; as_source(numpy.zeros(3)); "
        "print([name for name in ('pyarrow', 'pandas', 'polars', 'datasets') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ended.stdout.strip() == "[]"
