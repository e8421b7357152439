"""The cost of jobs at the user's own prices: estimated, counted, limited, resumed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.cli.test_chat import JOB

PRICES = """
[cost]
input_per_million = 1000
output_per_million = 3000
currency = "EUR"
"""
# Each has two words, and two are in its answer.
PROMPTS = np.array(["two words"] * 50)
EACH = (2 * 1000 + 2 * 3000) / 1e6


@pytest.fixture
def priced(write_job):
    def priced(more: str = "") -> None:
        write_job(JOB + PRICES + more, PROMPTS)

    return priced


def test_a_run_shows_its_cost_and_its_tokens(command, priced):
    priced()
    result = command("run", "job.toml")
    assert (result.code, result.err) == (0, "")
    assert "\ncost:     0.4 EUR\n" in result.out
    summary = json.loads(command("run", "job.toml", "--fresh", "--json").out)
    assert summary["tokens"] == {"input": 100, "cached": 0, "output": 100, "reasoning": 0}
    assert summary["cost"] == pytest.approx(50 * EACH)
    assert summary["cost_per_row"] == pytest.approx(EACH)
    assert (summary["cost_estimated"], summary["cost_earlier"], summary["currency"]) == (0.0, 0.0, "EUR")


def test_a_run_stops_at_its_limit_and_resumes_once_it_is_raised(command, priced):
    priced()
    stopped = command("run", "job.toml", "--json", "--set", "limits.max_cost=0.1")
    summary = json.loads(stopped.out)
    assert (stopped.code, summary["stop_kind"], summary["ok"], summary["pending"]) == (3, "cost", 12, 38)
    assert "limits.max_cost = 0.1 EUR" in stopped.err
    assert command("status", "job.toml").out.startswith("50 rows: 12 ok, 0 failed, 38 pending; not complete")
    assert json.loads(command("status", "job.toml", "--json").out)["cost"] == pytest.approx(12 * EACH)
    raised = command("run", "job.toml", "--set", "limits.max_cost=0.4")
    assert raised.code == 0
    assert "\ncost:     0.304 EUR; 0.096 before, 0.4 in all\n" in raised.out
    again = json.loads(command("run", "job.toml", "--json").out)
    assert (again["requests"], again["cost"], again["cost_earlier"]) == (0, 0.0, pytest.approx(0.4))


def test_a_dry_run_estimates_the_cost_with_its_error(command, priced):
    priced()
    estimate = json.loads(command("check", "job.toml", "--dry-run", "--json").out)
    # Between no word and the two that `max_tokens` allows, beside the input.
    answers = 50 * 2 * 3000 / 1e6
    given = estimate["cost"] - answers / 2
    assert given == pytest.approx(estimate["body_bytes"] / 4 * 1000 / 1e6)
    assert estimate["cost_error"] == pytest.approx(answers / 2 + 0.6 * given)
    assert estimate["currency"] == "EUR"
    shown = command("check", "job.toml", "--dry-run", "--set", "limits.max_cost=0.01").out
    assert "give or take" in shown
    assert "limits.max_cost = 0.01 stops the run before its end" in shown


def test_a_dry_run_says_when_the_length_of_the_answers_is_unknown(command, priced):
    priced()
    shown = command("check", "job.toml", "--dry-run", "--set", "codec.extra={}")
    assert "\ncost:     unknown: no request bounds the tokens of its answer" in shown.out


def test_a_check_measures_the_cost_of_its_probe(command, priced):
    priced()
    assert "\ncost:     0.008 EUR; 0.4 for rows like these\n" in command("check", "job.toml").out
    assert json.loads(command("check", "job.toml", "--json").out)["cost"] == pytest.approx(EACH)


def test_without_prices_no_cost_is_shown(command, write_job):
    write_job(JOB, PROMPTS)
    assert "cost" not in command("run", "job.toml").out
    assert "cost" not in command("check", "job.toml", "--dry-run").out
    assert json.loads(command("run", "job.toml", "--json").out)["cost"] is None


def test_a_limit_without_prices_names_its_key(command, write_job):
    write_job(JOB, PROMPTS)
    result = command("run", "job.toml", "--set", "limits.max_cost=1")
    assert result.code == 2
    assert "limits.max_cost: max_cost needs prices" in result.err


def test_the_tokens_of_each_row_are_beside_its_answer(command, write_job, tmp_path):
    write_job(JOB, np.array(["one", "two words", "three words here"]))
    keep = ("--set", "output.keep_usage=true")
    assert command("run", "job.toml", *keep).code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / "y.jsonl").read_text().splitlines()]
    assert [line["usage.input_tokens"] for line in lines] == [1.0, 2.0, 3.0]
    assert [line["usage.output_tokens"] for line in lines] == [1.0, 2.0, 2.0]
    assert {line["usage.cached_tokens"] for line in lines} == {0.0}
    assert "complete since an earlier run" in command("run", "job.toml", *keep).out
    assert "the job's input" not in command("status", "job.toml", *keep).out
    assert "the job's input" in command("status", "job.toml").out, "without the columns it is another output"


def test_a_row_that_is_not_sent_has_no_tokens_of_its_own(command, write_job, tmp_path):
    shared = '\n[cache]\npath = "answers.sqlite"\nsampled = true\n[dedupe]\nenabled = true\n'
    write_job(JOB + PRICES + shared, np.array(["two words", "one", "two words", "one", "three words here"]))
    keep = ("--set", "output.keep_usage=true", "--set", "chunks.rows=1")

    def tokens():
        lines = [json.loads(line) for line in (tmp_path / "out" / "y.jsonl").read_text().splitlines()]
        assert all(line["error"] is None for line in lines)
        return [line["usage.input_tokens"] for line in lines]

    summary = json.loads(command("run", "job.toml", "--json", *keep).out)
    assert (summary["requests"], summary["shared"], summary["tokens"]["input"]) == (3, 2, 6)
    assert tokens() == [2.0, 1.0, None, None, 3.0]
    summary = json.loads(command("run", "job.toml", "--json", "--fresh", *keep).out)
    assert (summary["requests"], summary["cached"], summary["cost"]) == (0, 5, 0.0)
    assert tokens() == [None] * 5
