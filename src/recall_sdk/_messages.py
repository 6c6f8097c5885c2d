"""The header with the id of a response."""

REQUEST_ID = "X-Request-Id"
