"""What the server of the soak sends: each kind of response, healthy or not, is a generator of a few lines.

A kind is named by the workflow id of a request. It yields bytes to send, a number of seconds to wait, or one of ``CLOSE``, ``RESET`` and
``HANG``. When it ends without one of those, the connection stays open for the next request.

A kind is *executed* if its workflow may have run: a second request of that run is then a fault of the client. A kind is *repeatable* if the
client may send the run again: a refusal that says so, or a redirect. All others are refused.
"""

import gzip
import json
import time
import zlib
from email.utils import formatdate
from random import Random
from typing import Any, Callable, Dict, Iterator, NamedTuple, Union

CLOSE, RESET, HANG = "close", "reset", "hang"
Step = Union[bytes, float, str]

DRIP = 0.02  # seconds between the pieces of a slow response
LONG = 400  # pieces of a response that outlasts every timeout


class Asked(NamedTuple):
    """What a kind may need to know of a request."""

    token: str
    key: str
    other: str  # the URL of another origin
    random: Random


class Kind(NamedTuple):
    """One kind of response."""

    send: Callable[[Asked], Iterator[Step]]
    executed: bool
    repeatable: bool


KINDS: Dict[str, Kind] = {}


def kind(name: str, *, executed: bool = True, repeatable: bool = False) -> Callable[[Callable[[Asked], Iterator[Step]]], None]:
    def register(send: Callable[[Asked], Iterator[Step]]) -> None:
        KINDS[name] = Kind(send, executed, repeatable)

    return register


def head(*headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def http(body: Any, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return head(f"Content-Length: {len(body)}", f"Content-Type: {content_type}", *headers, status=status) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def envelope(asked: Asked) -> Dict[str, Any]:
    return {"success": True, "output": {"token": asked.token}, "metadata": {"duration": 1.5}}


def packed(asked: Asked) -> bytes:
    return json.dumps(envelope(asked)).encode()


def drip(data: bytes) -> Iterator[Step]:
    for byte in data:
        yield bytes([byte])
        yield DRIP


LAST = chunk(b"")
CHUNKED = "Transfer-Encoding: chunked"
JSON = "Content-Type: application/json"

# ------------------------------------------------------------------------------------------------------------------ healthy


@kind("ok-length")
def _(asked):
    yield http(envelope(asked))


@kind("ok-chunked")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked)[:9]) + chunk(packed(asked)[9:]) + LAST


@kind("ok-gzip")
def _(asked):
    yield http(gzip.compress(packed(asked)), "Content-Encoding: gzip")


@kind("ok-close")
def _(asked):
    yield head("Connection: close", JSON) + packed(asked)
    yield CLOSE


@kind("ok-http10")
def _(asked):
    yield b"HTTP/1.0 200 OK\r\n" + JSON.encode() + b"\r\n\r\n" + packed(asked)
    yield CLOSE


@kind("ok-in-pieces")
def _(asked):
    whole = http(envelope(asked))
    for start in range(0, len(whole), 40):
        yield whole[start : start + 40]
        yield 0.002


@kind("ok-interim")
def _(asked):
    yield b"HTTP/1.1 100 Continue\r\n\r\n"
    yield http(envelope(asked))


@kind("ok-cookies")
def _(asked):
    yield http(envelope(asked), *[f"Set-Cookie: c{number}={asked.token}; Path=/" for number in range(20)])


@kind("ok-limits")
def _(asked):
    reset = f"X-RateLimit-Reset: {time.time() + 1:.0f}"
    yield http(envelope(asked), "X-RateLimit-Limit: 1000", f"X-RateLimit-Remaining: {asked.random.randrange(900, 1000)}", reset)


@kind("ok-closed-later")
def _(asked):
    yield http(envelope(asked))
    yield asked.random.random() * 0.01
    yield CLOSE


@kind("ok-key")
def _(asked):
    yield http({"success": True, "output": {"token": asked.token, "key": int(asked.key.split("-")[1])}})  # its number: no secret


@kind("ok-failed-run")
def _(asked):
    yield http({"success": False, "output": {"token": asked.token}, "error": f"no luck with {asked.token}"})


