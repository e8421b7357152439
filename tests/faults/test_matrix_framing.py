"""Rows 8 to 13, 17 to 21, 59 and 76 of the fault matrix: responses whose bytes contradict their header."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from fanout.testing import FaultServer
from tests.faults.scene import CHUNKS, X, assert_failed, assert_whole, client, double, once_for, when_asked_for

if TYPE_CHECKING:
    from fanout import Result

CAP = 2**20


async def mended(fault: str) -> FaultServer:
    """An answer with ``fault``, first and later on, costs one more request each and spoils nothing."""
    async with FaultServer(double, faults=once_for([0, 200], fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert server.hits[fault] == result.stats.retries == 2
    assert result.stats.requests == server.received == CHUNKS + 2
    return server


async def capped(fault: str) -> str:
    """A row whose requests always meet ``fault`` fails after all attempts; no other row does. Gives the reason."""
    async with FaultServer(double, faults=when_asked_for(130, fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(130, 131))
    (failure,) = result.failures
    assert failure.attempts >= 4
    assert server.received <= CHUNKS - 1 + 4 + 2 * 6 + 2
    return failure.reason


async def isolated(fault: str) -> None:
    """A row whose requests always meet ``fault`` is found by splitting; no other row fails."""
    async with FaultServer(double, faults=when_asked_for(130, fault)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(130, 131))
    assert server.received <= CHUNKS + 1 + 2 * 6 + 1


async def test_row_08_a_reset_in_mid_body_is_tried_again_and_merges_no_part() -> None:
    await mended("reset-mid-body")
    assert "broke off" in await capped("reset-mid-body")


async def test_row_09_a_body_shorter_than_its_content_length_is_tried_again() -> None:
    await mended("short-body")
    assert "broke off" in await capped("short-body")


async def test_row_10_a_chunked_body_without_its_end_is_tried_again() -> None:
    await mended("chunked-without-end")
    assert "broke off" in await capped("chunked-without-end")


async def test_row_11_a_body_cut_where_only_the_connection_ends_it_is_caught_by_its_syntax() -> None:
    await mended("close-delimited-cut")
    await isolated("close-delimited-cut")


async def test_row_12_a_content_length_that_is_too_small_costs_the_connection() -> None:
    server = await mended("small-content-length")
    assert server.connections == 3
    await capped("small-content-length")


async def test_row_13_two_content_lengths_are_tried_again_up_to_the_cap() -> None:
    await mended("two-content-lengths")
    await capped("two-content-lengths")


async def test_row_13_a_content_length_beside_chunks_is_tried_again_up_to_the_cap() -> None:
    await mended("length-and-chunked")
    await capped("length-and-chunked")


async def test_row_17_gzip_cut_short_inside_valid_framing_is_tried_again() -> None:
    await mended("gzip-cut")
    assert "breaks off" in await capped("gzip-cut")


async def test_row_17_gzip_without_its_check_sum_is_tried_again() -> None:
    await mended("gzip-no-crc")
    assert "breaks off" in await capped("gzip-no-crc")


async def test_row_18_a_bad_gzip_check_sum_is_tried_again_up_to_the_cap() -> None:
    await mended("gzip-bad-crc")
    assert "cannot be decompressed" in await capped("gzip-bad-crc")


async def test_row_18_a_plain_body_labelled_gzip_is_tried_again_up_to_the_cap() -> None:
    await mended("gzip-not")
    assert "cannot be decompressed" in await capped("gzip-not")


async def swallowed(fault: str) -> tuple[Result, FaultServer, int]:
    """Return the outcome of a run with one ``fault``, and its peak memory."""
    async with FaultServer(double) as server:
        server.script(fault)  # the server allocates for the fault now, outside the measurement
        async with client(server, cap=CAP) as c:
            await c.map(X[:64], on_error="keep")
        sent = server.bytes_sent
        server.script(None, None, fault)
        async with client(server, cap=CAP) as c:
            tracemalloc.start()
            try:
                result = await c.map(X, on_error="keep")
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert server.bytes_sent - sent < 32 * CAP
    return result, server, peak


async def test_row_19_a_gzip_bomb_fails_its_chunk_at_once_and_takes_no_more_memory_than_the_cap() -> None:
    result, _, peak = await swallowed("gzip-bomb:67108864")
    assert_failed(result, range(128, 192))
    assert "cap of 1,048,576 bytes once decompressed" in result.failures[0].reason
    assert (result.stats.requests, result.failures[0].attempts) == (CHUNKS, 1)
    assert peak < 3 * CAP


async def test_row_20_an_endless_body_fails_its_chunk_at_the_byte_cap() -> None:
    result, server, peak = await swallowed("endless")
    assert_failed(result, range(128, 192))
    assert "larger than the cap of 1,048,576 bytes" in result.failures[0].reason
    assert (result.stats.requests, result.failures[0].attempts) == (CHUNKS, 1)
    assert server.connections == 3, "the connection is given up, once in each of two runs"
    assert peak < 4 * CAP


async def test_row_21_a_header_beyond_64_kib_is_tried_again_up_to_the_cap() -> None:
    await mended("huge-header")
    assert "max_header_bytes" in await capped("huge-header")


@pytest.mark.parametrize("fault", ["xchunked", "chunked-gzip", "partial"])
async def test_row_59_a_body_without_complete_framing_is_no_response(fault: str) -> None:
    await mended(fault)
    await capped(fault)


async def test_row_76_a_header_of_60_kb_is_no_fault() -> None:
    async with FaultServer(double, faults=lambda _: "huge-header:60000") as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    assert result.stats.requests == CHUNKS
