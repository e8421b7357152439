"""The network guard: no connection opens while it is entered, and the error names the caller."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import numpy as np
import pytest

import fanout
from fanout.testing import FaultServer, NetworkUseError, NoNetwork

X = np.arange(12.0).reshape(4, 3)


ADDRESS = ("127.0.0.1", 9)


@pytest.mark.parametrize(
    ("attempt", "place"),
    [
        (lambda tcp, _: tcp.connect(ADDRESS), "127.0.0.1:9"),
        (lambda tcp, _: tcp.connect_ex(ADDRESS), "127.0.0.1:9"),
        (lambda _, udp: udp.sendto(b"x", ADDRESS), "127.0.0.1:9"),
        (lambda _, udp: udp.sendmsg([b"x"], [], 0, ADDRESS), "127.0.0.1:9"),
        (lambda *_: socket.getaddrinfo("somewhere.test", 80), "somewhere.test:80"),
    ],
    ids=["connect", "connect_ex", "sendto", "sendmsg", "look-up"],
)
def test_connections_out_of_the_process_are_stopped(attempt, place):
    guard = NoNetwork()
    refused = pytest.raises(NetworkUseError, match=f"tried to reach {place}")
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, refused, guard:
        attempt(tcp, udp)
    assert guard.refused == [place]


def test_a_refused_connection_that_was_swallowed_is_an_error_at_the_end():
    with pytest.raises(NetworkUseError, match=r"somewhere\.test:80"), NoNetwork(), suppress(AssertionError):
        socket.getaddrinfo("somewhere.test", 80)


async def test_a_client_that_connects_fails_with_the_place():
    async with FaultServer(lambda x: x) as server:
        place = server.origin.removeprefix("http://")
        with pytest.raises(NetworkUseError, match=place), NoNetwork():
            async with fanout.Client(server.url("v1"), codec="v1") as client:
                await client.map(X)
        assert server.received == 0


@pytest.mark.parametrize("allowed", ["host", "place"])
async def test_servers_of_the_test_can_be_let_through(allowed):
    async with FaultServer(lambda x: x) as server:
        with NoNetwork(allow=["127.0.0.1" if allowed == "host" else server.origin.removeprefix("http://")]):
            async with fanout.Client(server.url("v1"), codec="v1") as client:
                assert np.array_equal(await client.map(X), X)


def test_nothing_is_stopped_behind_it_or_between_processes_of_the_machine(tmp_path):
    with NoNetwork(), socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        one.connect(str(tmp_path / "s"))
        asyncio.run(asyncio.sleep(0))
    assert socket.getaddrinfo("127.0.0.1", 80)