@kind("ok-own-shape")
def _(asked):
    yield http([asked.token, {"a": None}])


@kind("ok-empty")
def _(asked):
    yield head(status="204 No Content")


# -------------------------------------------------------------------------------------------------------- broken connections


@kind("drop-silently")
def _(asked):
    yield CLOSE


@kind("drop-reset")
def _(asked):
    yield RESET


@kind("drop-in-head")
def _(asked):
    yield http(envelope(asked))[: asked.random.randrange(1, 60)]
    yield CLOSE


@kind("drop-after-head")
def _(asked):
    yield head("Content-Length: 500", JSON)
    yield RESET


@kind("drop-in-body")
def _(asked):
    yield http(envelope(asked))[:-10]
    yield CLOSE


@kind("drop-in-chunk")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked))[:-20]
    yield CLOSE


@kind("drop-between-chunks")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked))
    yield RESET


# ----------------------------------------------------------------------------------------------------------------- too late


@kind("late-silence")
def _(asked):
    yield HANG


@kind("late-head")
def _(asked):
    yield from drip(head(*[f"X-Filler-{number}: abcdefgh" for number in range(60)], "Content-Length: 2") + b"{}")


@kind("late-body")
def _(asked):
    yield head(f"Content-Length: {LONG}", JSON)
    yield from drip(b" " * LONG)


@kind("late-silent-body")
def _(asked):
    yield http(envelope(asked))[:-5]
    yield HANG


@kind("late-chunk-size")
def _(asked):
    yield head(CHUNKED, JSON)
    yield from drip(b"0" * LONG)


@kind("late-trailers")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked)) + b"0\r\n"
    for number in range(LONG):
        yield b"X-Trailer-%d: a\r\n" % number
        yield DRIP


@kind("late-gzip")
def _(asked):
    yield head(f"Content-Length: {LONG}", JSON, "Content-Encoding: gzip")
    yield from drip(gzip.compress(b" " * 300_000)[:LONG])


# ------------------------------------------------------------------------------------------------------------------ endless


@kind("endless-interim")
def _(asked):
    for _ in range(LONG):
        yield b"HTTP/1.1 100 Continue\r\n\r\n" * 50
        yield DRIP / 4


@kind("endless-headers")
def _(asked):
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(LONG):
        yield b"X-%d: abc\r\n" % number
        yield 0.001


@kind("endless-status-line")
def _(asked):
    yield b"HTTP/1.1 200 "
    for _ in range(LONG):
        yield b"very " * 100
        yield 0.001


@kind("endless-body")
def _(asked):
    yield head("Connection: close", JSON) + b'{"a": "'
    for _ in range(LONG * 4):
        yield b"x" * 16_000
        yield DRIP / 4


@kind("endless-bytes")
def _(asked):
    yield head(CHUNKED, JSON)
    for _ in range(LONG * 20):
        yield chunk(b"x") * 100  # never a pause
    yield HANG


@kind("endless-trailers")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked)) + b"0\r\n"
    for _ in range(LONG * 4):
        yield b"X-Trailer: a\r\n" * 50
        yield DRIP / 4


@kind("endless-gzip")
def _(asked):
    yield head("Connection: close", JSON, "Content-Encoding: gzip")
    packer = zlib.compressobj(wbits=31)
    for _ in range(LONG):
        yield packer.compress(b"x" * 100_000) + packer.flush(zlib.Z_SYNC_FLUSH)
        yield DRIP


@kind("endless-redirect", executed=False)
def _(asked):
    yield head(f"Location: {goal(asked)}", "Connection: close", status="302 Found")
    for _ in range(LONG * 4):
        yield b"x" * 16_000
        yield DRIP / 4


# -------------------------------------------------------------------------------------- bytes beyond the end, wrong lengths


# All of the surplus is sent at once with the response. What arrives only after the next request was sent can't be told from its response.


@kind("surplus-line")
def _(asked):
    yield http(envelope(asked)) + b"\r\n"


@kind("surplus-response")
def _(asked):
    yield http(envelope(asked)) * 2


@kind("surplus-body")
def _(asked):
    yield http(envelope(asked)) + packed(asked)


