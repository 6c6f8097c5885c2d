"""Waiting for a queued run: the loop with a fake clock, and real jobs of both dialects."""

import logging
import math
import re
import threading
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall_sdk import (
    AsyncExecutionResult,
    AuthenticationError,
    ExecutionError,
    InvalidRequestError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RecallClient,
    RecallConnectionError,
    RecallError,
    RecallTimeoutError,
    ServerError,
    UsageLimitError,
    WorkflowExecutionResult,
)
from recall_sdk._arguments import MAX_TIMEOUT
from recall_sdk._jobs import LAST_POLL, wait_for_job
from recall_sdk.errors import build_error, one_line
from recall_sdk.testing import RecallServer


def job(status, **fields):
    return {"success": True, "taskId": "t-1", "status": status, "output": None, "error": None, "metadata": {}, **fields}


def failing(kind, retry_after=None, status=None):
    return build_error(kind, "not now", may_have_executed=False, retry_after=retry_after, status=status)


class World:
    """A clock that only sleeping and polling advance; polls return the given statuses, and the last one forever.

    A word is a status, an error, or a pair of a status and the server's retry-after.
    """

    def __init__(self, *story, poll_takes=0.0):
        self.story = list(story)
        self.poll_takes = poll_takes
        self.now = 1000.0
        self.polls = []
        self.slept = []
        self.updates = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert 0 < seconds <= MAX_TIMEOUT
        self.slept.append(seconds)
        self.now += seconds

    def poll(self, left):
        self.polls.append(left)
        self.now += self.poll_takes if left is None else min(self.poll_takes, left)
        word = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        if isinstance(word, Exception):
            raise word
        return word if isinstance(word, tuple) else (word, None)

    def wait(self, timeout=3600.0, poll_interval=1.0, max_poll_interval=10.0, *, on_update=None, accepted=False, task_id="t-1"):
        return wait_for_job(
            self.poll,
            task_id,
            accepted=accepted,
            timeout=timeout,
            poll_interval=poll_interval,
            max_poll_interval=max_poll_interval,
            on_update=on_update or self.updates.append,
            clock=self.clock,
            sleep=self.sleep,
            shown=one_line,
        )


# ------------------------------------------------------------------------------------------------------------- the loop


def test_wait_for_job_returns_ended_job_at_once():
    """The first poll is made at once, and is the only one if the job is completed."""
    world = World(job("completed", output=1))
    assert world.wait() == job("completed", output=1)
    assert (world.polls, world.slept) == ([3600.0], [])


def test_wait_for_job_interval_grows_to_maximum():
    """Each interval is half as long again as the previous one, and at most 10 seconds by default."""
    world = World(*[job("queued")] * 8, job("completed"))
    world.wait()
    assert world.slept == pytest.approx([1.0, 1.5, 2.25, 3.375, 5.0625, 7.59375, 10.0, 10.0])


def test_wait_for_job_uses_callers_intervals():
    """poll_interval and max_poll_interval bound the waits; equal values make all waits equal."""
    world = World(*[job("queued")] * 4, job("completed"))
    world.wait(poll_interval=2, max_poll_interval=2)
    assert world.slept == [2.0, 2.0, 2.0, 2.0]


def test_wait_for_job_respects_retry_after():
    """The server's retry-after, on a response or on an error, is the minimum wait; a shorter one changes nothing."""
    world = World((job("queued"), 30.0), failing(RateLimitError, 20.0), failing(ServerError, 0.5), job("completed"))
    world.wait()
    assert world.slept == [30.0, 20.0, 2.25]


@pytest.mark.parametrize("kind", [RateLimitError, RecallConnectionError, RecallTimeoutError, ServerError, InvalidResponseError])
def test_wait_for_job_survives_temporary_errors(kind):
    """A broken connection, a timeout, a 429 or a 5xx says nothing about the job: the next poll may succeed."""
    world = World(failing(kind), failing(kind), job("completed"))
    assert world.wait()["status"] == "completed"
    assert world.slept == [1.0, 1.5]


@pytest.mark.parametrize("polls", [0, 1])
@pytest.mark.parametrize("kind", [UsageLimitError, InvalidRequestError])
def test_wait_for_job_raises_permanent_error(kind, polls):
    """A permanent error is raised at once, and names the job."""
    error = failing(kind)
    world = World(*[job("queued")] * polls, error)
    with pytest.raises(kind, match="job t-1: not now") as caught:
        world.wait()
    assert caught.value is error
    assert len(world.polls) == polls + 1


