"""The API itself: a request in, a response out."""

import re
import threading
import time
from math import ceil
from typing import Any, Counter, Dict, Iterator, List, Mapping, Optional, Union, cast
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from werkzeug import Response

from recall_sdk.testing._bucket import TokenBucket
from recall_sdk.testing._dialects import Documented, Limits
from recall_sdk.testing._http import new_thread
from recall_sdk.testing._recording import RecordedRequest
from recall_sdk.testing._runs import Run, Workflow, input_of
from recall_sdk.testing._scripts import encode, event_bytes

COST_OF_A_RUN = 0.01  # dollars
COST_OF_NO_LIMIT = 100.0  # dollars: the limit reported for an account without one
RATE_OF_NO_LIMIT = 100  # the same in executions per second


class Rejection(Exception):  # noqa: N818  # a response, not an error
    """A response that ends the processing of a request."""

    def __init__(self, status: int, message: str, code: str, headers: Optional[Mapping[str, str]] = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers


class Api:
    """Runs workflows and responds to requests, for one account with one key.

    Args:
        api_key: The key that is let in.
        dialect: The bodies of the responses.
        bucket: The rate limit, or ``None`` for no limit.
        usage_limit: Spending, in dollars, from which on executions are rejected, or ``None`` for no limit.
        retry_after: Whether a documented 429 says when to come back.
    """

    def __init__(
        self, api_key: str, dialect: Documented, bucket: Optional[TokenBucket], usage_limit: Optional[float], *, retry_after: bool
    ) -> None:
        self.workflows: Dict[str, Workflow] = {}
        self.stopping = threading.Event()  # when set, delays and jobs end
        self.job_threads: List[threading.Thread] = []
        self._api_key = api_key
        self._dialect = dialect
        self._bucket = bucket
        self._usage_limit = usage_limit
        self._retry_after = retry_after
        self._lock = threading.Lock()  # for the bucket, the executions and the jobs
        self._executions: Counter[str] = Counter()
        self._jobs: Dict[str, Run] = {}

    @property
    def executions(self) -> Dict[str, int]:
        """The number of runs of each workflow, by its id."""
        with self._lock:
            return self._executions.copy()

    def respond(self, request: RecordedRequest) -> Response:
        """Respond to a request."""
        path = urlsplit(request.path).path  # a client that uses this server as a proxy sends a whole URL
        executing = path.endswith("/execute")
        try:
            response = self._route(path, request)
        except Rejection as rejection:
            body = self._dialect.error(rejection.message, rejection.code, executing=executing)
            response = self._json(body, rejection.status)
            response.headers.extend(rejection.headers or {})
        if executing and self._bucket is not None and self._dialect.rate_headers:
            response.headers.extend(self._rate_headers(self._bucket))
        if self._dialect.request_ids:
            response.headers["X-Request-Id"] = uuid4().hex[:8]
        return response

    def _route(self, path: str, request: RecordedRequest) -> Response:
        for method, pattern, handle in (
            ("POST", r"/api/workflows/([^/]+)/execute", self._execute),
            ("GET", r"/api/workflows/([^/]+)/status", self._status),
            ("GET", r"/api/jobs/([^/]+)", self._job),
            ("GET", r"/api/users/(me)/usage-limits", self._usage),
        ):
            match = re.fullmatch(pattern, path)
            if match is not None:
                if request.method != method:
                    raise Rejection(405, "Method not allowed", "METHOD_NOT_ALLOWED", {"Allow": method})
                if request.headers.get("X-API-Key") != self._api_key:
                    raise Rejection(401, "Invalid API key" if "X-API-Key" in request.headers else "Unauthorized", "UNAUTHORIZED")
                return handle(unquote(match[1]), request)
        raise Rejection(404, "Not found", "NOT_FOUND")

    def _execute(self, workflow_id: str, request: RecordedRequest) -> Response:
        workflow = self._workflow(workflow_id)
        if workflow.deployed_at is None:
            raise Rejection(403, "Workflow is not deployed", "WORKFLOW_NOT_DEPLOYED")
        body = self._body(request)
        self._count(workflow_id)
        streaming = body.get("stream") is True
        run = Run(workflow, input_of(body), stream_content=streaming and bool(body.get("selectedOutputs")))
        if request.headers.get("X-Execution-Mode") == "async":
            return self._queue(run, f"http://{request.headers.get('Host')}")
        if streaming:
            return Response(self._events(run), headers={"Cache-Control": "no-cache"}, content_type="text/event-stream")
        if run.finish().error is not None:
            return self._json(self._dialect.failure(run), 500)
        return self._json(self._dialect.result(run))

    def _status(self, workflow_id: str, _request: RecordedRequest) -> Response:
        return self._json(self._dialect.status(self._workflow(workflow_id).deployed_at))

    def _job(self, task_id: str, _request: RecordedRequest) -> Response:
        run = self._jobs.get(task_id)
        if run is None:
            raise Rejection(404, "Task not found", "TASK_NOT_FOUND")
        return self._json(self._dialect.job(task_id, run))

    def _usage(self, _me: str, _request: RecordedRequest) -> Response:
        bucket = self._bucket or TokenBucket(RATE_OF_NO_LIMIT, RATE_OF_NO_LIMIT)
        now = time.monotonic()
        with self._lock:
            reset_at = time.time() + bucket.seconds_to_reset(now)
            cost_limit = COST_OF_NO_LIMIT if self._usage_limit is None else float(self._usage_limit)
            limits = Limits(bucket.rate, bucket.burst, bucket.remaining(now), reset_at, self._cost(), cost_limit)
        return self._json(self._dialect.usage(limits))

    def _workflow(self, workflow_id: str) -> Workflow:
        workflow = self.workflows.get(workflow_id)
        if workflow is None:
            raise Rejection(404, "Workflow not found", "WORKFLOW_NOT_FOUND")
        return workflow

    def _body(self, request: RecordedRequest) -> Dict[str, Any]:
        body: Union[Dict[str, Any], object] = request.json if request.body else {}
        if isinstance(body, dict):
            return cast("Dict[str, Any]", body)
        raise Rejection(400, "The request's body must be a JSON object", "INVALID_JSON")

    def _count(self, workflow_id: str) -> None:
        """Count an execution, if the limits allow it."""
        with self._lock:
            cost = self._cost()
            if self._usage_limit is not None and cost >= self._usage_limit:
                message = f"Usage limit exceeded: {cost:.2f}$ used of {self._usage_limit:.2f}$ limit."
                raise Rejection(402, message, "USAGE_LIMIT_EXCEEDED")
            now = time.monotonic()
            if self._bucket is not None and not self._bucket.take(now):
                headers: Dict[str, str] = {}
                if self._retry_after and self._dialect.rate_headers:
                    headers["Retry-After"] = str(ceil(self._bucket.seconds_to_one(now)))
                raise Rejection(429, self._dialect.rate_limited, "RATE_LIMIT_EXCEEDED", headers)
            self._executions[workflow_id] += 1

    def _cost(self) -> float:
        return round(sum(self._executions.values()) * COST_OF_A_RUN, 2)

    def _rate_headers(self, bucket: TokenBucket) -> Dict[str, str]:
        now = time.monotonic()
        with self._lock:
            return {
                "X-RateLimit-Limit": str(bucket.burst),
                "X-RateLimit-Remaining": str(bucket.remaining(now)),
                "X-RateLimit-Reset": str(ceil(time.time() + bucket.seconds_to_reset(now))),
            }

    def _events(self, run: Run) -> Iterator[bytes]:
        for piece in run:
            yield event_bytes(self._dialect.chunk(piece))
        for payload in self._dialect.stream_end(run):
            yield event_bytes(payload)

    def _queue(self, run: Run, base_url: str) -> Response:
        task_id = self._dialect.task_id(run)
        thread = new_thread(self._work, run)
        with self._lock:
            self._jobs[task_id] = run
            self.job_threads = [other for other in self.job_threads if other.is_alive()]
            thread.start()
            self.job_threads.append(thread)
        return self._json(self._dialect.ticket(task_id, run, base_url), 202)

    def _work(self, run: Run) -> None:
        for _ in run:
            if self.stopping.is_set():
                return

    def _json(self, value: Any, status: int = 200) -> Response:
        body = encode(value)
        # A generator has no known length, so it is sent in chunks, as by a server that streams its JSON.
        return Response((part for part in [body]) if self._dialect.chunked_json else body, status, content_type=self._dialect.json_type)
