"""Rows 37 to 41 of the fault matrix: requests that are sent away, not trusted, or not taken."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trustme

from fanout import Limits, RunStopped
from fanout.serving.exchange import ServerResponse, StatusError
from fanout.testing import FaultServer
from tests.faults.scene import CHUNK, CHUNKS, X, assert_failed, assert_whole, client, double

if TYPE_CHECKING:
    from pathlib import Path

KEY = {"X-Api-Key": "s3cr3t-k3y", "Authorization": "Bearer s3cr3t-t0k3n"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_row_37_a_redirect_stops_the_run_and_nothing_leaves_the_origin(status: int) -> None:
    async with FaultServer(double) as elsewhere, FaultServer(double) as server:
        there = elsewhere.url("v1")
        server.script(
            None, None, ServerResponse(status=status, headers={"Location": f"{there}?k=s3cr3t-k3y"}, body=b"")
        )
        async with client(server, headers=KEY) as c:
            with pytest.raises(RunStopped) as caught:
                await c.map(X)
    assert caught.value.kind == "redirect"
    assert f"{there}?k=***" in caught.value.reason
    assert "s3cr3t" not in str(caught.value)
    assert (elsewhere.connections, elsewhere.bytes_received) == (0, 0)
    assert server.received == 3
    assert caught.value.result.ok.sum() == 2 * CHUNK


async def test_row_37_metadata_is_not_fetched_from_elsewhere_either() -> None:
    async with FaultServer(double) as elsewhere, FaultServer(double) as server:
        server.script_metadata(f"redirect:{elsewhere.url('oip')}")
        async with client(server, codec="oip", headers=KEY) as c:
            with pytest.raises(RunStopped) as caught:
                await c.map(X)
    assert caught.value.kind == "redirect"
    assert elsewhere.connections == server.received == 0


def presenting(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> str:
    """A file with the certificate of ``authority``."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


async def refused_by_the_client(certificate: trustme.LeafCert, ca_file: str | None) -> str:
    """Return the stop of a run against a server with this certificate, after one connection and no request."""
    async with (
        FaultServer(double, tls=presenting(certificate)) as server,
        client(server, headers=KEY, ca_file=ca_file) as c,
    ):
        with pytest.raises(RunStopped) as caught:
            await c.map(X)
        requests = c.statistics().requests
    assert caught.value.kind == "refused"
    assert requests == 1, "there is no retry"
    assert server.received == server.bytes_received == 0, "not a byte of the request went out"
    return caught.value.reason


async def test_row_38_a_valid_certificate_is_taken(authority: trustme.CA, trusted: str) -> None:
    tls = presenting(authority.issue_cert("127.0.0.1"))
    async with FaultServer(double, tls=tls) as server, client(server, ca_file=trusted) as c:
        assert_whole(await c.map(X, on_error="keep"))


async def test_row_38_an_expired_certificate_stops_the_run_without_retries(authority: trustme.CA, trusted: str) -> None:
    long_ago = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=long_ago + dt.timedelta(days=30))
    assert "expired" in await refused_by_the_client(expired, trusted)


async def test_row_38_a_certificate_of_another_host_stops_the_run_without_retries(
    authority: trustme.CA, trusted: str
) -> None:
    assert "127.0.0.1" in await refused_by_the_client(authority.issue_cert("elsewhere.test"), trusted)


async def test_row_38_an_unknown_authority_stops_the_run_without_retries(authority: trustme.CA) -> None:
    assert "certificate" in await refused_by_the_client(authority.issue_cert("127.0.0.1"), None)


@pytest.mark.parametrize(("status", "more"), [(401, 0), (403, 60)])
async def test_row_39_refused_credentials_in_mid_run_stop_it_early(status: int, more: int) -> None:
    """A 403 may be that of single rows: some are tried alone, and stay pending where all of them are refused."""
    async with FaultServer(double) as server:
        server.script(*[None] * 5, *[status] * 100)
        async with client(server, limits=Limits(concurrency=2), chunk_rows=4) as c:
            with pytest.raises(RunStopped) as caught:
                await c.map(X)
    result = caught.value.result
    assert caught.value.kind == "refused"
    assert server.received <= 5 + 2 + more, "what was in flight, and no more"
    assert result.ok.sum() == 5 * 4
    assert np.array_equal(result.values[result.ok], (X * 2)[result.ok])
    assert result.failures == ()
    assert sum(len(rows) for rows in result.pending) == len(X) - 5 * 4


def refusing(status: int, *, row: int | None = None, more_than: int | None = None):
    """A model that does not take that row of X, or more rows than that."""

    def model(x: np.ndarray) -> np.ndarray:
        rows = np.asarray(x)
        if (row is not None and (rows[:, 0] == X[row, 0]).any()) or (more_than is not None and len(rows) > more_than):
            raise StatusError(status, "not this")
        return rows * 2

    return model


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("row", [0, 63, 130, 511])
async def test_row_40_one_bad_row_fails_alone(status: int, row: int) -> None:
    async with FaultServer(refusing(status, row=row)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_failed(result, range(row, row + 1))
    assert result.failures[0].status == status
    assert server.received <= CHUNKS + 2 * 6 + 1


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("most", [pytest.param(1, marks=pytest.mark.slow), 2, 16, 40])
async def test_row_40_a_size_that_is_not_taken_is_found(status: int, most: int) -> None:
    async with FaultServer(refusing(status, more_than=most)) as server, client(server) as c:
        result = await c.map(X, on_error="keep")
    assert_whole(result)
    too_large = sum(len(request.json()["instances"]) > most for request in server.requests)
    assert too_large <= 2 * 63, "the chunk that finds it out, and the one that was under way"


async def test_row_41_a_413_that_comes_before_the_body_is_read_is_seen() -> None:
    wide = np.random.default_rng(0).random((CHUNK, 6000)) + 0.5
    async with FaultServer(double) as server:
        server.script("413-early")
        async with client(server, cap=2**26) as c:
            result = await c.map(wide, on_error="keep")
    assert_whole(result, wide * 2)
    assert (result.stats.splits, result.stats.retries) == (1, 0)
    assert server.received == result.stats.requests == 3
