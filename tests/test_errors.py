"""The exception tree in the module's docstring is complete, and every error can be caught as its builtin."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fanout import errors
from fanout.errors import (
    AttemptTimeout,
    ConfigError,
    EncodeError,
    FanoutError,
    InputError,
    InvalidResponse,
    RowsFailed,
    RunStopped,
)
from fanout.results import Result, Statistics
from fanout.types import Chunk

CLASSES = {name: value for name, value in vars(errors).items() if isinstance(value, type) and not name.startswith("_")}


def documented() -> dict[str, tuple[str, str | None]]:
    """Class -> (its parent in the docstring, the builtin beside it)."""
    tree: dict[str, tuple[str, str | None]] = {}
    parents = {-1: ""}
    for line in errors.__doc__.splitlines():
        if match := re.match(r"    ((?:[│ ]   )*)([├└]── )?(\w+)\s+(?:\((\w+)\))?", line + " "):
            depth = len(match[1]) // 4 + 1 if match[2] else 0
            tree[match[3]] = (parents[depth - 1], match[4])
            parents[depth] = match[3]
    return tree


def test_the_docstring_lists_every_class():
    assert set(documented()) == set(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_class_has_the_bases_in_the_docstring(name):
    parent, builtin = documented()[name]
    bases = [base for base in (parent, builtin) if base]
    public = [base.__name__ for base in CLASSES[name].__bases__ if not base.__name__.startswith("_")]
    assert public == (bases or ["Exception"])


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"Interrupted"}))
def test_every_error_is_a_fanout_error(name):
    assert issubclass(CLASSES[name], FanoutError)


def test_a_timeout_is_caught_as_the_builtin_timeout_error():
    with pytest.raises(TimeoutError):
        raise AttemptTimeout("too late")


def test_a_config_error_carries_the_key_at_fault():
    error = ConfigError("chunk_rows must be at least 1", key="chunk_rows")
    assert (str(error), error.key) == ("chunk_rows must be at least 1", "chunk_rows")
    assert ConfigError("no key").key == ""
    assert InputError("no such file", key="path").key == "path"


def test_an_encode_error_holds_its_rows_as_a_tuple():
    error = EncodeError("NaN has no JSON", rows=[1, 3])
    assert (str(error), error.reason, error.rows) == ("NaN has no JSON", "NaN has no JSON", (1, 3))


def test_the_fault_of_an_invalid_response_is_its_content_by_default():
    assert InvalidResponse("no JSON").error_kind == "content"
    assert InvalidResponse("9 rows", error_kind="rows").error_kind == "rows"


def test_errors_that_end_a_run_carry_its_result_and_count_its_rows():
    result = Result(outputs=None, ok=np.array([True, False]), failures=(), pending=(Chunk(1, 2),), stats=Statistics())
    assert RowsFailed("2 rows failed", result=result).result is result
    stopped = RunStopped("out of credit", kind="quota", result=result)
    assert str(stopped) == "out of credit (1 rows done, 0 failed, 1 pending; see .result)"
    assert (stopped.reason, stopped.kind, stopped.result) == ("out of credit", "quota", result)
