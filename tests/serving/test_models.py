"""Models by name: the packaged ones, the user's own, and the error for an unknown name."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fanout.errors import ConfigError
from fanout.serving.models import load_model
from fanout.types import Tensor


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into an empty current directory, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> None:
        (tmp_path / f"{name}.py").write_text(source)

    return write


def test_digits_describes_its_tensors():
    """The source of `GET /v2/models/digits`."""
    model = load_model("digits")
    assert model.inputs == (Tensor(name="images", datatype="FP32", shape=(-1, 64)),)
    assert model.outputs == (Tensor(name="probabilities", datatype="FP32", shape=(-1, 10)),)
    assert model.embed is None
    assert model.function(np.zeros((2, 64))).shape == (2, 10)


def test_a_function_of_the_current_directory_is_found(module):
    """The name stays whole, and embeddings come from the same function."""
    module("scaling", "def double(rows): return rows * 2")
    model = load_model("scaling:double")
    assert model.name == "scaling:double"
    assert model.embed is model.function
    assert model.function(21) == 42
    assert model.max_batch_size is None


def test_a_function_can_bound_its_batches(module):
    """By an attribute, since a function has no other place for it."""
    module("bounded", "def f(rows): return rows\nf.max_batch_size = 8")
    assert load_model("bounded:f").max_batch_size == 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dgits", r"no model 'dgits' \(did you mean 'digits'\?\); names are .*package.module:function"),
        ("Echo", "did you mean 'echo'"),
        ("zzz", "no model 'zzz'; names are"),
        ("os:", "no model 'os:'"),
        (":f", "no model ':f'"),
        ("nowhere:f", "no module 'nowhere'"),
        ("os.nowhere:f", "no module 'os.nowhere'"),
        ("os:getcvd", r"module 'os' has no function 'getcvd' \(did you mean 'getcwd'\?\)"),
        ("os:sep", "os:sep is not a function, but of type str"),
        ("broken:f", "'broken' cannot be imported: SyntaxError"),
        ("leaves:f", "'leaves' cannot be imported: SystemExit: 3"),
        ("needy:f", "'needy' cannot be imported: No module named 'absent_dependency'"),
    ],
)
def test_a_name_that_cannot_be_served_says_why(module, name, text):
    """A `ConfigError` that names the missing part and the nearest existing name."""
    module("broken", "def f(:")
    module("leaves", "raise SystemExit(3)")
    module("needy", "import absent_dependency")
    with pytest.raises(ConfigError, match=text):
        load_model(name)
