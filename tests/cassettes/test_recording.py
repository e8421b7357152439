"""A recorded run, replayed: the same bytes, failures and waits, with no endpoint there."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fanout
from fanout import Client, Limits, RetryPolicy, RunStopped, Timeouts
from fanout.errors import ReplayError
from fanout.testing import FaultServer, MockEndpoint, Recorder, Replayer, Scripted, VirtualClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fanout.transport import Request

X = np.arange(600.0).reshape(200, 3)
GONE = "http://gone.test/v1/models/mock:predict"


def double(x: np.ndarray) -> np.ndarray:
    return x * 2


async def sent(url: str, transport: Any, rows: Any = X, codec: Any = "v1", **options: Any) -> Any:
    async with Client(url, codec=codec, transport=transport, **{"chunk_rows": 10, **options}) as client:
        return await client.map(rows)


async def recorded(path: Path, *steps: Any, latency: float = 0.0, **options: Any) -> Any:
    """Record the responses of a mock, after some scripted steps."""
    with MockEndpoint(double, latency=latency) as mock, Recorder(path) as recorder:
        mock.script(*steps)
        return await sent(mock.url("v1"), recorder, **options)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.recording"


@pytest.mark.parametrize("codec", ["json", "v1", "oip", fanout.codec("oip", binary=False)], ids=str)
async def test_a_replay_gives_the_same_values_with_the_server_gone(codec: Any, file: Path) -> None:
    async with FaultServer(double) as server:
        url = server.url(codec)
        with Recorder(file) as recorder:
            first = await sent(url, recorder, codec=codec)
    replayer = Replayer(file)
    again = await sent(url, replayer, codec=codec, limits=Limits(concurrency=3))
    assert first.tobytes() == again.tobytes()
    instance = fanout.codec(codec) if isinstance(codec, str) else codec
    assert (recorder.recorded, replayer.remaining) == (server.received + len(instance.metadata_requests(url)), 0)


@pytest.mark.usefixtures("shared_local")
async def test_texts_and_their_cost_are_replayed(file: Path) -> None:
    codec = fanout.codec("openai-embeddings", model="echo")
    with Recorder(file) as recorder:
        first = await sent("local://echo", recorder, ["a", "b c"], codec)
    async with Client("local://echo", codec=codec, transport=Replayer(file)) as client:  # no server is started
        assert np.array_equal(await client.map(["a", "b c"]), first)
        assert client.statistics().usage["total_tokens"] == 3


@pytest.mark.virtual_time
async def test_failures_pushback_and_latencies_replay_in_virtual_time(file: Path) -> None:
    loop = asyncio.get_running_loop()
    steps = (503, Scripted(status=429, headers={"Retry-After": "100"}), ConnectionResetError, None, Scripted(body=b"{"))
    await recorded(file, *steps, latency=5.0, limits=Limits(concurrency=1), retry=RetryPolicy(max_attempts=9))
    took, began = loop.time(), loop.time()
    async with Client(
        GONE, codec="v1", chunk_rows=10, transport=Replayer(file), limits=Limits(concurrency=1)
    ) as client:
        assert np.array_equal(await client.map(X), double(X))
        statistics = client.statistics()
        assert (statistics.retries, statistics.splits) == (3, 1)
        assert 4.8 < statistics.latency_p50 < 5.2
    # The jitter of the backoff is no part of the recording.
    assert loop.time() - began == pytest.approx(took, abs=0.1 * 100 + 30)
    assert loop.time() - began > 100 + 24 * 5


async def test_without_virtual_time_a_replay_waits_only_on_request(file: Path) -> None:
    def in_virtual_time() -> None:
        with asyncio.Runner(loop_factory=VirtualClock) as runner:
            runner.run(recorded(file, latency=50.0, rows=X[:10]))

    await asyncio.to_thread(in_virtual_time)
    async with asyncio.timeout(40):
        await sent(GONE, Replayer(file), X[:10])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await sent(GONE, Replayer(file, latencies=True), X[:10])


@pytest.mark.virtual_time
async def test_an_attempt_that_was_given_up_is_one_again(file: Path) -> None:
    with MockEndpoint(double, latency=lambda n: 99.0 if n == 0 else 1.0) as mock, Recorder(file) as recorder:
        await sent(mock.url("v1"), recorder, X[:10], timeouts=Timeouts(attempt=10))
    async with Client(GONE, codec="v1", chunk_rows=10, transport=Replayer(file)) as client:
        assert np.array_equal(await client.map(X[:10]), double(X[:10]))
        assert (client.statistics().retries, client.statistics().requests) == (1, 2)


async def test_a_stop_is_reproduced_with_its_reason(file: Path) -> None:
    with pytest.raises(RunStopped) as first:
        await recorded(file, Scripted(status=401, body=b'{"error": "key expired"}'), limits=Limits(concurrency=1))
    with pytest.raises(RunStopped, match="key expired") as again:
        await sent(GONE, Replayer(file), limits=Limits(concurrency=1))
    assert first.value.reason.replace("fanout-mock.test", "gone.test") == again.value.reason


async def test_one_request_gets_its_answers_in_order_and_each_once(file: Path) -> None:
    same = np.ones((3, 2))
    answers = [Scripted(body=b'{"predictions": [[%d, 0]]}' % n) for n in (1, 2, 3)]
    limits = Limits(concurrency=1)
    await recorded(file, *answers, rows=same, chunk_rows=1, limits=limits)
    values = await sent(GONE, Replayer(file), same, chunk_rows=1, limits=limits)
    assert values[:, 0].tolist() == [1, 2, 3]
    with pytest.raises(ReplayError, match=r"was recorded 3 times in .*, and is asked once more"):
        await sent(GONE, Replayer(file), np.ones((4, 2)), chunk_rows=1, limits=limits)


async def test_an_unknown_request_is_refused_with_the_nearest_and_the_difference(file: Path) -> None:
    await recorded(file)
    other = X.copy()
    other[57, 1] = -1
    with pytest.raises(ReplayError) as caught:
        await sent(GONE, Replayer(file), other)
    assert str(caught.value) == (
        f"POST /v1/models/mock:predict was not recorded in {file}; the nearest is exchange 6 of 20, "
        "body.instances[7][1] is -1.0 where 172.0 was recorded"
    )


async def test_the_error_for_other_bytes_names_their_place(file: Path) -> None:
    rows = np.arange(12, dtype="f4").reshape(4, 3)
    async with FaultServer(double) as server:
        url = server.url("oip")
        with Recorder(file) as recorder:
            await sent(url, recorder, rows, "oip")
    with pytest.raises(ReplayError, match=r"bodies differ from byte \d+ on: b'.*' where b'.*' was recorded"):
        await sent(url, Replayer(file), rows + 1, "oip")


async def test_another_path_is_reported(file: Path) -> None:
    await recorded(file)
    with pytest.raises(ReplayError, match=r"which is POST /v1/models/mock:predict; with the same body"):
        await sent("http://gone.test/v1/models/other:predict", Replayer(file))


async def test_a_refused_request_leaves_the_rest_to_be_asked(file: Path) -> None:
    await recorded(file)
    replayer = Replayer(file)
    await sent(GONE, replayer, X[:50])
    assert replayer.remaining == 15
    assert repr(replayer) == f"<Replayer {file} 15 exchanges left>"


async def test_a_header_that_is_refused_is_asked_for_again_in_a_replay_too(file: Path) -> None:
    def headers() -> dict[str, str]:
        asked.append(1)
        return {"Authorization": f"Bearer token-number-{len(asked)}"}

    asked: list[int] = []
    with MockEndpoint(double) as mock, Recorder(file) as recorder:
        mock.script(401)
        await sent(mock.url("v1"), recorder, X[:10], headers=headers)
    assert np.array_equal(await sent(GONE, Replayer(file), X[:10], headers=headers), double(X[:10]))


async def replayed_in(order: Callable[[int], float], file: Path) -> Any:
    """A replay in which the recorded latencies are others: answers overtake each other."""

    class Overtaking(Replayer):
        async def send(self, request: Request) -> Any:
            await asyncio.sleep(order(self.remaining))
            return await super().send(request)

    return await sent(GONE, Overtaking(file), limits=Limits(concurrency=8))


@pytest.mark.virtual_time
@pytest.mark.parametrize("order", [lambda n: n, lambda n: -n % 7, lambda n: 0], ids=["rising", "mixed", "none"])
async def test_the_order_in_which_requests_come_does_not_matter(order: Callable[[int], float], file: Path) -> None:
    await recorded(file)
    assert np.array_equal(await replayed_in(order, file), double(X))


@pytest.mark.virtual_time
async def test_two_replays_have_the_same_events(file: Path) -> None:
    await recorded(file, 503, 503, None, 500, latency=0.3)
    logs = []
    for _ in range(2):
        random.seed(7)
        events: list[Any] = []
        await sent(GONE, Replayer(file), on_event=events.append)
        logs.append(events)
    assert logs[0] == logs[1]
    assert [event.kind for event in logs[0]].count("retry") == 3


async def test_exchanges_of_many_rows_replay_exactly(file: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((6400, 64)).astype("f4")
    async with FaultServer(double, record=False) as server:
        url = server.url("oip")
        with Recorder(file) as recorder:
            await sent(url, recorder, rows, "oip", chunk_rows=64)
    values = await sent(url, Replayer(file), rows, "oip", chunk_rows=64)
    assert recorder.recorded >= 100
    assert np.array_equal(values, double(rows))
