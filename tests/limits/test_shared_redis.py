"""Shared limits in a real Redis or Valkey: the script, the connection, and its loss."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import numpy as np
import pytest
import trustme
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import fanout
from fanout import Limits
from fanout.limits import Cost
from fanout.limits.shared import BackendLostError, Notice, bounds_of, open_backend
from fanout.limits.shared_redis import checked_reply, message, script_text
from fanout.limits.shared_state import SharedState
from tests.limits.shared_scene import CountingEndpoint, free_port, redis_server
from tests.limits.test_shared_state import RATES, STEPS, Clients

pytestmark = pytest.mark.slow
redis = pytest.importorskip("redis")

# The rights that docs/cluster.md gives to the user of fanout.
ACL = (
    "on >hunter22 ~fanout:* &fanout:* +@connection +@pubsub +evalsha +script|load "
    "+time +hset +hget +hgetall +hdel +pexpire"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def decided_by_script(server):
    """Decides about a call at a time of the test; returns the reply, and whether the others are told of permits."""
    source = script_text()
    notice = "redis.call('PUBLISH', ARGV[1], 'permits')"
    assert source.count("redis.call('TIME')") == source.count(notice) == 1
    source = source.replace("redis.call('TIME')", "{ARGV[3], 0}").replace(notice, "redis.call('SET', 'told', 1)")
    with redis.Redis(port=server.port) as client:
        script = client.register_script(source)

        def decide(call, bounds, now):
            reply = script(keys=["k"], args=["channel", message(call, bounds), repr(now)])
            return checked_reply(reply, len(call.wants)), client.delete("told") == 1

        yield client, decide


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
@example(  # a client that waited, and expired, begins to wait again
    rates={},
    burst=0.0,
    counted={},
    concurrency=1,
    charge=0.0,
    steps=[
        (0.0, "a", [Cost(1, 1, 1)], 0),
        (0.0, "b", [Cost(1, 1, 1)], 0),
        (4.0, "a", [], 0),
        (4.0, "b", [Cost(1, 1, 1)], 0),
    ],
)
@given(
    rates=st.one_of(st.just({}), RATES),
    burst=st.floats(0, 2),
    steps=STEPS,
    counted=st.fixed_dictionaries({}, optional={"max_requests": st.integers(1, 20), "max_cost": st.floats(1, 20)}),
    concurrency=st.one_of(st.just("auto"), st.integers(1, 5)),
    charge=st.floats(-5, 5),
)
def test_the_script_decides_as_the_state_in_python(
    decided_by_script, rates, burst, steps, counted, concurrency, charge
):
    client, decide_in_redis = decided_by_script
    client.flushall()
    bounds = bounds_of(Limits(**rates, burst=burst if rates else 0.0, concurrency=concurrency))._replace(**counted)
    state = SharedState(bounds)

    def decide(call, now):
        call = call._replace(charge=charge)
        expected, tells = state.reserve(call, now)
        reply, told = decide_in_redis(call, bounds, now)
        assert [one.decided for one in reply.answers] == [one.decided for one in expected.answers]
        seconds = [one.seconds for one in expected.answers]
        assert [one.seconds for one in reply.answers] == pytest.approx(seconds, abs=2e-6)
        assert (reply.state, reply.others_wait, told) == (expected.state, expected.others_wait, tells)
        return expected

    clients, now = Clients(bounds, decide), 1.7e9
    for wait, name, costs, ended in steps:
        now += wait * 3  # now and then a client expires
        clients.step(now, name, costs, ended, price=0.7)


async def answers(url, **limits):
    """Whether a client with the limits in this Redis gets its answers."""
    async with CountingEndpoint() as endpoint:
        settings = fanout.Limits(shared=url, requests_per_second=1000, **limits)
        async with fanout.Client(endpoint.url, codec="v1", limits=settings) as client:
            return (await client.map(np.arange(6.0).reshape(3, 2))).tolist() == [0.0, 2.0, 4.0]


async def test_user_and_password_come_from_the_environment(tmp_path, monkeypatch):
    user = ["--user", "fanout", *ACL.split()]
    with redis_server(tmp_path, "--requirepass", "hunter22-admin", *user) as server:
        at = f"127.0.0.1:{server.port}"
        monkeypatch.setenv("REDIS_PASSWORD", "hunter22")
        assert await answers(f"redis://fanout:${{REDIS_PASSWORD}}@{at}")
        monkeypatch.setenv("REDIS_PASSWORD", "wrong-password")
        with pytest.raises(fanout.ConfigError, match="refuses the user or the password") as refused:
            await answers(f"redis://fanout:${{REDIS_PASSWORD}}@{at}")
        assert "wrong-password" not in str(refused.value)
        with pytest.raises(fanout.ConfigError, match="refuses the user or the password"):
            await answers(f"redis://{at}")
        monkeypatch.delenv("REDIS_PASSWORD")
        with pytest.raises(fanout.ConfigError, match="the environment variable REDIS_PASSWORD is not set"):
            await answers(f"redis://fanout:${{REDIS_PASSWORD}}@{at}")


async def test_a_user_who_may_not_listen_is_refused_at_the_start(tmp_path):
    user = ["--user", "fanout", *ACL.replace("&fanout:*", "resetchannels").split()]
    refusal = pytest.raises(fanout.ConfigError, match="no permissions to access one of the channels")
    with redis_server(tmp_path, *user) as server, refusal:
        await answers(f"redis://fanout:hunter22@127.0.0.1:{server.port}")


async def test_tls(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    files = ["--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-ca-cert-file", "ca.pem"]
    port = free_port()
    with redis_server(tmp_path, "--tls-port", str(port), "--tls-auth-clients", "no", *files):
        assert await answers(f"rediss://127.0.0.1:{port}?ssl_ca_certs={tmp_path}/ca.pem")
        with pytest.raises(fanout.ConfigError, match=r"the certificate of rediss://127.0.0.1:.* is not valid"):
            await answers(f"rediss://127.0.0.1:{port}")


async def test_keys_begin_with_the_name_of_the_run_and_expire(server):
    assert await answers(server.url, shared_key="my-run")
    with redis.Redis(port=server.port) as client:
        (key,) = client.keys("*my-run*")
        assert key == b"fanout:{my-run}:limits"
        assert 0 < client.ttl(key) <= 7 * 24 * 3600


async def test_foreign_messages_on_the_channel_change_nothing(server):
    backend = open_backend(server.url, "noisy", bounds_of(Limits()))
    await backend.connect()
    notices = backend.notices()
    with redis.Redis(port=server.port) as client:
        for data in (b"", b"permits please", b"cooldown e -1", b"cooldown e nan", b"cooldown e 1e999", b"\xff" * 50):
            client.publish("fanout:{noisy}:limits", data)
        client.publish("fanout:{noisy}:limits", b"cooldown abc 1.5")
        client.publish("fanout:{noisy}:limits", b"permits")
    assert [await anext(notices), await anext(notices)] == [Notice("abc", 1.5), Notice()]
    assert isinstance(notices, AsyncGenerator)
    await notices.aclose()
    await backend.close()


@pytest.mark.parametrize("reply", [None, [], [b"s", 0, 9, b"0"], [b"s", 0, 0, b"-1"], [b"s", 0, 0, b"nan"], [b"s", 0]])
def test_an_answer_that_is_none_of_the_script_is_not_taken(reply):
    with pytest.raises(BackendLostError, match="gives an answer that is none"):
        checked_reply(reply, 1)


@pytest.mark.parametrize("url", ["redis://fanout:sec/ret@h:6379", "redis://h:6379/0?sort=secret", "redis://h:sec"])
async def test_a_url_that_cannot_be_read_is_an_error_without_its_secrets(url):
    with pytest.raises(fanout.ConfigError, match="is not a URL of Redis") as error:
        await open_backend(url, "k", bounds_of(Limits())).connect()
    assert "sec" not in str(error.value).replace("redis://h:sec", "")
