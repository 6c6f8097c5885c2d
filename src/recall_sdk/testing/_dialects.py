"""The fields of responses in the two dialects of this API: as documented, and as observed on a running server.

Pure: facts in, JSON values out.
"""

from datetime import datetime, timezone
from typing import Any, Dict, List, NamedTuple, Optional

from recall_sdk.testing._runs import Piece, Run

Json = Dict[str, Any]


class Limits(NamedTuple):
    """The state of the rate limit and of the spending."""

    rate: float  # executions per second
    burst: int
    remaining: int
    reset_at: float  # seconds since the epoch
    cost: float
    cost_limit: float


class Documented:
    """The dialect of the documentation."""

    json_type = "application/json"
    chunked_json = False
    rate_headers = True
    request_ids = False
    rate_limited = "Rate limit exceeded"

    def error(self, message: str, code: str, *, executing: bool) -> Json:
        """An error's body; ``executing`` on the execute endpoint."""
        return {"error": message, "code": code}

    def result(self, run: Run) -> Json:
        """The response of a run that has ended."""
        return {
            "success": run.error is None,
            "output": run.output,
            "error": run.error,
            "logs": [],
            "metadata": {"duration": run.milliseconds, "executionId": run.execution_id},
            "traceSpans": [],
            "totalDuration": run.milliseconds,
        }

    def failure(self, run: Run) -> Json:
        """The response of a run that has failed."""
        metadata = {"duration": run.milliseconds, "startTime": _iso(run.started), "endTime": _iso(run.ended)}
        return {"success": False, "output": {}, "error": run.error, "metadata": metadata}

    def chunk(self, piece: Piece) -> Json:
        """A piece of text in a stream."""
        return {"blockId": piece[0], "chunk": piece[1]}

    def stream_end(self, run: Run) -> List[Any]:
        """The payloads at the end of a stream; a string is sent unchanged."""
        if run.error is not None:
            return [{"event": "error", "error": run.error}, "[DONE]"]
        metadata = {"duration": run.milliseconds, "executionId": run.execution_id}
        return [{"event": "done", "success": True, "output": run.output, "metadata": metadata}, "[DONE]"]

    def task_id(self, run: Run) -> str:
        """The id of a queued execution."""
        return "task_" + run.execution_id.replace("-", "")

    def ticket(self, task_id: str, run: Run, base_url: str) -> Json:
        """The response to a queued execution."""
        links = {"status": f"/api/jobs/{task_id}"}
        return {"success": True, "taskId": task_id, "status": "queued", "createdAt": _iso(run.started), "links": links}

    def job(self, task_id: str, run: Run) -> Json:
        """The state of a queued execution."""
        metadata: Json = {"startedAt": _iso(run.started)}
        body: Json = {"success": True, "taskId": task_id, "status": _state(run), "metadata": metadata}
        if run.ended is not None:
            metadata.update(completedAt=_iso(run.ended), duration=run.milliseconds)
            body.update({"output": run.output} if run.error is None else {"error": run.error})
        return body

    def usage(self, limits: Limits) -> Json:
        """Limits and spending of the account."""
        rate = {"isLimited": limits.remaining < 1, **self._rate(limits), "remaining": limits.remaining}
        rate["resetAt"] = _iso(limits.reset_at)
        return {
            "success": True,
            "rateLimit": {"sync": rate, "async": rate, "authType": "api"},
            "usage": {"currentPeriodCost": limits.cost, "limit": limits.cost_limit, "plan": "free"},
        }

    def status(self, deployed_at: Optional[float]) -> Json:
        """Whether a workflow is deployed."""
        return {"isDeployed": deployed_at is not None, "deployedAt": _iso(deployed_at), "needsRedeployment": False}

    def _rate(self, limits: Limits) -> Json:
        return {"limit": limits.burst}


class Observed(Documented):
    """The dialect of a running server."""

    json_type = "application/json;charset=utf-8"
    chunked_json = True
    rate_headers = False
    request_ids = True
    rate_limited = "Rate limit exceeded. Please try again later."

    def error(self, message: str, code: str, *, executing: bool) -> Json:
        return {"error": message} if executing else {"error": message, "code": message.upper().replace(" ", "_")}

    def result(self, run: Run) -> Json:
        body = self.failure(run)
        del body["error"]
        return {**body, "success": True, "executionId": run.execution_id, "output": run.output}

    def stream_end(self, run: Run) -> List[Any]:
        if run.error is not None:
            return [{"event": "error", "error": run.error}, '"[DONE]"']
        return [{"event": "final", "data": {"success": True, "output": run.output}}, '"[DONE]"']

    def task_id(self, run: Run) -> str:
        return f"workflow-execution:{run.execution_id}"

    def ticket(self, task_id: str, run: Run, base_url: str) -> Json:
        return {
            "success": True,
            "async": True,
            "jobId": task_id,
            "executionId": run.execution_id,
            "message": "Workflow execution queued",
            "statusUrl": f"{base_url}/api/jobs/{task_id}",
        }

    def job(self, task_id: str, run: Run) -> Json:
        metadata = {"workflowId": run.workflow_id, "correlation": {"executionId": run.execution_id, "triggerType": "api"}}
        body: Json = {"success": True, "taskId": task_id, "status": _state(run), "metadata": metadata, "output": None}
        if run.error is not None:
            body["error"] = run.error
        elif run.ended is not None:
            body["output"] = {
                "output": run.output,
                "success": True,
                "executedAt": _iso(run.ended),
                "workflowId": run.workflow_id,
                "executionId": run.execution_id,
            }
        return body

    def usage(self, limits: Limits) -> Json:
        return {**super().usage(limits), "storage": {"usedBytes": 0, "limitBytes": 5368709120, "percentUsed": 0}}

    def _rate(self, limits: Limits) -> Json:
        return {"requestsPerMinute": round(limits.rate * 60), "maxBurst": limits.burst}


def _state(run: Run) -> str:
    if run.ended is None:
        return "processing"
    return "completed" if run.error is None else "failed"


def _iso(seconds: Optional[float]) -> Optional[str]:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
