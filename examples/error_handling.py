"""Error handling: what each kind of error looks like, and what to do about it.

Run it with: python examples/error_handling.py
"""

from typing import Any

import recall_sdk.testing.demo  # a test server; with a key, delete this line
from recall_sdk import (
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallClient,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    UsageLimitError,
)


def attempt(
    client: RecallClient, workflow_id: str, data: Any, timeout: float = 30.0
) -> None:
    """Execute a workflow and print its output or its error.

    Catch the errors you can handle; fall back to RecallError.
    """
    print(f"{workflow_id}:")
    try:
        result = client.execute_workflow(workflow_id, data, timeout=timeout)
    except AuthenticationError as error:
        report(error, "check the key, or create a new one")
    except UsageLimitError as error:
        report(error, "stop until the plan is raised")
    except RateLimitError as error:
        report(error, f"retry in {error.retry_after or 1} s")
    except (NotFoundError, PermissionDeniedError) as error:
        report(error, "check the id, and deploy the workflow")
    except InvalidRequestError as error:
        report(error, "correct the input")
    except ExecutionError as error:
        report(error, "read the workflow's log")
    except (RecallTimeoutError, RecallConnectionError) as error:
        if error.may_have_executed:
            report(error, "check whether it ran before you send it again")
        else:
            report(error, "send it again")
    except RecallError as error:
        report(error, "contact Recall support")
    else:
        print("   ", result.output)


def report(error: RecallError, what_to_do: str) -> None:
    """Print an error: class, code and status for programs, the message for people."""
    print(f"    {type(error).__name__}, code {error.code}, status {error.status}")
    print(f"    {error}")
    print(f"    -> {what_to_do}")


with RecallClient() as client:
    attempt(client, "greet", {"name": "Ada"})
    attempt(client, "no-such-workflow", {})
    attempt(client, "draft", {})
    attempt(client, "fail", {})
    attempt(client, "slow", {"seconds": 2}, timeout=0.5)
    attempt(client, "greet", {"name": {"a", "set"}})  # no JSON: nothing is sent

    client.set_api_key("wrong-key")
    attempt(client, "greet", {"name": "Ada"})

    client.set_base_url("http://127.0.0.1:9")  # no server listens there
    attempt(client, "greet", {"name": "Ada"})
