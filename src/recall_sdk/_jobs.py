"""Waiting for a queued run. Clock and sleep are passed in."""

import logging
import math
from typing import Any, Callable, Dict, Optional, Tuple

from recall_sdk._decoding import job_failure
from recall_sdk.errors import RateLimitError, RecallConnectionError, RecallError, RecallTimeoutError, ServerError
from recall_sdk.retry import MAX_SLEEP, checked_number

_log = logging.getLogger("recall_sdk")

TRANSIENT = (RateLimitError, RecallConnectionError, RecallTimeoutError, ServerError)
"""What says nothing about the job: the next poll may well succeed."""

GROWTH = 1.5
"""By how much each interval is longer than the one before: short jobs are noticed soon, long ones are not asked for in vain."""

MIN_INTERVAL = 0.001
"""Seconds. Polling without a pause would only load the server."""

LAST_POLL = 0.25
"""Seconds that a poll may take although the time is up, so that a job that has just ended is still noticed."""


def wait_for_job(
    poll: Callable[[Optional[float]], Tuple[Dict[str, Any], Optional[float]]],
    task_id: str,
    *,
    timeout: Optional[float],
    poll_interval: float,
    max_poll_interval: float,
    on_update: Optional[Callable[[Dict[str, Any]], object]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Dict[str, Any]:
    """Poll until a job has ended.

    Args:
        poll: Asks once, within the given seconds; gives the job's status, and the server's retry-after in seconds.
        task_id: The job, for messages.
        timeout: Seconds to wait at most, or ``None``.
        poll_interval: Seconds before the second poll.
        max_poll_interval: Seconds between polls at most.
        on_update: Gets the first status and each changed one.
        clock: Gives seconds, as :func:`time.monotonic` does.
        sleep: Waits for the given seconds, as :func:`time.sleep` does.
    """
    interval = checked_number("poll_interval", poll_interval, least=MIN_INTERVAL)
    longest = max(interval, checked_number("max_poll_interval", max_poll_interval, least=MIN_INTERVAL))
    until = math.inf if timeout is None else clock() + timeout
    job: Optional[Dict[str, Any]] = None
    while True:
        left = until - clock()
        trouble: Optional[RecallError] = None
        try:
            newest, retry_after = poll(None if timeout is None else max(left, LAST_POLL))
        except TRANSIENT as error:
            trouble, retry_after = error, error.retry_after
        else:
            if newest != job:
                job = newest
                if on_update is not None:
                    on_update(job)
            if newest["status"] == "completed":
                return newest
            if newest["status"] in ("failed", "cancelled"):
                raise job_failure(newest)
        left = until - clock()
        if left <= 0:
            raise _out_of_time(task_id, timeout, job, trouble) from trouble
        wait = min(max(interval, retry_after or 0.0), left, MAX_SLEEP)
        if trouble is not None:
            _log.info("job %s could not be asked for: %s; asking again in %.2f s", task_id, trouble, wait)
        sleep(wait)
        interval = min(interval * GROWTH, longest)


def _out_of_time(
    task_id: str, timeout: Optional[float], job: Optional[Dict[str, Any]], trouble: Optional[RecallError]
) -> RecallTimeoutError:
    state = "could not be asked for" if job is None else f"is still {job['status']}"
    why = f" ({trouble})" if trouble else ""
    goes_on = "it may go on" if job is None else "it goes on"
    error = RecallTimeoutError(
        f"job {task_id} {state} after {timeout} s{why}; {goes_on}: wait for it again with wait_for_job({task_id!r})", "TIMEOUT"
    )
    error.body = job
    error.may_have_executed = True  # the call itself executes nothing, but the run that it waits for may be under way
    return error
