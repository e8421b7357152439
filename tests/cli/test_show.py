"""``fanout check --show``: the first request as it was sent and its answer, without secrets and control characters."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest

from fanout.cli.show import pretty
from fanout.job.exchange import shown_body


def show(command, write_job, doubler_aside, *options, text=None):
    job = write_job(url=f"{doubler_aside.url}?key=s3cret-in-url") if text is None else write_job(text)
    return command("check", job.name, "--show", *options)


def test_the_request_its_answer_and_the_values_are_shown(command, write_job, doubler_aside, tmp_path):
    write_job(url=doubler_aside.url)
    result = command("check", "job.toml", "--show")
    assert (result.code, result.err) == (0, "")
    request, rest = result.out.partition("\nrequest:  ")[2].split("\n\nresponse: ")
    response, values = rest.split("\n\nvalues of the first row with an answer:\n")
    assert request.startswith(f"POST {doubler_aside.url}\n  user-agent: fanout-ml/")
    assert request.endswith('\n\n  {"instances": [0.0, 1.0, 2.0, "... 1 more"]}')
    assert response.startswith("HTTP 200 after ")
    assert response.endswith('\n\n  {"predictions": [0.0, 2.0, 4.0, "... 1 more"]}')
    assert values == "  value (float64): 0.0\n"
    assert not (tmp_path / "out").exists()


def test_each_output_is_shown_with_its_path(command, write_job, doubler_aside):
    doubler_aside.answer = lambda rows: [{"a": {"score": 2 * row}} for row in rows]
    write_job(url=doubler_aside.url)
    paths = ("--set", "codec.answers=predictions", "--set", 'codec.outputs={ score = "a.score" }')
    result = command("check", "job.toml", "--show", "--set", 'codec.request={ instances = "{{rows}}" }', *paths)
    assert result.code == 0, result.err
    assert "\n  score (float64; at a.score, in each of predictions): 0.0\n" in result.out


def test_credentials_are_masked_in_url_headers_and_bodies(command, write_job, doubler_aside, monkeypatch):
    monkeypatch.setenv("KEY", "s3cret-of-header")
    doubler_aside.answer = lambda rows: [f"you are s3cret-of-header {row}" for row in rows]
    result = show(
        command, write_job, doubler_aside, "--set", 'endpoint.headers={ Authorization = "Bearer ${KEY}", X-K = "ab" }'
    )
    assert "s3cret" not in result.out
    assert "?key=***" in result.out
    assert "\n  authorization: Bearer ***\n" in result.out
    assert "\n  x-k: ***\n" in result.out
    assert '"you are *** 0.0"' in result.out.replace("*" * len("s3cret-of-header"), "***")


def test_control_characters_of_the_server_are_escaped(command, write_job, doubler_aside):
    doubler_aside.answer = lambda rows: [f"\x1b[31m{row}\u202e" for row in rows]
    result = show(command, write_job, doubler_aside)
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out
    assert r"\u001b[31m0.0\u202e" in result.out


def test_a_refusal_is_shown_with_the_server_s_words(command, write_job, doubler_aside):
    doubler_aside.status = 401
    result = show(command, write_job, doubler_aside)
    assert result.code == 3
    assert "\nresponse: HTTP 401 after " in result.out
    assert "values of" not in result.out
    assert result.out.endswith("\n\n  no\n")


def test_without_an_answer_the_reason_is_shown(command, write_job):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but not listening: a connection is refused
        write_job(url=f"http://127.0.0.1:{closed.getsockname()[1]}/predict")
        result = command("check", "job.toml", "--show", "--set", "retry.max_attempts=1")
    assert result.code == 3
    assert "\nresponse: none after " in result.out
    assert ": ConnectError: " in result.out


def test_tensors_are_shown_by_their_number_of_bytes(command, write_job):
    text = (
        '[input]\npath = "x.npy"\n[endpoint]\nurl = "local://digits"\n[codec]\nname = "oip"\n[output]\npath = "y.npy"\n'
    )
    write_job(text, np.zeros((3, 64), "f4"))
    result = command("check", "job.toml", "--show")
    assert '"...": "and 768 bytes of tensors"' in result.out
    assert '"shape": [3, 10]' in result.out
    assert "\n  probabilities (float32 of shape [10]): [" in result.out


def test_in_json_the_exchange_is_a_part_of_the_report(command, write_job, doubler_aside):
    result = show(command, write_job, doubler_aside, "--json")
    exchange = json.loads(result.out)["exchange"]
    assert (exchange["method"], exchange["status"], exchange["body"]["instances"][:2]) == ("POST", 200, [0.0, 1.0])
    assert exchange["url"] == f"{doubler_aside.url}?key=***"
    assert json.loads(command("check", "job.toml", "--json").out)["exchange"] is None


def test_a_dry_run_has_no_answer_to_show(command, write_job):
    write_job()
    result = command("check", "job.toml", "--show", "--dry-run")
    assert result.code == 2
    assert "--dry-run sends nothing" in result.err


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (b'{"text": "' + b"x" * 1000 + b'"}', '{\n  "text": "' + "x" * 300 + '... (1,000 characters)"\n}'),
        (b"[" + b",".join([b"1"] * 5000) + b"]", '[1, 1, 1, "... 4,997 more"]'),
        (b"not json", "not json"),
        (b"y" * 5000, "y" * 2000 + "... (5,000 characters)"),
        (b"\xff\xfe\x00", "3 bytes of image/png"),
        (b"", ""),
        (b"[NaN]", "[NaN]"),
    ],
    ids=["text", "list", "no JSON", "long", "binary", "empty", "NaN"],
)
def test_a_body_is_abbreviated(body, shown):
    value = shown_body(body, {"Content-Type": "image/png"})
    assert (value if isinstance(value, str) else pretty(value)) == shown
