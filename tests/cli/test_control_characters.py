"""Control characters from servers, files and names are escaped on the terminal, in logs and in files about a run."""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web

import fanout
from fanout.testing import Background
from tests.jobs import JOB, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CODES = [
    0, 7, 8, 9, 10, 11, 12, 13, 14, 0x1B, 0x1F, 0x7F, 0x80, 0x84, 0x85, 0x90, 0x9B, 0x9C, 0x9D, 0x9F, 0x061C, 0x200B,
    0x200E, 0x200F, 0x2028, 0x2029, 0x202A, 0x202B, 0x202D, 0x202E, 0x2060, 0x2066, 0x2067, 0x2068, 0x2069, 0xFEFF,
]  # fmt: skip
CONTROL = "".join(map(chr, CODES))
NASTY = "".join(f"<{char}>" for char in CONTROL)
"""Each character between marks, which distinguish it from the bytes of numbers in a file."""

NAME = NASTY.replace("\0", "")
"""The characters that can be part of a file's name or of a variable."""


@dataclass
class Rude:
    """Puts control characters into every part of a response that can hold them."""

    url: str = ""
    answer: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            tensor = {"name": NASTY, "datatype": "FP64", "shape": [-1, 1]}
            metadata = {"name": NASTY, "platform": NASTY, "versions": [NASTY], "inputs": [tensor], "outputs": [tensor]}
            return web.json_response(metadata, headers=self.headers)
        return self.answer(await request.json())


@asynccontextmanager
async def serving() -> AsyncIterator[Rude]:
    rude = Rude()
    async with served(rude.handle) as rude.url:
        yield rude


@pytest.fixture(scope="module")
def rude():
    with Background(serving()) as rude:
        yield rude


def _text(status: int) -> Any:
    headers = {"X-RateLimit-Owner": "".join(f"<{char}>" for char in CONTROL if ord(char) > 0x7F)}
    return lambda sent: web.Response(status=status, body=NASTY.encode(), headers=headers)


def _message(status: int) -> Any:
    body = json.dumps({"error": {"message": NASTY}}, ensure_ascii=False).encode()
    return lambda sent: web.Response(status=status, body=body, content_type="application/json")


def _some_rows(status: int) -> Any:
    """Refuse row 5 with the nasty message, and answer the others."""

    def answer(sent: Any) -> web.Response:
        if 5 in sent["instances"]:
            return _message(status)(sent)
        return web.json_response({"predictions": sent["instances"], "usage": {NASTY: 1}, NASTY: 1})

    return answer


def _names(sent: Any) -> web.Response:
    tensor = {"name": NASTY, "datatype": "FP64", "shape": [4, 1], "data": [1.0] * 4}
    return web.json_response({"model_name": NASTY, "outputs": [tensor]})


ANSWERS = {
    "message of a 401": _message(401),
    "text of a 401": _text(401),
    "text of a 404": _text(404),
    "text of a 500": _text(500),
    "text of a 200": _text(200),
    "message of a row": _some_rows(422),
    "redirect": lambda sent: web.Response(
        status=307, headers={"Location": f"http://else.test/{chr(0x9B)}{chr(0x202E)}"}
    ),
}

JOB_WITH_IDS = (
    JOB.replace('path = "x.npy"', 'path = "x.jsonl"\ncolumn = "x"\nid = "id"')
    .replace('name = "json"', 'name = "{codec}"')
    .replace("y.npy", "y.jsonl")
)


@pytest.fixture
def write(tmp_path, rude):
    def write(codec: str = "json", path: str = "/predict") -> None:
        rows = ({"x": i, "id": NASTY} for i in range(8))
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "job.toml").write_text(JOB_WITH_IDS.replace("{url}", rude.url + path).replace("{codec}", codec))

    return write


