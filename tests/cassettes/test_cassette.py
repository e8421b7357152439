"""The file of a recording: compact, without secrets, and never believed where it is damaged."""

from __future__ import annotations

import errno
import os
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fanout import Client, ConfigError, Endpoint
from fanout.cassettes.cassette import (
    HEAD,
    CassetteReader,
    CassetteWriter,
    Interaction,
    _line,
    digest,
    key_of,
    path_of,
)
from fanout.errors import InputError
from fanout.testing import MockEndpoint, Recorder, Replayer, Scripted

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret-of-the-house"


def interaction(number: int, body: bytes) -> tuple[Interaction, dict[str, bytes]]:
    name = digest([body])
    key = key_of("POST", "/x", name)
    return Interaction(key=key, method="POST", path="/x", sent=name, status=200, got=name, at=float(number)), {
        name: body
    }


def written(path: Path, *bodies: bytes) -> bytes:
    writer = CassetteWriter(path)
    for number, body in enumerate(bodies):
        writer.add(*interaction(number, body))
    writer.close()
    return path.read_bytes()


def test_written_values_are_read(tmp_path: Path) -> None:
    bodies = (b"", b"a\nb\n", np.random.default_rng(0).bytes(5000), b"zip me " * 1000)
    written(tmp_path / "r", *bodies)
    pages = CassetteReader(tmp_path / "r")
    assert [one.at for one in pages.interactions] == [0, 1, 2, 3]
    assert [pages.body(one.got) for one in pages.interactions] == list(bodies)


def test_a_body_is_in_the_file_once_and_compressed_where_that_halves_it(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(10_000)
    data = written(tmp_path / "r", noise, noise, b"zip me " * 5000, noise)
    assert data.count(noise) == 1
    assert 10_000 < len(data) < 13_000


def test_a_torn_end_is_left_out_wherever_it_is_torn(tmp_path: Path) -> None:
    whole = len(written(tmp_path / "short", b"first body"))
    data = written(tmp_path / "r", b"first body", b"second\nbody")
    for end in range(whole, len(data)):
        (tmp_path / "r").write_bytes(data[:end])
        assert len(CassetteReader(tmp_path / "r").interactions) == 1


def test_a_file_that_is_damaged_or_no_recording_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "r", b"first body", b"second body")
    (tmp_path / "r").write_bytes(data.replace(b"first", b"fIrst"))
    pages = CassetteReader(tmp_path / "r")
    with pytest.raises(ConfigError, match="damaged: body"):
        pages.body(pages.interactions[0].got)
    for wrong in (b"", b"x"):
        (tmp_path / "r").write_bytes(wrong)
        with pytest.raises(ConfigError, match="no cassette"):
            CassetteReader(tmp_path / "r")
    (tmp_path / "r").write_bytes(data.replace(b'{"key"', b'?"key"'))
    with pytest.raises(ConfigError, match="damaged at byte"):
        CassetteReader(tmp_path / "r")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        CassetteReader(tmp_path / "absent")