@kind("surplus-after-chunks")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked)) + LAST + http(envelope(asked))


@kind("surplus-after-empty")
def _(asked):
    yield head(status="204 No Content") + packed(asked)


@kind("surplus-refusal", executed=False)
def _(asked):
    yield http({"error": f"bad {asked.token}"}, status="400 Bad Request") * 3


@kind("length-short")
def _(asked):
    body = packed(asked)
    yield head(f"Content-Length: {len(body) - 7}", JSON) + body


@kind("length-bad")
def _(asked):
    yield head("Content-Length: many", JSON) + packed(asked)
    yield CLOSE


@kind("length-negative")
def _(asked):
    yield head("Content-Length: -5", JSON) + packed(asked)
    yield CLOSE


@kind("length-twice")
def _(asked):
    yield head("Content-Length: 5", "Content-Length: 50", JSON) + packed(asked)
    yield CLOSE


@kind("length-and-chunks")
def _(asked):
    yield head("Content-Length: 10", CHUNKED, JSON) + chunk(packed(asked)) + LAST


@kind("length-huge")
def _(asked):
    yield head("Content-Length: " + "9" * 30, JSON) + packed(asked)
    yield CLOSE


@kind("chunk-bad-size")
def _(asked):
    yield head(CHUNKED, JSON) + chunk(packed(asked)) + b"zz\r\nabc\r\n"
    yield CLOSE


@kind("chunk-negative")
def _(asked):
    yield head(CHUNKED, JSON) + b"-1\r\n" + packed(asked)
    yield CLOSE


@kind("chunk-without-line-end")
def _(asked):
    yield head(CHUNKED, JSON) + b"%x\r\n%b" % (len(packed(asked)), packed(asked)) + LAST
    yield CLOSE


@kind("chunk-long-size")
def _(asked):
    yield head(CHUNKED, JSON) + b"f" * 70_000
    yield CLOSE


# ------------------------------------------------------------------------------------------------------------- bad contents


@kind("gzip-garbage")
def _(asked):
    yield http(b"no gzip " * 20, "Content-Encoding: gzip")


@kind("gzip-cut")
def _(asked):
    yield http(gzip.compress(packed(asked))[:-12], "Content-Encoding: gzip")


@kind("gzip-twice")
def _(asked):
    yield http(gzip.compress(gzip.compress(packed(asked))), "Content-Encoding: gzip, gzip")


@kind("gzip-many-times")
def _(asked):
    yield http(packed(asked), *["Content-Encoding: " + ", ".join(["gzip"] * 1300)] * 10)


@kind("encoding-unknown")
def _(asked):
    yield http(packed(asked), "Content-Encoding: klingon")


@kind("charset-unknown")
def _(asked):
    yield http(packed(asked), content_type="application/json; charset=klingon")


@kind("body-empty")
def _(asked):
    yield http(b"")


@kind("body-page")
def _(asked):
    yield http(b"<!doctype html><title>Just a moment...</title>", content_type="text/html")


@kind("body-cut-json")
def _(asked):
    yield http(packed(asked)[:-3])


@kind("body-deep")
def _(asked):
    yield http(b"[" * 100_000)


@kind("body-huge-number")
def _(asked):
    yield http(b'{"success": true, "output": %b}' % (b"9" * 6_000))


@kind("body-utf16")
def _(asked):
    yield http(packed(asked).decode().encode("utf-16"))


@kind("body-bytes")
def _(asked):
    yield http(bytes(range(256)))


@kind("body-surrogates")
def _(asked):
    yield http(b'{"success": true, "output": "\\ud83d %b \\ude00"}' % asked.token.encode())


@kind("body-wrong-shape")
def _(asked):
    yield http({"success": True, "output": asked.token, "metadata": [1], "logs": 5, "error": {"a": 1}, "totalDuration": "long"})


@kind("body-events")
def _(asked):
    yield http(b'data: {"blockId": "b", "chunk": "%b"}\n\ndata: [DONE]\n\n' % asked.token.encode(), content_type="text/event-stream")