REJECTIONS = [AuthenticationError, PermissionDeniedError, NotFoundError]


@pytest.mark.parametrize("kind", REJECTIONS)
def test_wait_for_job_raises_first_rejection(kind):
    """A wrong key or an unknown id is reported by the first poll, and names the job."""
    world = World(failing(kind))
    with pytest.raises(kind, match="job t-1: not now") as caught:
        world.wait()
    assert len(world.polls) == 1
    assert caught.value.may_have_executed is False


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("kind", REJECTIONS)
def test_wait_for_job_survives_rejections_for_a_minute(kind, accepted):
    """After a successful poll, or with an accepted job from the start, rejections for less than a minute do not end the wait."""
    story = [*[failing(kind)] * 8, job("queued"), *[failing(kind)] * 5, job("completed")]
    world = World(*story) if accepted else World(job("queued"), *story)
    assert world.wait(accepted=accepted)["status"] == "completed"


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize("kind", REJECTIONS)
def test_wait_for_job_raises_rejections_of_more_than_a_minute(kind, accepted):
    """Rejections for more than a minute end the wait; the job is known, so that it may have run."""
    world = World(*[job("queued")] * (not accepted), *[failing(kind) for _ in range(60)])
    with pytest.raises(kind, match="job t-1: not now") as caught:
        world.wait(accepted=accepted)
    assert 60 < sum(world.slept[0 if accepted else 1 :]) < 75
    assert caught.value.may_have_executed is True


@pytest.mark.parametrize(
    ("story", "accepted", "may_have_executed"), [([], False, False), ([], True, True), ([job("processing")], False, True)]
)
def test_wait_for_job_says_whether_the_job_may_have_run(story, accepted, may_have_executed):
    """After a permanent error the job may have run if it was accepted, or if a state was seen; else nothing is known of it."""
    with pytest.raises(InvalidRequestError) as caught:
        World(*story, failing(InvalidRequestError, status=410)).wait(accepted=accepted)
    assert caught.value.may_have_executed is may_have_executed


def test_wait_for_job_counts_refusals_in_a_row():
    """Another failure between two rejections restarts the minute."""
    refused = [failing(AuthenticationError)] * 6
    world = World(job("queued"), *refused, failing(ServerError), *refused, job("completed"))
    assert world.wait()["status"] == "completed"


def test_wait_for_job_survives_too_early():
    """A 425 asks for a retry later (RFC 8470, section 5.2)."""
    early = failing(InvalidRequestError, status=425)
    assert World(early, job("completed")).wait()["status"] == "completed"


def test_wait_for_job_unknown_state(caplog):
    """An unknown state is logged once, and the final error names it without claiming that the job continues."""
    with caplog.at_level(logging.INFO, "recall_sdk"), pytest.raises(RecallTimeoutError) as caught:
        World(job("unknown")).wait(timeout=5.0)
    assert caplog.messages == ["job t-1 has the unknown state 'unknown'; it is treated as not ended"]
    assert "job t-1 has the unknown state 'unknown' after 5.0 s; it may or may not have ended: wait for it again" in str(caught.value)
    assert "still be running" not in str(caught.value)


def test_wait_for_job_shows_clean_lines(caplog):
    """Ids and states of a server are shown without line breaks, escape sequences and bidirectional marks, in messages and logs."""
    task_id, state = "a\nb\x1b[31m\u202ec", "od\r\nd\x1b[0m\u2066"
    failed = job("failed", taskId=task_id, error="x\ny")
    for story in ([failing(ServerError), job(state)], [failing(ServerError)], [failing(InvalidRequestError)], [failed]):
        with caplog.at_level(logging.INFO, "recall_sdk"), pytest.raises(RecallError) as caught:
            World(*story).wait(timeout=2.0, task_id=task_id)
        assert str(caught.value).startswith("job a b c")
        for line in (str(caught.value), *caplog.messages):
            assert line.isprintable()
            assert len(line.splitlines()) == 1


