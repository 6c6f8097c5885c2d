"""The owner of an exchange."""

from __future__ import annotations

from typing import Mapping

from recall_sdk._requests import Request


class Response:
    """One response.

    Attributes:
        request: The request.
        status: HTTP status.
        headers: Its headers, by name in any case.
        received: When its head arrived, in seconds since the epoch.
        may_repeat: Whether an adapter of the user's session may have sent the request twice.
    """

    def __init__(
        self, request: Request, status: int, headers: Mapping[str, str], body: bytes, received: float, *, may_repeat: bool = False
    ) -> None:
        self.request = request
        self.status = status
        self.headers = headers
        self.received = received
        self.may_repeat = may_repeat
        self._body = body

    def read(self) -> bytes:
        """Return the whole body, decompressed."""
        return self._body