@kind("head-garbage")
def _(asked):
    yield b"SSH-2.0-OpenSSH_9.6\r\n\r\n"
    yield CLOSE


@kind("head-version")
def _(asked):
    yield b"HTTP/9.9 abc\r\n\r\n"
    yield CLOSE


@kind("head-without-colon")
def _(asked):
    yield b"HTTP/1.1 200 OK\r\nno colon here\r\nContent-Length: 2\r\n\r\n{}"
    yield CLOSE


@kind("head-long-line")
def _(asked):
    yield http(envelope(asked), "X-Long: " + "x" * 70_000)
    yield CLOSE


@kind("head-many-headers")
def _(asked):
    yield http(envelope(asked), *[f"X-{number}: a" for number in range(120)])
    yield CLOSE


@kind("head-control-characters")
def _(asked):
    yield http(envelope(asked), "X-Request-Id: \x1b[31mred\x07", "X-Null: a\x00b")


@kind("head-bad-times")
def _(asked):
    colons = ":" * 32_768
    yield http(envelope(asked), "Date: yesterday", f"X-RateLimit-Reset: {colons}", "X-RateLimit-Limit: 10", "X-RateLimit-Remaining: 5")


@kind("head-bad-numbers")
def _(asked):
    yield http(envelope(asked), "X-RateLimit-Reset: " + "9" * 5_000, "X-RateLimit-Limit: nan", "X-RateLimit-Remaining: -1")


# ----------------------------------------------------------------------------------------------------------------- statuses

REFUSALS = ("400 Bad Request", "401 Unauthorized", "402 Payment Required", "403 Forbidden", "404 Not Found", "410 Gone", "425 Early")
UNCERTAIN = ("408 Late", "409 Conflict", "422 Odd", "499 Closed", "501 No", "502 Bad", "503 Down", "504 Late", "530 Odd")


def status_kind(status: str, *, executed: bool) -> None:
    @kind(f"status-{status[:3]}", executed=executed)
    def _(asked):
        yield http({"error": f"refused {asked.token}", "code": "SOME_CODE"}, status=status)


for each in REFUSALS:
    status_kind(each, executed=False)
for each in UNCERTAIN:
    status_kind(each, executed=True)


@kind("status-500-failed-run")
def _(asked):
    yield http({"success": False, "output": {}, "error": f"failed {asked.token}", "metadata": {}}, status="500 Failed")


@kind("status-400-failed-run")
def _(asked):
    yield http({"success": False, "output": {}, "error": f"failed {asked.token}", "metadata": {}}, status="400 Failed")


@kind("status-503-page")
def _(asked):
    yield http(b"<html><body>down</body></html>", "Retry-After: 1", status="503 Down", content_type="text/html")


@kind("status-999")
def _(asked):
    yield http({"error": asked.token}, status="999 Odd")


@kind("status-429-own-response")
def _(asked):
    yield http({"token": asked.token, "mine": True}, "Retry-After: 0", status="429 Mine")


@kind("status-401-echo", executed=False)
def _(asked):
    yield http({"error": f"the key {asked.key} is not known, {asked.token}"}, status="401 Unauthorized")


@kind("status-400-dirty", executed=False)
def _(asked):
    yield http({"error": f"\x1b[2J{asked.token}\r\n\u202e", "code": "A\r\nB\x1b"}, status="400 Bad")


def limited(name: str, *headers: Callable[[], str], body: Any = None) -> None:
    @kind(f"status-429-{name}", executed=False, repeatable=True)
    def _(asked):
        value = {"error": f"slow down {asked.token}", **(body or {})}
        yield http(value, *[header() for header in headers], status="429 Too Many Requests")


limited("plain")
limited("at-once", lambda: "Retry-After: 0")
limited("a-second", lambda: "Retry-After: 1")
limited("two-hours", lambda: "Retry-After: 7200")
limited("date", lambda: "Retry-After: " + formatdate(time.time() + 1, usegmt=True), lambda: "Date: " + formatdate(time.time(), usegmt=True))
limited("garbage", lambda: "Retry-After: soon", lambda: "X-RateLimit-Reset: never")
limited("body", body={"retryAfterSeconds": 0.05})
limited("empty-bucket", lambda: "X-RateLimit-Limit: 5", lambda: "X-RateLimit-Remaining: 0", lambda: f"X-RateLimit-Reset: {time.time():.0f}")

