"""The plain values that pass between the layers: a call to send, and the answer to it."""

from typing import Dict, Mapping, NamedTuple, Optional

REQUEST_ID = "X-Request-Id"
"""The header with the id of an answer in the server's logs."""


class Call(NamedTuple):
    """One request, without the base URL, the key and the timeout."""

    method: str
    path: str
    body: Optional[bytes] = None
    stream: bool = False
    asynchronous: bool = False
    id: str = ""

    @property
    def executes(self) -> bool:
        """Whether it executes a workflow."""
        return self.body is not None

    @property
    def headers(self) -> Dict[str, str]:
        # Only encodings that can be decoded piece by piece.
        headers = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
        if self.stream:
            headers["Accept"] = "text/event-stream, application/json"
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        if self.asynchronous:
            headers["X-Execution-Mode"] = "async"
        return headers


class Answer(NamedTuple):
    """One whole answer.

    Attributes:
        call: The request.
        status: HTTP status.
        headers: Its headers, by name in any case.
        body: Its body, decompressed.
        received: When its head arrived, in seconds since the epoch.
        retry_after: Seconds, from the ``Retry-After`` header, or ``None``.
        clock_offset: Seconds by which the server's clock is ahead of ours, by its ``Date`` header; 0 if it sends none.
    """

    call: Call
    status: int
    headers: Mapping[str, str]
    body: bytes
    received: float
    retry_after: Optional[float]
    clock_offset: float = 0.0