def test_wait_for_job_survives_html_page(server, client):
    """A poll with an HTML page as its response does not end the wait, over a real socket."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    server.respond_next(200, body="<html>one moment</html>")
    server.go.set()
    assert client.wait_for_job(ticket, poll_interval=0.01)["output"] == {"said": "hi"}


def test_wait_for_job_treats_unknown_state_as_running():
    """An unknown state counts as running."""
    world = World(job("paused"), job("resuming"), job("completed"))
    assert world.wait()["status"] == "completed"


def test_wait_for_job_reports_changed_statuses():
    """on_update gets each changed status, and the last one."""
    one, half = job("processing", metadata={"progress": 1}), job("processing", metadata={"progress": 50})
    world = World(one, one, failing(ServerError), one, half, half, job("completed"))
    world.wait()
    assert world.updates == [one, half, job("completed")]


def test_wait_for_job_on_update_gets_a_copy():
    """The caller's function may change what it gets: neither the result nor the detection of changes is affected."""
    seen = []

    def change(status):
        seen.append(status["status"])
        status["output"]["a"].append(2)
        status.clear()

    one = job("processing", output={"a": [1]})
    last = job("completed", output={"a": [1]})
    world = World(one, one, job("processing", output={"a": [1]}), last)
    assert world.wait(on_update=change) is last
    assert last == job("completed", output={"a": [1]})
    assert seen == ["processing", "completed"]


def test_wait_for_job_with_deeply_nested_output():
    """An output that is nested too deeply to be copied is returned, and is not passed to on_update."""
    output = []
    for _ in range(200_000):
        output = [output]
    last = job("completed", output=output)
    world = World(job("queued"), last)
    assert world.wait() is last
    assert world.updates == [job("queued")]
    while output:  # taken apart by hand: old Pythons do not survive doing it themselves
        output = output.pop()


@pytest.mark.parametrize("error", [KeyError("mine"), RecallTimeoutError("mine"), RecursionError("mine"), KeyboardInterrupt("mine")])
def test_wait_for_job_raises_error_of_on_update(error):
    """An exception of the caller's function ends the wait, unchanged."""

    def stop(status):
        raise error

    with pytest.raises(type(error)) as caught:
        World(job("queued")).wait(on_update=stop)
    assert caught.value is error
    assert error.args == ("mine",)


@pytest.mark.parametrize(("status", "code"), [("failed", "EXECUTION_ERROR"), ("cancelled", "JOB_CANCELLED")])
def test_wait_for_job_raises_for_failed_job(status, code):
    """A failed or cancelled job raises ExecutionError with the server's data, after on_update."""
    last = job(status, error="boom", output={"a": 1})
    world = World(job("queued"), last)
    with pytest.raises(ExecutionError, match=r"job t-1 .*boom") as caught:
        world.wait()
    assert (caught.value.code, caught.value.body, caught.value.result.output) == (code, last, {"a": 1})
    assert world.updates == [job("queued"), last]


# -------------------------------------------------------------------------------------------------------------- its time


def test_wait_for_job_times_out():
    """The message names the id, the state and what to do. It does not claim that the job continues: its server may have died."""
    world = World(job("processing"))
    with pytest.raises(RecallTimeoutError) as caught:
        world.wait(timeout=5.0)
    error = caught.value
    assert str(error) == "job t-1 is still processing after 5.0 s; it may still be running: wait for it again with wait_for_job('t-1')"
    assert (error.code, error.status, error.body, error.may_have_executed) == ("TIMEOUT", None, job("processing"), True)
    assert error.__cause__ is None
    assert sum(world.slept) == pytest.approx(5.0)


def test_wait_for_job_times_out_without_response(caplog):
    """The last failure is reported, logged each time, and the cause of the error."""
    trouble = failing(RecallConnectionError)
    said = "job t-1 could not be polled within 2.0 s (not now); it may still be running: wait for it again with wait_for_job('t-1')"
    with caplog.at_level(logging.INFO, "recall_sdk"), pytest.raises(RecallTimeoutError, match=re.escape(said)) as caught:
        World(trouble).wait(timeout=2.0)
    assert caplog.messages[0] == "job t-1 could not be polled: not now; polling again in 1.00 s"
    assert caught.value.__cause__ is trouble
    assert caught.value.body is None


def test_wait_for_job_polls_once_more_at_deadline():
    """The last poll is made when the time is up, and may take a quarter of a second."""
    world = World(job("queued"), job("completed"))
    assert world.wait(timeout=0.5)["status"] == "completed"
    assert world.slept == [0.5]
    assert world.polls == [0.5, LAST_POLL]


