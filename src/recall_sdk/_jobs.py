"""Waiting for a queued run. Clock and sleep are passed in."""

import json
import logging
import math
from typing import Any, Callable, Dict, Optional, Tuple

from recall_sdk import errors
from recall_sdk._arguments import MAX_TIMEOUT, check_number
from recall_sdk._decoding import JOB_STATES, job_failure

_log = logging.getLogger("recall_sdk")

_Job = Dict[str, Any]

TRANSIENT = (
    errors.RateLimitError,
    errors.RecallConnectionError,
    errors.RecallTimeoutError,
    errors.ServerError,
    errors.InvalidResponseError,
)
"""Failed polls that say nothing about the job: the next poll may succeed."""

REJECTIONS = (errors.AuthenticationError, errors.PermissionDeniedError, errors.NotFoundError)
"""What a server that has lost its database reports for a valid key and id. A job just accepted may not be found at once, either."""

MAX_REJECTED = 60.0
"""Seconds for which consecutive rejected polls are ignored, if the job is known to exist."""

GROWTH = 1.5
"""Factor from one interval to the next: the end of a short job is noticed soon, and a long one is polled rarely."""

MIN_INTERVAL = 0.001
"""Seconds. Polling without a pause would only put load on the server."""

LAST_POLL = 0.25
"""Seconds for a last poll after the time has run out, so that a job that has just ended is noticed."""


def wait_for_job(
    poll: Callable[[Optional[float]], Tuple[_Job, Optional[float]]],
    task_id: str,
    *,
    accepted: bool,
    timeout: Optional[float],
    poll_interval: float,
    max_poll_interval: float,
    on_update: Optional[Callable[[_Job], object]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    shown: Callable[[str], str],
) -> _Job:
    """Poll until a job has ended.

    Args:
        poll: Polls once within the given seconds; returns the job's status, and the server's retry-after in seconds.
        task_id: The job, for messages.
        accepted: Whether the server is known to have accepted the job. Otherwise this is known after the first successful poll.
        timeout: Maximum seconds to wait, or ``None``.
        poll_interval: Seconds before the second poll.
        max_poll_interval: Maximum seconds between polls.
        on_update: Called with a copy of the first status and of each changed one.
        clock: Returns seconds, as :func:`time.monotonic` does.
        sleep: Waits for the given seconds, as :func:`time.sleep` does.
        shown: Returns what a log line may show of a text of the server's.
    """
    interval = check_number("poll_interval", poll_interval, least=MIN_INTERVAL)
    max_interval = max(interval, check_number("max_poll_interval", max_poll_interval, least=MIN_INTERVAL))
    deadline = math.inf if timeout is None else clock() + timeout
    job: Optional[_Job] = None
    rejected_since, reported = math.inf, ""
    familiar_states = set(JOB_STATES.values())
    while True:
        trouble: Optional[errors.RecallError] = None
        try:
            job, retry_after = poll(None if timeout is None else max(deadline - clock(), LAST_POLL))
        except errors.RecallError as error:
            is_known = accepted or job is not None
            rejected_since = min(rejected_since, clock()) if isinstance(error, REJECTIONS) else math.inf
            is_short_outage = isinstance(error, REJECTIONS) and is_known and clock() - rejected_since <= MAX_REJECTED
            if not (is_short_outage or isinstance(error, TRANSIENT) or error.status == 425):  # too early, by RFC 8470
                error.may_have_executed |= is_known  # the poll executes nothing, but the job may have run
                name = errors.one_line(task_id)
                if name not in str(error):
                    error.args = (f"job {name}: {error}",)
                raise
            trouble, retry_after = error, error.retry_after
        else:
            rejected_since = math.inf
            if on_update is not None:
                reported = _report(job, reported, on_update)
            state = job["status"]
            if state == "completed":
                return job
            if state in ("failed", "cancelled"):
                raise job_failure(job)
            if state not in familiar_states:
                familiar_states.add(state)
                _log.info("job %s has the unknown state %r; it is treated as not ended", shown(task_id), shown(state))
        remaining = deadline - clock()
        if remaining <= 0:
            raise _out_of_time(task_id, timeout, job, trouble) from trouble
        wait = min(max(interval, retry_after or 0.0), remaining, MAX_TIMEOUT)
        if trouble is not None:
            _log.info("job %s could not be polled: %s; polling again in %.2f s", shown(task_id), trouble, wait)
        sleep(wait)
        interval = min(interval * GROWTH, max_interval)


def _report(job: _Job, reported: str, on_update: Callable[[_Job], object]) -> str:
    """Pass a copy of a changed status to the caller's function; return the text of what was reported last."""
    try:
        text = json.dumps(job)
    except RecursionError:  # nested more deeply than Python can copy
        return reported
    if text != reported:
        on_update(json.loads(text))
    return text


def _out_of_time(task_id: str, timeout: Optional[float], job: Optional[_Job], trouble: Optional[errors.RecallError]) -> errors.RecallError:
    limit = f"{timeout} s ({trouble})" if trouble else f"{timeout} s"
    if job is None:
        state = f"could not be polled within {limit}; it may still be running"
    elif job["status"] in JOB_STATES.values():
        state = f"is still {job['status']} after {limit}; it may still be running"
    else:
        state = f"has the unknown state {job['status']!r} after {limit}; it may or may not have ended"
    message = f"job {task_id} {state}: wait for it again with wait_for_job({task_id!r})"
    # The poll executes nothing, but the job may still be running.
    return errors.build_error(errors.RecallTimeoutError, message, may_have_executed=True, body=job)
