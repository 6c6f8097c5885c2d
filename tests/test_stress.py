"""Many threads with one client, meant for interpreters without a GIL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recall_sdk import RateLimitError
from recall_sdk.testing import RecallServer

THREADS = 32
ROUNDS = 24  # of each thread: a call, a stream, and now and then a small batch, a refusal and a question


@pytest.fixture
def server():
    """A test server whose workflows return what they were sent."""
    with RecallServer(rate_limit=1e6) as server:

        @server.workflow("echo")
        def echo(input):
            return input

        @server.workflow("spell")
        def spell(input):
            yield from input["word"]

        yield server


def test_threads_get_their_own_answers(server):
    """Calls, streams, batches and rejections in 32 threads: each thread gets its own answers and errors."""
    start = threading.Barrier(THREADS)

    def work(number):
        start.wait()
        for step in range(ROUNDS):
            mark = f"{number}.{step}"
            assert client.execute_workflow("echo", {"mark": mark}).output == {"mark": mark}
            with client.stream_workflow("spell", {"word": mark}) as stream:
                assert "".join(stream.text()) == mark
            assert client.get_rate_limit_info().limit > 0
            if step % 8 == 0:
                items = [("echo", {"mark": f"{mark}.{item}"}) for item in range(4)]
                outputs = {item.index: item.result.output["mark"] for item in client.execute_batch(items, max_workers=2)}
                assert outputs == {item: f"{mark}.{item}" for item in range(4)}
            if step % 8 == 1:
                assert client.validate_workflow("echo")
                assert client.validate_workflow("nowhere") is False
        return number

    with server.client(timeout=60) as client, ThreadPoolExecutor(THREADS) as pool:
        assert sorted(pool.map(work, range(THREADS))) == list(range(THREADS))
    assert server.executions["echo"] == THREADS * (ROUNDS + 4 * ROUNDS // 8)
    assert server.executions["spell"] == THREADS * ROUNDS


def test_newest_rate_limit_survives_threads():
    """Threads whose answers report no rate limit do not overwrite the last reported one."""
    with RecallServer() as server, server.client() as client, ThreadPoolExecutor(THREADS) as pool:
        server.workflow("echo")(lambda input: input)
        server.respond_next(
            429, headers={"X-RateLimit-Limit": "7", "X-RateLimit-Remaining": "0", "Retry-After": "1"}, json={"error": "slow"}
        )
        with pytest.raises(RateLimitError):
            client.execute_workflow("echo")
        list(pool.map(lambda number: client.execute_workflow("echo", {"n": number}), range(THREADS * 8)))
        assert client.get_rate_limit_info().limit == 7
