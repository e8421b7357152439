"""The identity of a run changes with everything that changes its answers, and shows no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from typing import Annotated, Any

import numpy as np
import pytest

from fanout import ConfigError, codec
from fanout.client.identity import Content, identity_of
from fanout.codecs import V1

X = np.arange(30.0).reshape(10, 3)
URL = "http://host:8000/v2/models/m/infer"
TEXTS = np.array(["a", "b"], np.dtypes.StringDType())


def identity(rows: Any = X, options: dict[str, Any] | None = None, url: str = URL) -> dict[str, Any]:
    return identity_of(rows, codec("json", **(options or {})), [url])


@pytest.mark.parametrize(
    ("rows", "others"),
    [
        (X, [X + 1, X[:9], X.astype("f4"), X.reshape(10, 3, 1)]),
        (["a", "b"], [["a", "c"], ["a"], ["a", "b", "b"]]),
        ([{"a": 1}], [[{"a": 2}], [{"b": 1}]]),
        ({"a": X, "b": X}, [{"a": X}, {"a": X, "c": X}, {"a": X, "b": -X}]),
        (TEXTS, [TEXTS[::-1]]),
        (np.zeros((0, 3)), [np.zeros((0, 4))]),
    ],
    ids=["array", "texts", "dicts", "columns", "text array", "no rows"],
)
def test_other_rows_have_another_identity(rows: Any, others: list[Any]) -> None:
    assert identity(rows) == identity(rows)
    for other in others:
        assert identity(rows)["input"] != identity(other)["input"]


@pytest.mark.parametrize(
    ("rows", "blake2b", "xxh3"),
    [
        (X, "be91706d46df8aab77e1fe14176d548a", "be91706d46df8aab77e1fe14176d548a"),
        (["a", "é"], "ae3872742169c978e5045c4c2df8716f", "9bb9786d6895f064c2f9a56a0cc21799"),
        ([{"a": [1, 2.5, None]}], "71d791693d233de5ac5533f8c39777de", "b841e644df1a36e7d5a1b7cc728f080b"),
        (
            {"a": np.arange(3), "b": ["x", "y", "z"]},
            "e03408e1058e81c8ad6c5f6b54a674bc",
            "77614ba829e904ed6b0f6d8ab9e1eeea",
        ),
        (TEXTS, "d8c026c8d2cbfc8f4d7b8544849cdae7", "b8693da7cf5556a60374435949c8f602"),
    ],
    ids=["array", "texts", "dicts", "columns", "text array"],
)
def test_the_digest_of_rows_is_that_in_the_journals_of_earlier_versions(rows: Any, blake2b: str, xxh3: str) -> None:
    """Another digest would orphan every journal, and have users pay for their answers again."""
    n_rows = len(rows["a"] if isinstance(rows, dict) else rows)
    assert identity(rows)["input"] == {"rows": n_rows, "digest": xxh3}
    # Journals without the name of a method have this one.
    assert Content(rows).fingerprint("blake2b") == {"rows": n_rows, "digest": blake2b}


def test_the_digests_of_codec_and_query_are_those_in_the_journals_of_earlier_versions() -> None:
    chat = codec("openai-chat", model="m", schema={"x": {"type": "int"}})
    assert identity_of(X, chat, ["https://h/v1/chat/completions?v=1&api-key=x"]) == {
        "input": identity()["input"],
        "codec": {"name": "openai-chat", "format": 1, "options": "c0f431e8f4015f77131e21fb64d4ddc1"},
        "path": "/v1/chat/completions",
        "query": ["9fe892bbef83a7440b08a135c6215e71"],
    }


def test_another_codec_option_or_path_is_another_run_and_another_host_is_not() -> None:
    assert identity() != identity(options={"request": {"x": "{{rows}}"}})
    assert identity() != identity(url="http://host:8000/v2/models/other/infer")
    assert identity() == identity(url="https://user:pass@other/v2/models/m/infer?key=1")
    assert identity(url="local://digits") != identity(url="local://echo")


def test_the_query_counts_and_is_not_shown_and_credentials_in_it_do_not_count() -> None:
    a, b = identity(url=URL + "?model=secretA&v=1"), identity(url=URL + "?model=secretB&v=1")
    assert a != b != identity() != a
    assert a == identity(url=URL + "?v=1&model=secretA")
    assert a == identity(url=URL + "?v=1&model=secretA&api-key=old&X-Amz-Signature=abc")
    assert identity(url=URL + "?tokenizer=a") != identity(url=URL + "?tokenizer=b")
    assert "secretA" not in repr(a)
    one, other = "http://a/p?model=A", "http://b/p?model=B"
    assert identity_of(X, codec("json"), [one, other]) == identity_of(X, codec("json"), [other, one])
    assert identity_of(X, codec("json"), [one, other]) != identity_of(X, codec("json"), [one])


@pytest.mark.parametrize(
    ("rows", "edit"),
    [
        (np.zeros((5000, 3)), lambda x: x.__setitem__((3777, 1), 1.0)),
        (np.zeros((3, 5000)).T, lambda x: x.__setitem__((3777, 1), 1.0)),
        (["a"] * 20_000, lambda x: x.__setitem__(13_001, "b")),
        ([{"a": np.zeros(3000, ">f4")} for _ in range(200)], lambda x: x[77]["a"].__setitem__(1500, 1.0)),
        ([2**80] * 300, lambda x: x.__setitem__(211, 2**80 + 1)),
        ({"a": np.zeros(5000), "b": np.zeros(5000)}, lambda x: x["b"].__setitem__(1234, 1.0)),
        (np.array(["a"] * 5000, np.dtypes.StringDType()), lambda x: x.__setitem__(1234, "b")),
    ],
    ids=["array", "Fortran's order", "texts", "arrays in dicts", "large integers", "columns", "text array"],
)
def test_one_edited_row_among_thousands_changes_the_identity(rows: Any, edit: Any) -> None:
    before = identity(rows)
    assert before == identity(rows)
    edit(rows)
    assert before != identity(rows)


def test_one_edited_row_of_a_frame_changes_the_identity() -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.zeros(5000), "b": ["x"] * 5000})
    before = identity(frame)
    frame.loc[3777, "b"] = "y"
    assert before != identity(frame)


def codec_identity(kind: type[V1], *args: Any) -> Any:
    return identity_of(X, kind(*args), [URL])["codec"]


def test_a_codec_is_known_by_its_name_and_the_version_of_its_format_not_by_its_module() -> None:
    def codec_class(kind: str, module: str, **body: Any) -> type[V1]:
        return type(kind, (V1,), {"__module__": module, **body})

    assert codec_identity(V1) == {**codec_identity(V1), "name": "v1", "format": 1}
    assert codec_identity(codec_class("Mine", "a")) == codec_identity(codec_class("Mine", "b.c"))
    assert codec_identity(codec_class("Mine", "a")) != codec_identity(V1)
    assert codec_identity(codec_class("Mine", "a")) != codec_identity(codec_class("Yours", "a"))
    assert codec_identity(codec_class("Mine", "a", name="x")) == codec_identity(codec_class("Yours", "b", name="x"))
    assert codec_identity(codec_class("Mine", "a")) != codec_identity(codec_class("Mine", "a", format_version=2))


def test_an_option_that_is_a_function_or_object_is_the_same_in_every_process() -> None:
    def scale(x: Any) -> Any:
        return x

    class Taking(V1):
        def __init__(self, how: Any) -> None:
            super().__init__()

    here = codec_identity(Taking, scale), codec_identity(Taking, object())
    assert here == (codec_identity(Taking, scale), codec_identity(Taking, object()))


def checked_by(function: Any) -> Any:
    return identity_of(X, codec("openai-chat", schema={"x": {"type": "int"}}, validate=function), [URL])["codec"]


def function_of(source: str) -> Any:
    names: dict[str, Any] = {"__name__": "checks"}
    exec(source, names)
    return names["check"]


def at_most(n: int, *, strictly: bool = False) -> Any:
    def check(answer: Any) -> None:
        if answer["x"] > n or (strictly and answer["x"] == n):
            raise ValueError

    return check


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda answer: answer["x"] > 1, lambda answer: answer["x"] > 2),
        (at_most(1), at_most(2)),
        (at_most(1), at_most(1, strictly=True)),
        (partial(max, 1), partial(max, 2)),
        (function_of("def check(a): return 1"), function_of("def check(a): return 2")),
        (function_of("def check(a, b=1): return b"), function_of("def check(a, b=2): return b")),
        (function_of("N = 1\ndef check(a): return N"), function_of("N = 2\ndef check(a): return N")),
        (function_of("def f(): return 1\ndef check(a): f()"), function_of("def f(): return 2\ndef check(a): f()")),
        (function_of("def check(a): return [b in {'x'} for b in a]"),
         function_of("def check(a): return [b in {'y'} for b in a]")),
    ],
    ids=["lambdas", "closure", "two in a closure", "partial", "edited", "default", "constant", "function", "within"],
)  # fmt: skip
def test_two_functions_of_one_name_are_two_options(one: Any, other: Any) -> None:
    assert checked_by(one) == checked_by(one) != checked_by(other)


def test_a_function_that_calls_itself_has_an_identity() -> None:
    function = function_of("def check(a):\n    return check(a) if a else None")
    assert checked_by(function) == checked_by(function_of("def check(a):\n    return check(a) if a else None"))


def test_a_function_with_a_set_is_the_same_option_in_every_process() -> None:
    source = """
