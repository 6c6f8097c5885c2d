"""What type checkers make of the public names. Checked by mypy and pyright, never run."""

from concurrent.futures import Executor
from typing import Any, Dict, Iterator, List, Optional, Union

import requests
from typing_extensions import assert_type

import recall_sdk
from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    BatchItem,
    ExecutionError,
    InvalidRequestError,
    RateLimitError,
    RateLimitInfo,
    RecallClient,
    RecallError,
    RecallTimeoutError,
    StreamedExecutionResult,
    StreamEvent,
    StreamInterruptedError,
    UsageLimits,
    WorkflowExecutionResult,
    WorkflowStatus,
    WorkflowStream,
)
from recall_sdk.testing import RecallServer, RecordedRequest


def the_constructor(session: requests.Session, key: Optional[str]) -> None:
    assert_type(RecallClient(), RecallClient)
    assert_type(RecallClient(api_key=key, base_url=None, timeout=None, session=session), RecallClient)
    client = RecallClient("key", "https://recall.example.com", timeout=5)
    assert_type(client.api_key, str)
    assert_type(client.base_url, str)
    with RecallClient("key") as entered:
        assert_type(entered, RecallClient)
    client.set_api_key("another")
    client.set_base_url("https://recall.example.com")
    client.close()
    assert_type(recall_sdk.__version__, str)


class TenantClient(RecallClient):
    pass


class LoggedStream(WorkflowStream):
    pass


def subclasses(stream: LoggedStream) -> None:
    with TenantClient("key") as client:
        assert_type(client, TenantClient)
    with stream as entered:
        assert_type(entered, LoggedStream)
    assert_type(iter(stream), LoggedStream)


def executions(client: RecallClient, queued: bool, outputs: List[str]) -> None:
    assert_type(client.execute_workflow("id"), WorkflowExecutionResult)
    assert_type(client.execute_workflow("id", {"a": 1}, timeout=5, stream=True, selected_outputs=outputs), StreamedExecutionResult)
    assert_type(client.execute_workflow("id", stream=queued), WorkflowExecutionResult)
    assert_type(client.execute_workflow("id", stream=queued, async_execution=queued), Union[WorkflowExecutionResult, AsyncExecutionResult])
    assert_type(client.execute_workflow("id", ["a"], timeout=None, async_execution=False), WorkflowExecutionResult)
    assert_type(client.execute_workflow("id", input="a", async_execution=True), AsyncExecutionResult)
    assert_type(client.execute_workflow("id", async_execution=queued), Union[WorkflowExecutionResult, AsyncExecutionResult])


def executions_with_retry(client: RecallClient, queued: bool) -> None:
    assert_type(client.execute_with_retry("id"), WorkflowExecutionResult)
    assert_type(client.execute_with_retry("id", {"a": 1}, max_retries=5, initial_delay=1, max_delay=60.0), WorkflowExecutionResult)
    assert_type(client.execute_with_retry("id", async_execution=False, backoff_multiplier=2), WorkflowExecutionResult)
    assert_type(client.execute_with_retry("id", stream=True), StreamedExecutionResult)
    assert_type(client.execute_with_retry("id", async_execution=True, max_retries=5), AsyncExecutionResult)
    assert_type(client.execute_with_retry("id", async_execution=queued), Union[WorkflowExecutionResult, AsyncExecutionResult])


def streams(client: RecallClient) -> None:
    with client.stream_workflow("id", {"a": 1}, timeout=5.0, selected_outputs=("agent1.content",)) as stream:
        assert_type(stream, WorkflowStream)
        assert_type(next(stream), StreamEvent)
        for event in stream:
            assert_type(event, StreamEvent)
            assert_type(event.type, str)
            assert_type(event.block_id, Optional[str])
            assert_type(event.chunk, str)
            assert_type(event.data, Dict[str, Any])
        assert_type(stream.text(), Iterator[str])
        assert_type(stream.result, StreamedExecutionResult)
        assert_type(stream.result.text, str)
        assert_type(stream.result.text_by_block, Dict[str, str])
    stream.close()


