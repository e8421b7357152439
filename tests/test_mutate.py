"""The mutants that scripts/mutate.py tries."""

from __future__ import annotations

import ast

import pytest

from scripts.mutate import Mutant, mutants, sample

SOURCE = '''
LIMIT: int = 3


@cached(size=7)
def take(rows: list[int] = 0, *, whole: bool = True) -> int | None:
    """Docstring with 5."""
    assert rows < 1
    if whole and rows <= LIMIT:
        raise ValueError(f"more than {LIMIT + 1}")
    _log.info("rows", 2)
    self.open += rows * 2
    self.done.append(min(rows))
    while not whole:
        break
    for row in rows if whole else ():
        continue
    return None if rows else rows[0]
'''


def changes(source: str) -> list[tuple[str, str]]:
    return [(m.before, m.after) for m in mutants("x.py", source.encode())]


def test_one_place_of_logic_is_changed_at_a_time() -> None:
    assert changes(SOURCE) == [
        ("3", "4"),
        ("0", "1"),
        ("True", "False"),
        ("whole and rows <= LIMIT", "(whole or rows <= LIMIT)"),
        ("rows <= LIMIT", "(rows < LIMIT)"),
        ('raise ValueError(f"more than {LIMIT + 1}")', "pass"),
        ("self.open += rows * 2", "self.open -= rows * 2"),
        ("self.open += rows * 2", "pass"),
        ("rows * 2", "(rows / 2)"),
        ("2", "3"),
        ("self.done.append(min(rows))", "pass"),
        ("min(rows)", "(max(rows))"),
        ("not whole", "(whole)"),
        ("break", "pass"),
        ("whole", "(not whole)"),
        ("continue", "break"),
        ("None if rows else rows[0]", "None"),
        ("rows", "(not rows)"),
        ("0", "1"),
    ]


@pytest.mark.parametrize("source", [SOURCE, "def f(x):\n    return (x ==\n  'é'), {1: x\n > 2}[1]\n"])
def test_every_mutant_is_another_program(source: str) -> None:
    text = source.encode()
    programs = {ast.dump(ast.parse(text[: m.start] + m.after.encode() + text[m.stop :])) for m in mutants("x", text)}
    assert len(programs) == len(changes(source))
    assert ast.dump(ast.parse(text)) not in programs


def test_a_sample_stays_the_same_but_for_the_mutants_of_changed_code() -> None:
    def drawn(source: str, seed: int = 1) -> list[Mutant]:
        candidates = [m for i in range(30) for m in mutants(f"{i}.py", source.encode())]
        return sample(candidates, 200, seed)

    before, after = drawn(SOURCE), drawn(f"import sys\n\ndef other():\n    return 1 + 2\n{SOURCE}")
    kept = {m.key for m in after if m.function != "other"}
    assert kept < {m.key for m in before}
    assert 100 < len(kept) < len(before) == 200
    assert before == drawn(SOURCE) != drawn(SOURCE, seed=2)
