"""300 PNG files from a folder to a real Triton: as elements of a tensor, and in base64 within JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.images import write_photos
from tests.real.conftest import python

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.conftest import Real

pytestmark = [pytest.mark.real, pytest.mark.timeout(120, func_only=True)]
JOB = """
[input]
path = "photos/*.png"
{input}

[endpoint]
url = "{url}"

[codec]
{codec}

[limits]
concurrency = 8

[output]
path = "numbers.jsonl"
"""
TENSOR = 'name = "oip"'
TENSOR_INPUT = 'columns = ["file"]\nrename = { file = "image" }'
IN_JSON = """
request.inputs = [{ name = "image", datatype = "BYTES", shape = [1, 1], data = ["{{file | base64}}"] }]
outputs.number = { path = "outputs[0].data[0]", type = "int64" }
"""


def job_file(url: str, codec: str, input_keys: str) -> str:
    return JOB.replace("{url}", url).replace("{codec}", codec).replace("{input}", input_keys)


@pytest.mark.parametrize(
    ("model", "codec", "input_keys"),
    [("pixel", TENSOR, TENSOR_INPUT), ("pixel64", IN_JSON, "")],
    ids=["tensor", "base64"],
)
def test_300_files_have_the_answers_of_their_own_contents(
    triton: Real, tmp_path: Path, model: str, codec: str, input_keys: str
) -> None:
    write_photos(tmp_path / "photos", 300)
    url = triton.infer(model)
    (tmp_path / "job.toml").write_text(job_file(url, codec, input_keys))
    done = python("-m", "fanout", "run", "job.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = list(map(json.loads, (tmp_path / "numbers.jsonl").read_text().splitlines()))
    numbers = {line["id"]: line["number"] for line in lines}
    # Triton's rows are rows of one number; the path in the answer leads to the number itself.
    assert numbers == {f"photo-{i}.png": [i] if codec == TENSOR else i for i in range(300)}


def test_a_damaged_file_fails_alone_in_the_model_s_words(triton: Real, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 40)
    photo = tmp_path / "photos" / "photo-7.png"
    photo.write_bytes(photo.read_bytes().replace(b"IDAT", b"IDAT\0", 1))
    (tmp_path / "job.toml").write_text(job_file(triton.infer("pixel"), TENSOR, TENSOR_INPUT))
    done = python("-m", "fanout", "run", "job.toml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    (failure,) = map(json.loads, (tmp_path / "numbers.jsonl.failures.jsonl").read_text().splitlines())
    assert failure["ids"] == ["photo-7.png"]
    assert "the image is damaged" in failure["reason"]