RECOVERING = {
    "limited-plain": ("status-429-plain", "ok-length"),
    "limited-at-once": ("status-429-at-once", "ok-limits"),
    "limited-body": ("status-429-body", "ok-limits"),
    "limited-garbage": ("status-429-garbage", "ok-chunked"),
    "limited-stream": ("status-429-plain", "stream-ok"),
    "limited-drop": ("status-429-plain", "drop-reset"),
}
"""Names that stand for one kind at the first request of a run, and for another later, as with a server that is busy for a moment."""

# ---------------------------------------------------------------------------------------------------------------- redirects


def goal(asked: Asked, name: str = "ok-length") -> str:
    return f"/api/workflows/{name}~{asked.token}/execute"


def redirect(name: str, status: str, location: Callable[[Asked], str], *, repeatable: bool = False) -> None:
    @kind(f"redirect-{name}", executed=False, repeatable=repeatable)
    def _(asked):
        yield http(b"moved", "Location: " + location(asked), status=status)


redirect("307", "307 Temporary", goal, repeatable=True)
redirect("308", "308 Permanent", goal, repeatable=True)
redirect("302", "302 Found", goal)
redirect("303", "303 See Other", goal)
redirect("other-origin", "307 Temporary", lambda asked: asked.other + goal(asked))
redirect("loop", "307 Temporary", lambda asked: goal(asked, "redirect-loop"), repeatable=True)
redirect("bad-host", "307 Temporary", lambda asked: "http://[::1")
redirect("bad-bytes", "307 Temporary", lambda asked: "http://\xe9\xff/\x80")
redirect("bad-port", "307 Temporary", lambda asked: "http://127.0.0.1:999999/")
redirect("bad-scheme", "307 Temporary", lambda asked: "javascript:alert(1)")
redirect("empty", "307 Temporary", lambda asked: "")

# ------------------------------------------------------------------------------------------------------------------ streams

EVENTS = "Content-Type: text/event-stream"


def event(payload: Any) -> bytes:
    return b"data: " + (payload if isinstance(payload, bytes) else json.dumps(payload).encode()) + b"\n\n"


def piece(asked: Asked, number: int = 0) -> bytes:
    return event({"blockId": f"b{number % 3}", "chunk": f"{asked.token} "})


def stream_end(asked: Asked) -> bytes:
    return event({"event": "done", "success": True, "output": {"token": asked.token}}) + event(b"[DONE]")


def stream(asked: Asked, count: int = 5) -> Iterator[bytes]:
    for number in range(count):
        yield piece(asked, number)
    yield stream_end(asked)


def in_chunks(asked: Asked, *events: bytes) -> Iterator[Step]:
    yield head(CHUNKED, EVENTS)
    for each in events:
        yield chunk(each)


@kind("stream-ok")
def _(asked):
    yield from in_chunks(asked, *stream(asked), b"")


@kind("stream-ok-length")
def _(asked):
    yield http(b"".join(stream(asked)), content_type="text/event-stream")


@kind("stream-ok-close")
def _(asked):
    yield head("Connection: close", EVENTS) + b"".join(stream(asked, 50))
    yield CLOSE


@kind("stream-ok-gzip")
def _(asked):
    yield http(gzip.compress(b"".join(stream(asked))), "Content-Encoding: gzip", content_type="text/event-stream")


@kind("stream-ok-paced")
def _(asked):
    yield head(CHUNKED, EVENTS)
    for each in stream(asked, 8):
        yield chunk(each)
        yield DRIP
    yield LAST


@kind("stream-ok-pieces")
def _(asked):
    whole = chunk(b"".join(stream(asked))) + LAST
    yield head(CHUNKED, EVENTS)
    for start in range(0, len(whole), 7):
        yield whole[start : start + 7]


@kind("stream-ok-large")
def _(asked):
    yield from in_chunks(asked, event({"blockId": "b", "chunk": f"{asked.token} " * 20_000}), stream_end(asked), b"")