@pytest.mark.parametrize("options", [(), ("--json",), ("--record", "r.recording")], ids=["text", "json", "recorded"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_messages_of_a_server_are_escaped(command, write, rude, tmp_path, answer, options):
    write()
    rude.answer = answer
    ended = command("run", "job.toml", *options)
    assert ended.code in (1, 3)
    _assert_clean(ended.out + ended.err, "the terminal")
    _assert_clean_files(tmp_path)
    _assert_clean(command("check", "job.toml", *options[:1] * (options == ("--json",))).out, "check")
    status = command("status", "job.toml")
    _assert_clean(status.out + status.err, "status")


def test_an_escaped_message_is_still_shown(command, write, rude):
    write()
    rude.answer = _message(401)
    assert r"<\x1b>" in command("run", "job.toml").err
    assert r"<\u202e>" in json.loads(command("run", "job.toml", "--json").out)["stop_reason"]


def test_ids_are_escaped_in_json_and_read_back_exactly(command, write, rude, tmp_path):
    write()
    rude.answer = _some_rows(422)
    summary = json.loads(command("run", "job.toml", "--json").out)
    assert summary["first_failures"][0]["ids"] == [NASTY]
    failures = next((tmp_path / "out").glob("*failures*"))
    _assert_clean(failures.read_bytes().decode(), failures.name)
    assert json.loads(failures.read_text())["ids"] == [NASTY]


@pytest.mark.parametrize("name", ["check", "run"])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_names_in_metadata_are_escaped(command, write, rude, tmp_path, name, options):
    write("oip", "/v2/models/m/infer")
    rude.answer = _names
    ended = command(name, "job.toml", *options)
    _assert_clean(ended.out + ended.err, "the terminal")
    _assert_clean_files(tmp_path)


def test_names_of_files_and_columns_are_escaped(command, write, tmp_path):
    write()
    name = NAME.replace("/", "")
    (tmp_path / f"{name}.csv").write_bytes(f'a,"{NASTY}",c\n1,2,3\n'.encode())
    for settings in (
        [f"input.path={name}"],
        [f"input.path={name}.csv", "input.id=a"],
        [f"output.path={name}"],
        [f"input.column={name}"],
        [f"codec.{name}=1"],
        [f"endpoint.url=http://{name}/"],
        [f"codec.name={name}"],
        [name],
    ):
        ended = command("run", "job.toml", *(part for setting in settings for part in ("--set", setting)), "--json")
        assert ended.code == 2
        _assert_clean(ended.out + ended.err, settings[0])
    ended = command("run", f"{name}.toml")
    assert ended.code == 2
    _assert_clean(ended.out + ended.err, "an absent job")
    ended = command(name)
    _assert_clean(ended.out + ended.err, "an unknown command")


def test_an_output_with_an_odd_name_is_shown_escaped(command, write, rude, tmp_path):
    write()
    rude.answer = lambda sent: web.json_response({"predictions": sent["instances"]})
    path = "out/y\x1b\u202e\x85.jsonl"
    ended = command("run", "job.toml", "--set", f"output.path={path}")
    assert ended.code == 0, ended
    assert r"out/y\x1b\u202e\x85.jsonl" in ended.out
    _assert_clean(ended.out + ended.err, "the terminal")
    again = command("run", "job.toml", "--set", f"output.path={path}", "--json")
    assert json.loads(again.out)["outputs"] == [path]
    _assert_clean(again.out, "JSON")


def test_exceptions_and_events_of_the_library_are_escaped(rude, caplog):
    events = []

    def on_event(event: fanout.Event) -> None:
        events.append(event)
        raise ValueError(NASTY)

    for answer in ANSWERS.values():
        rude.answer = answer
        with fanout.SyncClient(
            f"{rude.url}/predict", codec="json", on_event=on_event, retry=fanout.RetryPolicy(max_attempts=1)
        ) as client:
            with pytest.raises(fanout.FanoutError) as caught:
                client.map(np.arange(8))
            assert isinstance(caught.value, fanout.RunStopped | fanout.RowsFailed)
            result = caught.value.result
            texts = [str(caught.value), repr(caught.value), *(failure.reason for failure in result.failures)]
            texts += [getattr(caught.value, "reason", ""), *(event.reason for event in events)]
            texts += [one.reason for one in client.statistics().endpoints]
        for text in texts:
            _assert_clean(text, "an exception or event")
    records = [logging.Formatter().format(record) for record in caplog.records]
    assert records
    for text in records:
        _assert_clean(text, "the log", lines=True)


async def test_a_traceback_of_a_local_model_is_escaped(run, write, tmp_path):
    write()
    (tmp_path / "rude_model.py").write_text(f"def predict(x):\n    raise ValueError({NASTY!r})\n")
    ended = await run("run", "job.toml", "--set", "endpoint.url=local://rude_model:predict", "--set", "codec.name=v1")
    assert "ValueError" in ended.err
    _assert_clean(ended.out + ended.err, "the terminal", lines=True)


def _assert_clean(text: str, where: str, *, lines: bool = False) -> None:
    """``lines``: a traceback, whose message may go over several lines."""
    for char in CONTROL.replace("\n", "") if lines else CONTROL:
        alone = char if char != "\n" else "<\n>"
        assert alone not in text, f"U+{ord(char):04X} is in {where}: {text[max(0, text.find(alone) - 80) :][:160]!r}"


def _assert_clean_files(folder: Path) -> None:
    """No file but the input and the answers, which are data, holds one."""
    kinds = ("*.journal", "*failures*", "*.recording")
    for path in (path for kind in kinds for path in folder.rglob(kind)):
        data = path.read_bytes()
        for char in CONTROL:
            assert f"<{char}>".encode() not in data, f"U+{ord(char):04X} is in {path.name}"
