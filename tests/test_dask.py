"""A batch on a Dask cluster of worker processes."""

import asyncio

import pytest

from rawserver import collect_quietly
from recall_sdk.testing import RecallServer


@pytest.fixture
def event_loop():
    """An event loop for the main thread that is closed with the test; on Python 3.8 Dask makes one and leaves it open."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


# The cluster's own warnings (of ports, of memory, of Tornado) are none of ours.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("event_loop")
def test_batch_on_dask_cluster():
    """On a real cluster every item of every batch runs once, equal ones too, under a rate limit, over reused connections."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")  # here, since its import takes a second
    with RecallServer(rate_limit=20, burst=5) as server:
        server.workflow("echo")(lambda input: input)
        settings = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": None, "host": "127.0.0.1"}
        with distributed.LocalCluster(processes=True, **settings) as cluster, distributed.Client(cluster) as dask:
            client, executor = server.client(), dask.get_executor()
            items = [
                item for _ in range(2) for item in client.execute_batch([("echo", {"same": 1})] * 20, executor=executor, max_workers=4)
            ]
        assert [item.error for item in items if item.error] == []
        assert [item.result.output for item in items] == [{"same": 1}] * 40
        assert server.executions["echo"] == 40
        assert server.connections <= 5
    del cluster, dask, executor, items
    collect_quietly()  # Dask leaves the sockets of an event loop
