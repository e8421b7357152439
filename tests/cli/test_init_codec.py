"""Questions of a command in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fanout.cli import init_codec
from fanout.errors import ConfigError

if TYPE_CHECKING:
    import click


@pytest.mark.parametrize("name", ["/score", "a\x1b[2Jb"])
def test_choices_are_shown_without_control_characters_and_returned_as_they_are(monkeypatch, name):
    monkeypatch.setattr(init_codec, "has_terminal", lambda: True)
    offered: list[str] = []

    def prompt(_question: str, *, type: click.Choice[str], **_: object) -> str:  # noqa: A002
        offered.extend(type.choices)
        return str(type.choices[1])

    monkeypatch.setattr("click.prompt", prompt)
    assert init_codec.Questions().choose("Path", ["/other", name], "") == name
    assert all(one.isprintable() for one in offered)


def test_without_a_terminal_a_question_is_an_error_unless_it_may_be_left_open(monkeypatch):
    monkeypatch.setattr(init_codec, "has_terminal", lambda: False)
    asking = init_codec.Questions()
    with pytest.raises(ConfigError, match=r"^--input is missing: input file$"):
        asking.ask("--input", "Input file")
    with pytest.raises(ConfigError, match="name a path"):
        asking.choose("Path", ["/a", "/b"], "name a path")
    assert asking.ask_if_allowed("Token") is None
