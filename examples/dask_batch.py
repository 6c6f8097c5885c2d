"""A batch on a Dask cluster: the same call as on one machine, with the cluster's executor.

It needs Dask: pip install distributed
Run it with:   python examples/dask_batch.py
"""

from distributed import Client, LocalCluster

import recall_sdk.testing.demo  # without RECALL_API_KEY: a stand-in server. Delete this line to use Recall.
from recall_sdk import RecallClient

ITEMS = [("greet", {"name": f"guest {number}"}) for number in range(1, 9)]


def main() -> None:
    """Run the batch on two worker processes. For your own cluster: Client("tcp://scheduler:8786")."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None)
    with cluster, Client(cluster) as dask, RecallClient() as client:
        executor = dask.get_executor()
        greetings = {}
        for item in client.execute_batch(ITEMS, max_workers=4, executor=executor):
            if item.error:
                print(item.index, item.error)
            else:
                greetings[item.index] = item.result.output["content"]
        print(f"{len(greetings)} greetings, the last: {greetings[7]}")


if __name__ == "__main__":  # worker processes import this file
    main()
