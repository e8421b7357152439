"""Shared limits in a real Redis or Valkey: the script, the connection, and its loss."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fanout import Limits
from fanout.limits.shared import bounds_of
from fanout.limits.shared_redis import checked_reply, message, script_text
from fanout.limits.shared_state import SharedState
from tests.limits.shared_scene import redis_server
from tests.limits.test_shared_state import RATES, STEPS, Clients

pytestmark = pytest.mark.slow
redis = pytest.importorskip("redis")


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