@kind("stream-ok-final")
def _(asked):
    end = {"event": "final", "data": {"success": True, "output": {"token": asked.token}}}
    yield from in_chunks(asked, piece(asked), event(end), event(b'"[DONE]"'), b"")


@kind("stream-ok-reset-block")
def _(asked):
    yield from in_chunks(asked, piece(asked), event({"blockId": "b0", "event": "chunk_reset"}), *stream(asked), b"")


@kind("stream-ok-half-characters")
def _(asked):
    halves = [b'data: {"blockId": "b", "chunk": "%b"}\n\n' % half for half in (b"\\ud83d", b"\\ude00", b"\\ud83d")]
    yield from in_chunks(asked, *halves, *stream(asked), b"")


@kind("stream-cut")
def _(asked):
    yield from in_chunks(asked, piece(asked), piece(asked))
    yield RESET


@kind("stream-cut-in-event")
def _(asked):
    yield head("Connection: close", EVENTS) + piece(asked) + piece(asked)[:-5]
    yield CLOSE


@kind("stream-without-end")
def _(asked):
    yield from in_chunks(asked, piece(asked), b"")


@kind("stream-silent")
def _(asked):
    yield from in_chunks(asked, piece(asked))
    yield HANG


@kind("stream-silent-from-start")
def _(asked):
    yield head(CHUNKED, EVENTS)
    yield HANG


@kind("stream-silent-after-end")
def _(asked):
    yield from in_chunks(asked, *stream(asked))
    yield HANG


@kind("stream-goes-on-after-end")
def _(asked):
    yield from in_chunks(asked, *stream(asked))
    for _ in range(LONG):
        yield chunk(b": more\n\n")
        yield 0.002


@kind("stream-surplus")
def _(asked):
    yield http(b"".join(stream(asked)), content_type="text/event-stream") + http(envelope(asked))


@kind("stream-error")
def _(asked):
    yield from in_chunks(asked, piece(asked), event({"event": "error", "error": f"failed {asked.token}"}), event(b"[DONE]"), b"")


@kind("stream-named-error")
def _(asked):
    yield from in_chunks(asked, piece(asked), b"event: error\ndata: failed " + asked.token.encode() + b"\n\n", b"")


@kind("stream-block-error")
def _(asked):
    yield from in_chunks(asked, piece(asked), event({"event": "stream_error", "blockId": "b", "error": asked.token}), *stream(asked), b"")


@kind("stream-garbage")
def _(asked):
    yield from in_chunks(asked, b"\x00\xff\xfe\n\n", event(b"{no json"), event(b"[1]"), event(b"[" * 5_000), *stream(asked), b"")


@kind("stream-bad-chunk")
def _(asked):
    yield from in_chunks(asked, piece(asked))
    yield b"xyz\r\n"
    yield CLOSE


@kind("stream-gzip-garbage")
def _(asked):
    yield head(CHUNKED, EVENTS, "Content-Encoding: gzip") + chunk(b"no gzip at all") + LAST


@kind("stream-page")
def _(asked):
    yield http(b"<html>sign in</html>", content_type="text/event-stream")


@kind("stream-json")
def _(asked):
    yield http(envelope(asked), content_type="text/event-stream")


@kind("stream-other-type")
def _(asked):
    yield http(b"".join(stream(asked)), content_type="application/octet-stream")


@kind("stream-empty")
def _(asked):
    yield head(CHUNKED, EVENTS) + LAST


@kind("stream-endless")
def _(asked):
    yield head(CHUNKED, EVENTS)
    for number in range(LONG * 10):
        yield chunk(piece(asked, number))
        yield 0.002


@kind("stream-comments")
def _(asked):
    yield head(CHUNKED, EVENTS)
    for _ in range(LONG * 10):
        yield chunk(b": still there\n\n")
        yield 0.002


@kind("stream-one-line")
def _(asked):
    yield head("Connection: close", EVENTS) + b"data: "
    for _ in range(LONG * 4):
        yield b"x" * 4_000
        yield DRIP / 4


# --------------------------------------------------------------------------------------------------- runs that were queued


