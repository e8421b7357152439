"""LiteLLM's proxy, from job files with the codecs of OpenAI's API."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.presets.mock_api import vector
from tests.real.conftest import python

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(300, func_only=True)]
KEY = "sk-fanout-test"
JOB = """
[input]
path = "rows.jsonl"
column = "text"
[endpoint]
url = "{url}/v1/{page}"
[auth]
token = "${{PROXY_KEY}}"
[codec]
{codec}
[limits]
concurrency = 1
[chunks]
rows = {rows}
[output]
path = "{output}"
"""
TEXTS = [f'text {i}: naïve "{i}"' for i in range(60)]


def run(
    url: str, folder: Path, page: str, codec: str, output: str, rows: int, key: str = KEY
) -> subprocess.CompletedProcess[str]:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "job.toml").write_text(JOB.format(url=url, page=page, codec=codec, output=output, rows=rows))
    return python("-m", "fanout", "run", "job.toml", cwd=folder, PROXY_KEY=key)


def test_embeddings_come_through_the_proxy_and_through_its_429s(litellm: Real, tmp_path: Path) -> None:
    codec = 'name = "openai-embeddings"\nmodel = "vectors"'
    done = run(litellm.url, tmp_path, "embeddings", codec, "vectors.npy", 4)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "vectors.npy").tolist() == [vector(text) for text in TEXTS]
    # Of each ten requests that reach the model, three are refused; the proxy tries three times, and passes the last on.
    assert "60 ok" in done.stdout
    assert ", 0 retries" not in done.stdout


def test_answers_to_prompts_come_through_the_proxy(litellm: Real, tmp_path: Path) -> None:
    done = run(litellm.url, tmp_path, "chat/completions", 'name = "openai-chat"\nmodel = "answers"', "answers.jsonl", 1)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["text"] for answer in answers] == [text.upper() for text in TEXTS]


@pytest.mark.parametrize(
    ("key", "model", "words"),
    [("sk-wrong", "vectors", "No connected db"), (KEY, "vektors", "Invalid model name passed in model=vektors")],
)
def test_a_wrong_key_or_model_stops_the_run_in_the_proxy_s_words(
    litellm: Real, tmp_path: Path, key: str, model: str, words: str
) -> None:
    done = run(litellm.url, tmp_path, "embeddings", f'name = "openai-embeddings"\nmodel = "{model}"', "x.npy", 4, key)
    assert done.returncode != 0
    assert words in done.stderr
    assert key not in done.stderr
    assert not (tmp_path / "x.npy").exists()
