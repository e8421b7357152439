"""The server that misbehaves: its names, its chance, and that it is a good server otherwise."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from contextlib import suppress

import numpy as np
import orjson
import pytest

from fanout.errors import ConfigError
from fanout.faults import actions
from fanout.faults.endpoint import FaultSampler
from fanout.faults.names import FAULTS, parse_fault, parse_faults, probabilities
from fanout.faults.server import FaultServer
from fanout.serving.exchange import ServerRequest, ServerResponse, json_answer
from fanout.serving.protocol import answer

ROWS = b'{"instances": [[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]]}'
PATH = "/v1/models/faulty:predict"


def double(x: np.ndarray) -> np.ndarray:
    return np.asarray(x) * 2


async def exchange(server: FaultServer, raw: bytes) -> bytes:
    """All that comes back on a connection of its own."""
    reader, writer = await asyncio.open_connection(*server.origin.removeprefix("http://").split(":"))
    writer.write(raw)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def post(body: bytes = ROWS, path: str = PATH, fields: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def _as_gzip(body: bytes, known: dict[bytes, str]) -> str:
    """How far a body can be decompressed, or the error."""
    gzip = zlib.decompressobj(31)
    try:
        text = gzip.decompress(body)
    except zlib.error as error:
        return str(error)
    return f"{known.get(text, 'a part')}, {'finished' if gzip.eof else 'unfinished'}"


class TestNames:
    @pytest.mark.parametrize("name", FAULTS)
    def test_every_name_is_a_fault(self, name):
        assert parse_fault(name).name == name

    @pytest.mark.parametrize(
        ("spec", "value"), [("drip:0.5", 0.5), ("503", 503), (429, 429), ("redirect:http://a:1/b", "http://a:1/b")]
    )
    def test_a_name_can_carry_a_parameter(self, spec, value):
        assert parse_fault(spec).value == value

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("dripp", "did you mean 'drip'"),
            ("short", "did you mean 'short-body'"),
            ("drip:fast", "'fast'"),
            ("drip:-1", "'-1'"),
            ("drip:nan", "'nan'"),
            ("nan:1", "no parameter"),
            ("200", "no fault '200'"),
            ("600", "no fault '600'"),
        ],
    )
    def test_an_unknown_fault_is_an_error_that_names_the_nearest(self, spec, message):
        with pytest.raises(ConfigError, match=message):
            parse_fault(spec)

    def test_probabilities_are_read_from_a_text(self):
        assert parse_faults("503=0.1, drip:0.05=0.02,") == {"503": 0.1, "drip:0.05": 0.02}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("503", "NAME=PROBABILITY"),
            ("503=often", "NAME=PROBABILITY"),
            ("503=1.5", "0 to 1"),
            ("503=nan", "0 to 1"),
            ("503=0.6,drip=0.6", r"add up to 1\.2"),
            ("slience=0.1", "did you mean 'silence'"),
            ("413-early=0.1", "script it"),
        ],
    )
    def test_probabilities_that_make_no_sense_are_refused(self, text, message):
        with pytest.raises(ConfigError, match=message):
            parse_faults(text)


class TestChance:
    faults = probabilities({"503": 0.1, "drip": 0.05, "nan": 0.05})
    bodies = tuple(str(i).encode() for i in range(20_000))

    def test_faults_come_as_often_as_they_should(self):
        dice = FaultSampler(self.faults, seed=1)
        thrown = Counter(fault and fault.name for fault in map(dice.sample, self.bodies))
        assert {name: round(n / 20_000, 2) for name, n in thrown.items()} == {
            None: 0.8,
            "503": 0.1,
            "drip": 0.05,
            "nan": 0.05,
        }

    def test_a_body_meets_its_fault_in_whatever_order_it_comes(self):
        one, other = FaultSampler(self.faults, seed=1), FaultSampler(self.faults, seed=1)
        there = {body: one.sample(body) for body in self.bodies}
        assert {body: other.sample(body) for body in reversed(self.bodies)} == there

    def test_another_seed_brings_other_faults(self):
        one, other = FaultSampler(self.faults, seed=1), FaultSampler(self.faults, seed=-2)
        assert [one.sample(b) for b in self.bodies] != [other.sample(b) for b in self.bodies]

    def test_no_body_has_a_fault_more_than_twice_in_a_row(self):
        dice = FaultSampler(probabilities({"503": 1.0}), seed=0)
        assert [dice.sample(b"x") is not None for _ in range(7)] == [True, True, False, True, True, False, True]


class TestSpoiltAnswers:
    def test_the_rows_of_every_protocol_are_found(self):
        documents = [
            [[1.5], [2.5]],
            {"predictions": [[1.5], [2.5]]},
            {"data": [{"index": 0, "embedding": [1.5]}, {"index": 1, "embedding": [2.5]}]},
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2.5]}]},
        ]
        for document in documents:
            spoilt = actions.with_rows(lambda rows: rows[:1])(json_answer(document)).body
            assert b"1.5" in spoilt
            assert b"2.5" not in spoilt
            assert b"NaN" in actions.with_value("NaN")(json_answer(document)).body

    def test_text_without_rows_stays_unchanged(self):
        assert actions.with_rows(lambda rows: [])(json_answer({"ok": 1})).body == b'{"ok":1}'

    def test_binary_tensors_are_asked_for_as_json(self):
        document = {
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}],
            "outputs": [{"name": "output", "parameters": {"binary_data": True}}],
        }
        head = orjson.dumps(document)
        request = ServerRequest(
            method="POST",
            path="/v2/models/faulty/infer",
            headers={"Inference-Header-Content-Length": str(len(head))},
            body=head + np.array([1.5, 2.5], np.float32).tobytes(),
        )
        response = answer(FaultServer(double).model, actions.in_json(request))
        assert orjson.loads(response.body)["outputs"][0]["data"] == [3.0, 5.0]


class TestServer:
    async def test_it_answers_the_requests_without_a_fault(self):
        async with FaultServer(double) as server:
            whole = await exchange(server, post() + post(fields="Connection: close\r\n"))
            assert whole.count(b"[[3.0,5.0],[7.0,9.0],[11.0,13.0]]") == 2
            assert (server.received, server.connections, server.rows, server.in_flight) == (2, 1, 6, 0)
            assert server.bytes_sent == len(whole)
            assert [request.body for request in server.requests] == [ROWS, ROWS]
            assert len(server.times) == 2

    async def test_it_takes_chunked_bodies_and_those_that_ask_first(self):
        raw = b"POST %s HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n" % PATH.encode()
        async with FaultServer(double) as server:
            whole = await exchange(server, raw + b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROWS), ROWS))
        assert whole.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")

    @pytest.mark.parametrize("raw", [b"", b"POST", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", post()[:-1]])
    async def test_a_request_without_an_end_gets_no_answer(self, raw):
        async with FaultServer(double) as server:
            assert await exchange(server, raw) == b""

    async def test_steps_come_in_their_order_and_before_chance(self):
        async with FaultServer(double, faults={"500": 1.0}) as server:
            server.script(None, 503, "502", json_answer({}, status=418))
            statuses = [(await exchange(server, post()))[9:12] for _ in range(5)]
        assert statuses == [b"200", b"503", b"502", b"418", b"500"]
        assert server.hits == {"503": 1, "502": 1, "500": 1}

    async def test_a_function_may_decide(self):
        async with FaultServer(double, faults=lambda request: 503 if b"1.5" in request.body else None) as server:
            assert (await exchange(server, post()))[9:12] == b"503"
            assert (await exchange(server, post(b'{"instances": [1]}')))[9:12] == b"200"
            server.misbehave(None)
            assert (await exchange(server, post()))[9:12] == b"200"

    async def test_a_wrong_step_is_an_error_when_it_is_scripted(self):
        with pytest.raises(ConfigError, match="did you mean"):
            FaultServer(double).script("drop")

    @pytest.mark.parametrize(
        ("fault", "read"),
        [
            ("gzip-cut", "a part, unfinished"),
            ("gzip-no-crc", "the answer, unfinished"),
            ("gzip-bad-crc", "Error -3 while decompressing data: incorrect data check"),
            ("gzip-not", "Error -3 while decompressing data: incorrect header check"),
            ("gzip-bomb:1000", "a thousand zeros, finished"),
        ],
    )
    async def test_a_compressed_body_has_no_other_damage_than_its_name_says(self, fault, read):
        async with FaultServer(double) as server:
            server.script(None, fault)
            (_, whole), (head, body) = [(await exchange(server, post())).split(b"\r\n\r\n", 1) for _ in range(2)]
        assert b"\r\nContent-Encoding: gzip" in head
        assert _as_gzip(body, {whole: "the answer", bytes(1000): "a thousand zeros"}) == read

    async def test_metadata_has_a_script_of_its_own(self):
        async with FaultServer(double) as server:
            server.script_metadata(503)
            get = b"GET /v1/models/faulty HTTP/1.1\r\n\r\n"
            assert [(await exchange(server, get))[9:12] for _ in range(2)] == [b"503", b"200"]
            assert server.received == 0
            assert b'"faults":{"503":1}' in await exchange(server, b"GET /stats HTTP/1.1\r\n\r\n")

    async def test_a_pause_refuses_connections_on_the_port_that_it_keeps(self):
        async with FaultServer(double) as server:
            host, port = server.origin.removeprefix("http://").split(":")
            await server.refuse(0.05)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)
            while True:
                try:
                    assert b"200 OK" in await exchange(server, post())
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)

    async def test_it_leaves_no_task_and_no_socket_whatever_it_was_doing(self):
        before = asyncio.all_tasks()
        async with FaultServer(double) as server:
            server.script("silence", "endless", "drip:1", "slow:60", "refused:60")
            host, port = server.origin.removeprefix("http://").split(":")
            peers = [await asyncio.open_connection(host, port) for _ in range(4)]
            for _, writer in peers:
                writer.write(post())
            await asyncio.wait_for(server.arrived(4), 5)
        assert asyncio.all_tasks() == before
        for _, writer in peers:
            writer.transport.abort()
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)

    async def test_a_port_in_use_is_an_error_that_says_so(self):
        async with FaultServer(double) as server:
            port = int(server.origin.rpartition(":")[2])
            with pytest.raises(ConfigError, match="cannot listen"):
                async with FaultServer(double, port=port):
                    pass

    async def test_a_whole_answer_can_be_scripted(self):
        async with FaultServer(double) as server:
            server.script("one-row", ServerResponse(status=200, headers={}, body=b"whole"))
            assert b"[[3.0,5.0]]" in await exchange(server, post())
            assert (await exchange(server, post())).endswith(b"\r\n\r\nwhole")