def ticket(name: str, make: Callable[[Asked], Dict[str, Any]]) -> None:
    @kind(f"ticket-{name}")
    def _(asked):
        yield http({"success": True, **make(asked)}, status="202 Accepted")


ticket("plain", lambda asked: {"taskId": f"{asked.random.choice(sorted(JOBS))}~{asked.token}", "status": "queued", "createdAt": "now"})
ticket("observed", lambda asked: {"async": True, "jobId": f"{asked.random.choice(sorted(JOBS))}~{asked.token}", "statusUrl": "/x"})
ticket("dirty", lambda asked: {"taskId": f"a\r\n\x1b[31m{asked.token}\u202e", "status": "queued"})
ticket("without-id", lambda asked: {"status": "queued"})
ticket("number", lambda asked: {"taskId": 5, "status": "queued"})


def state(asked: Asked, word: str, **more: Any) -> bytes:
    return http({"success": True, "taskId": asked.token, "status": word, "metadata": {}, **more})


def done(asked: Asked) -> bytes:
    return state(asked, "completed", output={"token": asked.token})


def running(asked: Asked) -> bytes:
    return state(asked, "processing")


JOBS: Dict[str, Callable[[Asked, int], Iterator[Step]]] = {}
"""A job by the first part of its id: what each of its polls is sent. The polls count from 0."""


def job(name: str, *polls: Callable[[Asked], bytes], then: Step = b"") -> None:
    def send(asked: Asked, poll: int) -> Iterator[Step]:
        yield polls[min(poll, len(polls) - 1)](asked)
        yield then

    JOBS[name] = send


def refusal(status: str, *headers: str) -> Callable[[Asked], bytes]:
    return lambda asked: http({"error": f"no {asked.token}"}, *headers, status=status)


job("ok", running, running, done)
job("at-once", done)
job("observed", lambda asked: state(asked, "pending"), lambda asked: state(asked, "running"), lambda asked: state(asked, "success"))
job("failed", running, lambda asked: state(asked, "failed", error=f"failed {asked.token}"))
job("cancelled", running, lambda asked: state(asked, "cancelled", error="Cancelled"))
job("for-ever", running)
job("unknown-state", lambda asked: state(asked, "\x1b[31mthinking\r\n"))
job("vanishes", running, refusal("404 Not Found"))
job("comes-late", refusal("404 Not Found"), refusal("404 Not Found"), done)
job("locked-out-for-a-while", running, refusal("401 Unauthorized"), refusal("401 Unauthorized"), done)
job("gone", running, refusal("410 Gone"))
job("down-for-a-while", refusal("503 Down"), refusal("502 Down", "Retry-After: 0"), refusal("429 Slow", "Retry-After: 0"), done)
job("pages", lambda asked: http(b"<html>hello</html>", content_type="text/html"), lambda asked: http(b"{"), done)
job("drops", running, running, done, then=CLOSE)
job("surplus", lambda asked: running(asked) * 2, done)
job("silent", lambda asked: http({})[:10], then=HANG)
job("wrong-shape", lambda asked: http({"success": True, "status": 5, "metadata": "no", "taskId": [asked.token]}), done)


# ------------------------------------------------------------------------------------------------- workflow status, limits


def status_steps(asked: Asked) -> Iterator[Step]:
    yield http({"isDeployed": True, "deployedAt": asked.token, "needsRedeployment": False})


def usage_steps(asked: Asked) -> Iterator[Step]:
    rate = {
        "isLimited": False,
        "limit": 1000,
        "remaining": 900,
        "resetAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1)),
    }
    healthy = http({"success": True, "rateLimit": {"sync": rate, "async": rate, "authType": "api"}, "usage": {}})
    odd = {**rate, "resetAt": ":" * 200}
    yield asked.random.choice(
        [
            *[healthy] * 8,
            http({"success": True, "rateLimit": {"sync": odd, "async": odd}, "usage": None}),
            http({"success": True, "rateLimit": [], "usage": 5}),
            http({"error": "down"}, status="503 Down"),
            http(b"<html></html>", content_type="text/html"),
            healthy * 2,
            healthy[:-9] + bytes(9),
        ]
    )
