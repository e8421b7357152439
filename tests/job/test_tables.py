"""Variables are filled in from the environment, and never shown."""

from __future__ import annotations

import pytest

from fanout.job.tables import Substitution

ENVIRONMENT = {"KEY": "s3cret", "EMPTY": "", "BYTES": "\udcff", "QUOTED": 'it\'s "x"\n'}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("${KEY}", "s3cret"),
        ("Bearer ${KEY}!", "Bearer s3cret!"),
        ("${KEY}${KEY}", "s3crets3cret"),
        ("${EMPTY}", ""),
        ("${UNSET:-fallback}", "fallback"),
        ("${UNSET:-}", ""),
        ("${EMPTY:-fallback}", "fallback"),
        ("${KEY:-fallback}", "s3cret"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$${KEY}", "${KEY}"),
        ("$KEY and $$", "$KEY and $$"),
        ("{KEY}", "{KEY}"),
    ],
)
def test_a_string_is_filled_in(text, expected):
    substitution = Substitution(ENVIRONMENT)
    assert substitution.apply(text) == expected
    assert not substitution.problems


def test_every_string_is_reached_and_other_values_stay():
    tables = {"a": {"b": ["${KEY}", 1, {"c": "${KEY}"}]}, "n": 1.5, "t": True}
    expected = {"a": {"b": ["s3cret", 1, {"c": "s3cret"}]}, "n": 1.5, "t": True}
    assert Substitution(ENVIRONMENT).apply(tables) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("${UNSET}", "the environment variable UNSET is not set"),
        ("${BYTES}", "the environment variable BYTES is not valid UTF-8"),
        ("${ml api}", "is written ${NAME}"),
        ("${}", "is written ${NAME}"),
        ("${KEY", "is written ${NAME}"),
    ],
)
def test_an_unset_variable_is_a_problem_with_its_place(text, problem):
    substitution = Substitution(ENVIRONMENT)
    substitution.apply({"endpoint": {"url": text}})
    assert problem in substitution.problems["endpoint", "url"]


def test_a_value_from_the_environment_is_masked_in_texts_about_its_place():
    substitution = Substitution(ENVIRONMENT)
    substitution.apply({"endpoint": {"url": "${KEY}", "headers": {"a": "${QUOTED}"}}, "codec": {"name": "x"}})
    assert substitution.redact("'s3cret' is no URL", ("endpoint", "url")) == "'***' is no URL"
    assert substitution.redact("'s3cret' is no URL", ("endpoint",)) == "'***' is no URL"
    assert substitution.redact(repr({"a": ENVIRONMENT["QUOTED"]}), ("endpoint",)) == "{'a': '***'}"
    assert substitution.redact("s3cret", ("codec", "name")) == "s3cret"


def test_the_repr_shows_no_value():
    substitution = Substitution({})
    substitution.environment = ENVIRONMENT
    substitution.apply("${KEY}")
    assert "s3cret" not in repr(substitution.filled and Substitution({}, filled=substitution.filled))