def test_wait_for_job_poll_gets_remaining_time():
    """A poll may not take longer than the whole wait."""
    world = World(job("queued"), poll_takes=1.0)
    with pytest.raises(RecallTimeoutError):
        world.wait(timeout=5.0)
    assert world.polls == [5.0, 3.0, 0.5]


def test_wait_for_job_without_timeout():
    """None means no limit for the wait and its polls; a huge retry-after is still a valid sleep."""
    world = World(*[job("queued")] * 5000, (job("queued"), 1e300), job("completed"))
    assert world.wait(timeout=None)["status"] == "completed"
    assert set(world.polls) == {None}
    assert world.slept[-1] == MAX_TIMEOUT


@given(
    st.floats(0.001, 1e5),
    st.floats(0.001, 100),
    st.floats(1, 100),
    st.lists(st.one_of(st.none(), st.floats(0, 1e300)), min_size=1, max_size=5),
    st.floats(0, 50),
)
def test_wait_for_job_never_exceeds_timeout(timeout, interval, factor, retry_afters, poll_takes):
    """However slow the server is, the wait ends with its timeout, within a quarter of a second."""
    world = World(*[(job("queued"), retry_after) for retry_after in retry_afters], poll_takes=poll_takes)
    with pytest.raises(RecallTimeoutError):
        world.wait(timeout, max(interval, timeout / 1000), max(interval, timeout / 1000) * factor)
    assert timeout <= world.now - 1000.0 + 1e-6 <= timeout + LAST_POLL + 1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"poll_interval": 0},
        {"poll_interval": -1},
        {"poll_interval": math.nan},
        {"poll_interval": math.inf},
        {"max_poll_interval": 0},
        {"max_poll_interval": math.nan},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": math.nan},
    ],
)
def test_wait_for_job_rejects_settings_out_of_bounds(settings):
    """An invalid setting raises a ValueError that names it, before anything is sent (nothing listens here)."""
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        RecallClient("a-key", "http://127.0.0.1:1").wait_for_job("t-1", **settings)


@pytest.mark.parametrize("value", ["1", True])
@pytest.mark.parametrize("name", ["poll_interval", "max_poll_interval", "timeout"])
def test_wait_for_job_rejects_settings_of_wrong_type(name, value):
    """A str or a bool raises a TypeError that names the setting."""
    with pytest.raises(TypeError, match=name):
        RecallClient("a-key", "http://127.0.0.1:1").wait_for_job("t-1", **{name: value})


def test_wait_for_job_rejects_other_objects():
    """An object that is neither a queued run nor an id raises TypeError."""
    client = RecallClient("a-key", "http://127.0.0.1:1")
    with pytest.raises(TypeError, match="job must be an AsyncExecutionResult or a task id, not dict"):
        client.wait_for_job({"taskId": "t-1"})
    with pytest.raises(TypeError, match="on_update must be callable, not int"):
        client.wait_for_job("t-1", on_update=3)
    with pytest.raises(TypeError, match="not WorkflowExecutionResult"):
        client.wait_for_job(WorkflowExecutionResult(True))
    for id in (7, UUID(int=7)):
        with pytest.raises(TypeError, match=rf"not {type(id).__name__}: pass str\(job\)"):
            client.wait_for_job(id)


# ------------------------------------------------------------------------------------------------------------- real jobs


@pytest.fixture(params=["documented", "observed"])
def server(request):
    """A server of either dialect, with workflows that end on a signal."""
    with RecallServer(dialect=request.param) as server:
        server.go = threading.Event()

        @server.workflow("wait")
        def wait(input):
            assert server.go.wait(10)
            return {"said": input["say"]}

        @server.workflow("fail")
        def fail(input):
            raise ValueError("no such luck")

        yield server
        server.go.set()


@pytest.fixture
def client(server):
    return server.client()


