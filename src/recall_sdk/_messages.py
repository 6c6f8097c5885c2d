"""The plain values that pass between the layers: a call to send, the answer to it, and an item of a batch."""

from typing import Mapping, NamedTuple, Optional

from recall_sdk._requests import Request

REQUEST_ID = "X-Request-Id"
"""The header with the id of an answer in the server's logs."""


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

    call: Request
    status: int
    headers: Mapping[str, str]
    body: bytes
    received: float
    retry_after: Optional[float]
    clock_offset: float = 0.0
