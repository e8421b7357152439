"""Errors of a running job name the file and the key, like errors of loading."""

from __future__ import annotations

from pathlib import Path

import pytest

from fanout.errors import ConfigError, InputError
from fanout.job.problems import locate_errors

FILE = Path("job.toml")


@pytest.mark.parametrize(
    ("error", "expected", "key"),
    [
        (InputError("there is no file", key="input.path"), "job.toml: input.path: there is no file", "input.path"),
        (InputError("has dtype object"), "job.toml: input: has dtype object", "input"),
        (ConfigError("url names no model", key="url"), "job.toml: endpoint.url: names no model", "endpoint.url"),
        (ConfigError("no such input", key="outputs"), "job.toml: codec.outputs: no such input", "codec.outputs"),
        (ConfigError("something else"), "job.toml: something else", ""),
    ],
)
def test_an_error_gets_file_and_key_in_front(error, expected, key):
    with pytest.raises(type(error)) as caught, locate_errors(FILE):
        raise error
    assert str(caught.value) == expected
    assert caught.value.key == key


def test_an_input_that_is_at_fault_is_called_by_its_file_and_column():
    with pytest.raises(InputError) as caught, locate_errors(FILE, "x.npz, column 'a'"):
        raise InputError("wants FP32")
    assert str(caught.value) == "job.toml: input (x.npz, column 'a'): wants FP32"
    assert caught.value.key == "input"
    with pytest.raises(InputError, match=r"^job.toml: input\.path: there is no file"), locate_errors(FILE, "x.npz"):
        raise InputError("there is no file", key="input.path")