def test_wait_for_job_with_queued_run(server, client):
    """A queued run is polled until its output is available, in either dialect."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    assert isinstance(ticket, AsyncExecutionResult)
    assert (ticket.success, ticket.status) == (True, "queued")
    assert ticket.links["status"].endswith(f"/api/jobs/{ticket.task_id}")
    states = []

    def update(status):
        states.append(status["status"])
        server.go.set()

    done = client.wait_for_job(ticket, poll_interval=0.01, on_update=update)
    assert states[0] in ("queued", "processing")
    assert states[-1] == "completed"
    assert (done["taskId"], done["output"], done["error"]) == (ticket.task_id, {"said": "hi"}, None)
    assert {"startedAt", "completedAt", "duration"} <= done["metadata"].keys()
    assert client.get_job_status(ticket.task_id) == done


def test_wait_for_job_with_task_id(server, client):
    """Another client, as in another process, needs only the id."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    server.go.set()
    assert server.client().wait_for_job(ticket.task_id, poll_interval=0.01)["output"] == {"said": "hi"}


def test_wait_for_job_raises_execution_error(client):
    """A failed run raises ExecutionError with its reason."""
    ticket = client.execute_workflow("fail", async_execution=True)
    with pytest.raises(ExecutionError, match="no such luck") as caught:
        client.wait_for_job(ticket, poll_interval=0.01)
    assert caught.value.code == "EXECUTION_ERROR"
    assert caught.value.may_have_executed
    assert ticket.task_id in str(caught.value)


def test_wait_for_job_unknown_job(client):
    """An id that the server does not know is raised at once."""
    with pytest.raises(NotFoundError):
        client.wait_for_job("no-such-job")


def test_wait_for_job_survives_real_faults(server, client):
    """A 429, a 503 and a dropped connection in between do not end the wait, and run nothing twice."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    server.go.set()
    for script in ({"status": 429, "json": {"error": "slow down"}}, {"status": 503, "body": "down"}, {"drop": True}):
        server.respond_next(path="/api/jobs/", **script)
    assert client.wait_for_job(ticket, poll_interval=0.01)["output"] == {"said": "hi"}
    assert server.executions["wait"] == 1


def test_wait_for_job_real_timeout(server, client):
    """Time is up: the error names the id, and waiting again finds the job."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    with pytest.raises(RecallTimeoutError, match=ticket.task_id) as caught:
        client.wait_for_job(ticket, timeout=0.05, poll_interval=0.01)
    assert caught.value.body["status"] in ("queued", "processing")
    server.go.set()
    assert client.wait_for_job(caught.value.body["taskId"], poll_interval=0.01)["status"] == "completed"


def test_wait_for_job_real_retry_after(server, client):
    """A retry-after with a status delays the next poll."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    running = {"taskId": ticket.task_id, "status": "processing"}
    server.respond_next(200, headers={"Retry-After": "1"}, json=running, path="/api/jobs/")
    with pytest.raises(RecallTimeoutError):
        client.wait_for_job(ticket, timeout=0.3, poll_interval=0.01)
    polls = [request for request in server.requests if request.path.startswith("/api/jobs/")]
    assert len(polls) == 2  # the first, and the last when the time was up


def test_wait_for_job_is_patient_with_a_queued_run(server, client):
    """With an AsyncExecutionResult the first polls may be rejected, as a job that was just accepted may not be found at once."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    server.go.set()
    server.respond_next(404, json={"error": "Task not found"}, path="/api/jobs/", times=2)
    assert client.wait_for_job(ticket, poll_interval=0.01)["output"] == {"said": "hi"}


def test_wait_for_job_gone(server, client):
    """A job that was accepted and is gone may have run."""
    ticket = client.execute_workflow("wait", {"say": "hi"}, async_execution=True)
    server.respond_next(410, json={"error": "Gone"}, path="/api/jobs/")
    with pytest.raises(InvalidRequestError, match=ticket.task_id) as caught:
        client.wait_for_job(ticket)
    assert caught.value.may_have_executed is True


def test_wait_for_job_with_number_as_id(server, client):
    """A task id that is a whole number becomes text, with which the job can be asked for."""
    server.respond_next(202, json={"success": True, "jobId": 4711})
    ticket = client.execute_workflow("wait", async_execution=True)
    server.respond_next(200, json={"status": "completed", "taskId": 4711, "output": 1}, path="/api/jobs/4711")
    assert client.wait_for_job(ticket)["taskId"] == ticket.task_id == "4711"


@pytest.mark.parametrize("task_id", [".", ".."])
def test_queued_run_with_unusable_id(task_id, server, client):
    """A task id that no request can name is a RecallError."""
    server.respond_next(202, json={"success": True, "taskId": task_id})
    with pytest.raises(InvalidResponseError, match="can't be part of a path"):
        client.execute_workflow("wait", async_execution=True)