def test_a_body_that_unpacks_to_more_than_it_states_takes_no_more_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(64 * 2**20), 1)
    head = {"body": digest([b"x" * 100]), "bytes": 100, "stored": len(bomb), "coding": "zlib"}
    (tmp_path / "r").write_bytes(HEAD + _line(head) + bomb + b"\n")
    cassette = CassetteReader(tmp_path / "r")
    tracemalloc.start()
    with pytest.raises(ConfigError, match="damaged: body"):
        cassette.body(head["body"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 + len(bomb)


@pytest.mark.parametrize("wrong", [{"stored": -5}, {"stored": -200}, {"stored": 1.0}, {"bytes": -1}, {"bytes": None}])
def test_lengths_that_no_body_has_are_damage(tmp_path: Path, wrong: dict[str, Any]) -> None:
    head = {"body": "00", "bytes": 3, "stored": 3, "coding": "", **wrong}
    (tmp_path / "r").write_bytes(HEAD + _line(head) + b"abc\n")
    with pytest.raises(ConfigError, match="damaged at byte"):
        CassetteReader(tmp_path / "r")


def test_no_changed_byte_passes_unnoticed(tmp_path: Path) -> None:
    bodies = [b"first body", b"second\nbody" * 20, "third \u202e".encode()]
    data = written(tmp_path / "r", *bodies)
    for at in range(len(data)):
        (tmp_path / "r").write_bytes(data[:at] + bytes([data[at] ^ 0x15]) + data[at + 1 :])
        try:
            pages = CassetteReader(tmp_path / "r")
            read = [pages.body(one.got) for one in pages.interactions]
        except InputError:
            continue
        assert read == bodies[: len(read)], f"byte {at} was changed"
        assert len(read) == 3 or at >= data.rindex(b"\n", 0, -1), f"byte {at} was changed"


def test_a_text_with_control_characters_is_not_in_the_file_as_it_is(tmp_path: Path) -> None:
    bodies = [b"\x1b[2J", "a\u202eb".encode(), "\x85".encode(), b"\x7f"]
    data = written(tmp_path / "r", *bodies)
    assert not any(body in data for body in bodies)
    pages = CassetteReader(tmp_path / "r")
    assert [pages.body(one.got) for one in pages.interactions] == bodies


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    written(tmp_path / "r", b"body")
    with pytest.raises(ConfigError, match="already exists: remove it"):
        CassetteWriter(tmp_path / "r")
    with pytest.raises(ConfigError, match="cannot be written: File exists"):
        CassetteWriter(tmp_path / "r" / "below")


async def test_a_full_disk_ends_the_run_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with MockEndpoint(lambda x: x) as mock, Recorder(tmp_path / "r") as recorder, monkeypatch.context() as patched:
        patched.setattr(recorder._cassette, "_file", Full())  # noqa: SLF001 - a disk that is full from now on
        async with Client(mock.url("v1"), codec="v1", transport=recorder) as client:
            with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
                await client.map(np.ones(3))


def test_neither_host_nor_query_values_distinguish_requests() -> None:
    assert path_of("https://me:pass@one.test/a/b?key=1&v=2#x") == "/a/b?key=***&v=***"
    assert path_of("http://other.test/a/b?key=9&v=8") == "/a/b?key=***&v=***"
    assert path_of("http://other.test") == "/"


@pytest.mark.parametrize("status", [200, 503])
async def test_credentials_are_not_in_the_file(tmp_path: Path, status: int) -> None:
    def headers(request: Any) -> dict[str, str]:
        return {"Set-Cookie": f"sid={SECRET}", "X-RateLimit-Owner": SECRET, "X-Other": "other"}

    endpoint = Endpoint(
        url=f"http://fanout-mock.test/v1/models/mock:predict?api_key={SECRET}",
        headers={"Authorization": f"Bearer {SECRET}"},
    )
    body = b'{"predictions": [["%s"], [""], [""]]}' % SECRET.encode()
    with MockEndpoint(lambda x: x) as mock, Recorder(tmp_path / "r") as recorder:
        mock.script(Scripted(status=status, body=body, headers=headers(None)))
        async with Client(endpoint, codec="v1", transport=recorder) as client:
            await client.map(np.ones(3))
    data = (tmp_path / "r").read_bytes()
    assert SECRET.encode() not in data
    assert b"Set-Cookie" not in data
    assert b"X-Other" not in data
    assert b"X-RateLimit-Owner" in data
    if status == 200:
        async with Client(endpoint, codec="v1", transport=Replayer(tmp_path / "r")) as client:
            assert (await client.map(np.ones(3))).tolist() == [["*" * len(SECRET)], [""], [""]]


async def test_other_header_fields_are_kept_on_request(tmp_path: Path) -> None:
    with MockEndpoint(lambda x: x) as mock, Recorder(tmp_path / "r", headers=["X-Units"]) as recorder:
        mock.script(Scripted(body=b'{"predictions": [1.0]}', headers={"x-units": "mm"}))
        async with Client(mock.url("v1"), codec="v1", transport=recorder) as client:
            await client.map(np.ones(1))
    assert CassetteReader(tmp_path / "r").interactions[0].headers == {
        "Content-Type": "application/json",
        "x-units": "mm",
    }


def test_a_pipe_in_the_place_of_a_cassette_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tape")
    with pytest.raises(InputError, match="tape cannot be read"):
        CassetteReader(tmp_path / "tape")