def jobs(client: RecallClient, seen: List[Dict[str, Any]]) -> None:
    ticket = client.execute_workflow("id", async_execution=True)
    assert_type(ticket.task_id, str)
    assert_type(ticket.links, Dict[str, str])
    assert_type(client.get_job_status(ticket.task_id), Dict[str, Any])
    assert_type(client.wait_for_job(ticket, on_update=seen.append), Dict[str, Any])
    assert_type(client.wait_for_job("task-id", timeout=None, poll_interval=1, max_poll_interval=5.0), Dict[str, Any])


def batches(client: RecallClient, executor: Executor, queued: bool) -> None:
    items = (("id", {"n": n}) for n in range(3))
    client.execute_batch(items).close()
    for item in client.execute_batch(items, max_workers=4, executor=executor):
        assert_type(item, BatchItem[WorkflowExecutionResult])
        assert_type(item.index, int)
        assert_type(item.workflow_id, str)
        assert_type(item.error, Optional[RecallError])
        if item.result is None:
            assert_type(item.result, None)
        else:
            assert_type(item.result.output, Optional[Any])
    for ticket in client.execute_batch(items, async_execution=True):
        assert_type(ticket.result, Optional[AsyncExecutionResult])
    for either in client.execute_batch(items, async_execution=queued):
        assert_type(either.result, Union[WorkflowExecutionResult, AsyncExecutionResult, None])


def questions(client: RecallClient) -> None:
    assert_type(client.get_workflow_status("id"), WorkflowStatus)
    assert_type(client.validate_workflow("id"), bool)
    assert_type(client.get_rate_limit_info(), Optional[RateLimitInfo])
    assert_type(client.get_usage_limits(), UsageLimits)


def models(result: WorkflowExecutionResult, status: WorkflowStatus, info: RateLimitInfo, limits: UsageLimits) -> None:
    assert_type(result.success, bool)
    assert_type(result.error, Optional[str])
    assert_type(result.logs, Optional[List[Any]])
    assert_type(result.metadata, Optional[Dict[str, Any]])
    assert_type(result.trace_spans, Optional[List[Any]])
    assert_type(result.total_duration, Optional[float])
    assert_type(status.is_deployed, bool)
    assert_type(status.deployed_at, Optional[str])
    assert_type(status.needs_redeployment, bool)
    assert_type(info.limit, int)
    assert_type(info.reset, int)
    assert_type(info.retry_after, Optional[int])
    assert_type(limits.rate_limit, Dict[str, Any])
    assert_type(limits.usage, Dict[str, Any])


def as_value_error(error: ValueError) -> None:
    assert_type(error, ValueError)


def errors(client: RecallClient) -> None:
    try:
        client.execute_workflow("id")
    except InvalidRequestError as error:
        as_value_error(error)
        assert_type(error.server_code, Optional[str])
    except RateLimitError as error:
        assert_type(error.rate_limit, Optional[RateLimitInfo])
    except ExecutionError as error:
        assert_type(error.result, Optional[WorkflowExecutionResult])
    except RecallTimeoutError as error:
        assert_type(error.result, Optional[WorkflowExecutionResult])
        assert_type(error.partial, Optional[StreamedExecutionResult])
    except StreamInterruptedError as error:
        assert_type(error.partial, Optional[StreamedExecutionResult])
    except RecallError as error:
        assert_type(error.code, Optional[str])
        assert_type(error.status, Optional[int])
        assert_type(error.retry_after, Optional[float])
        assert_type(error.may_have_executed, bool)
        assert_type(error.request_id, Optional[str])
    assert_type(AuthenticationError("no", "UNAUTHORIZED", 401).status, Optional[int])


class OwnServer(RecallServer):
    """A server of a user's own."""


def servers() -> None:
    with OwnServer() as entered:
        assert_type(entered, OwnServer)
    started = RecallServer(rate_limit=5).start()
    assert_type(started, RecallServer)
    assert_type(started.client(timeout=5), RecallClient)
    assert_type(started.requests, List[RecordedRequest])
    assert_type(started.executions, Dict[str, int])