from fanout.client.functions import option_identity
WORDS = {"good", "bad", "mixed", "none"}
def check(answer):
    return answer in WORDS or answer in {"a", "b", "c"}
print(option_identity(check))
"""
    shown = [
        subprocess.run(
            [sys.executable, "-c", source], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in "12"
    ]
    assert shown[0] == shown[1] != b""


def test_the_validators_and_conversions_of_a_pydantic_model_are_a_part_of_its_identity() -> None:
    pydantic = pytest.importorskip("pydantic")

    def model(most: int, *, strip: bool) -> Any:
        def short(text: str) -> str:
            assert len(text) <= most
            return text

        kind = Annotated[str, pydantic.StringConstraints(strip_whitespace=strip), pydantic.AfterValidator(short)]
        return pydantic.create_model("Answer", x=(kind, ...))

    def identity_with(kind: Any) -> Any:
        return identity_of(X, codec("openai-chat", schema=kind), [URL])["codec"]

    known = identity_with(model(5, strip=True))
    assert identity_with(model(5, strip=True)) == known
    assert identity_with(model(6, strip=True)) != known != identity_with(model(5, strip=False))


def test_several_endpoints_are_identified_by_their_paths_alone() -> None:
    one, other = "http://a/v1/m", "http://b/v1/n"
    assert identity_of(X, codec("json"), [one, "http://b/v1/m"]) == identity_of(X, codec("json"), [one])
    assert identity_of(X, codec("json"), [one, other]) == identity_of(X, codec("json"), [other, one])
    assert identity_of(X, codec("json"), [one, other]) != identity_of(X, codec("json"), [one])


def test_no_option_of_a_codec_is_shown() -> None:
    assert "s3cret" not in repr(identity(options={"request": {"key": "s3cret", "rows": "{{rows}}"}}))


def test_rows_of_an_iterator_have_none() -> None:
    with pytest.raises(ConfigError, match="have no identity"):
        identity(iter(X))
