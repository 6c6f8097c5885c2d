"""A batch on a Dask cluster: the same call, with the cluster's executor.

It needs Dask: pip install distributed
Run it with:   python examples/dask_batch.py
"""

from distributed import Client

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import RecallClient, WorkflowExecutionResult

ITEMS = [("greet", {"name": f"guest {number}"}) for number in range(1, 9)]


def main() -> None:
    """Run the batch on two worker processes.

    For your own cluster: Client("tcp://scheduler:8786").
    """
    outputs = {}
    dask = Client(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0")
    with dask, RecallClient() as client:
        executor = dask.get_executor()
        for item in client.execute_batch(ITEMS, max_workers=4, executor=executor):
            if isinstance(item.result, WorkflowExecutionResult):
                outputs[item.index] = item.result.output
            else:
                print(item.index, item.error)
    print(f"{len(outputs)} greetings, the last: {outputs[7]}")


if __name__ == "__main__":  # worker processes import this file
    main()
