"""The server of the benchmark: prepared bytes from raw sockets, in a separate process.

It needs the standard library alone and knows no more HTTP than it takes. The workflow id in the path names the response, such as
``call-length``, ``burst-gzip``, ``paced-close``, ``memory-tokens``, ``slow-body`` or ``bucket-plain-1``.

Run as a script, it prints its port and serves until its standard input ends.
"""

import gzip
import importlib
import json
import re
import socket
import sys
import threading
import time
import zlib
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Dict, Iterable, Iterator, List, Tuple

FRAMINGS = {
    "chunked": "one event per HTTP chunk",
    "large": "HTTP chunks of 16 KB",
    "gzip": "gzip, flushed per event",
    "close": "Connection: close",
    "http10": "HTTP/1.0",
    "onechunk": "one HTTP chunk, over time",
    "length": "Content-Length",
}

BURSTS = {**FRAMINGS, "small": "one small event per HTTP chunk"}

BURST_EVENTS = 6_000
PACED_EVENTS = 20
PACED_PAUSE = 0.02  # seconds between events
MEMORY_BYTES = 200 * 1024 * 1024
CROWD = 1_000  # streams at a time
CROWD_EVENTS = 5
CROWD_PAUSE = 1.0  # seconds between the events of one of them
BUCKET_RATE = 50.0  # tokens per second
BUCKET_SIZE = 10.0
DRIP_SECONDS = 4.0
DRIP_PAUSE = 0.1  # seconds between bytes

RESPONSE = json.dumps(
    {
        "success": True,
        "output": {
            "content": "The order 4711 left the warehouse this morning.",
            "model": "small",
            "tokens": {"input": 12, "output": 11, "total": 23},
        },
        "logs": [{"blockId": "7b7735b9-19e5-4bd6-818b-46aae2596e9f", "success": True, "durationMs": 3}],
        "metadata": {"duration": 3.99, "executionId": "0f3e1c7d-1380-434f-bf95-b7114a811948", "startTime": "2026-11-23T21:23:19.593Z"},
        "totalDuration": 4,
    }
).encode()
TOKEN = b'data: {"blockId":"7b7735b9-19e5-4bd6-818b-46aae2596e9f","chunk":"Hello wor"}\n\n'
SMALL_TOKEN = b'data: {"blockId":"agent","chunk":" the"}\n\n'
WORDY = TOKEN.replace(b"}", b',"note":"%b"}' % (b"x" * 240))
OTHER = b'data: {"event":"progress","note":"' + b"x" * 2_000 + b'"}\n\n'
END = b'data: {"event":"done","success":true,"output":{"content":"Hello"},"metadata":{"duration":1}}\n\ndata: [DONE]\n\n'


def head(framing: str, length: int = 0, content_type: str = "text/event-stream", status: str = "200 OK", extra: str = "") -> bytes:
    """Return the head of a response; ``length`` is used only for the framing ``length``."""
    version = "HTTP/1.0" if framing == "http10" else "HTTP/1.1"
    if framing == "length":
        extra += f"Content-Length: {length}\r\n"
    elif framing == "close":
        extra += "Connection: close\r\n"
    elif framing != "http10":
        extra += "Transfer-Encoding: chunked\r\n"
    if framing == "gzip":
        extra += "Content-Encoding: gzip\r\n"
    return f"{version} {status}\r\nContent-Type: {content_type}\r\n{extra}\r\n".encode()


def chunk(body: bytes) -> bytes:
    """Return one HTTP chunk; for empty data, the last one."""
    return b"%x\r\n%s\r\n" % (len(body), body)


def framed(framing: str, events: Iterable[bytes], length: int) -> Iterator[bytes]:
    """Yield the body of events, ``length`` bytes in total, in a framing: one piece per event."""
    if framing == "onechunk":
        yield b"%x\r\n" % length
    packer = zlib.compressobj(wbits=31)
    for event in events:
        if framing == "gzip":
            yield chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
        elif framing in ("chunked", "large", "small"):
            yield chunk(event)
        else:
            yield event
    if framing == "gzip":
        yield chunk(packer.flush()) + chunk(b"")
    elif framing in ("chunked", "large", "small"):
        yield chunk(b"")
    elif framing == "onechunk":
        yield b"\r\n" + chunk(b"")


@lru_cache(maxsize=None)
def burst(framing: str) -> bytes:
    """Return a whole stream of ``BURST_EVENTS`` tokens."""
    events: List[bytes] = [SMALL_TOKEN if framing == "small" else TOKEN] * BURST_EVENTS + [END]
    body = b"".join(events)
    if framing == "large":  # cut anywhere, as a proxy does
        events = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
    return head(framing, len(body)) + b"".join(framed(framing, events, len(body)))


def send_paced(connection: socket.socket, framing: str) -> None:
    """Send events with pauses, each with its time of sending (CLOCK_MONOTONIC is the same in all processes)."""
    template = b'data: {"blockId":"b","chunk":"Hello","sent":"%020d"}\n\n'
    length = PACED_EVENTS * len(template % 0) + len(END)

    def events() -> Iterator[bytes]:
        for _ in range(PACED_EVENTS):
            time.sleep(PACED_PAUSE)
            yield template % time.monotonic_ns()
        time.sleep(PACED_PAUSE)
        yield END

    connection.sendall(head(framing, length))
    for piece in framed(framing, events(), length):
        connection.sendall(piece)


CROWDS: Dict[str, threading.Barrier] = {}
CROWDS_LOCK = threading.Lock()


def send_in_crowd(connection: socket.socket, workflow: str) -> None:
    """Send some events, each with its time of sending, once all streams of the crowd are open; their moments are spread over the pause."""
    with CROWDS_LOCK:
        crowd = CROWDS.setdefault(workflow, threading.Barrier(CROWD))
    connection.sendall(head("chunked"))
    time.sleep(crowd.wait() / CROWD * CROWD_PAUSE)
    for _ in range(CROWD_EVENTS):
        connection.sendall(chunk(b'data: {"blockId":"b","chunk":"Hello","sent":"%d"}\n\n' % time.monotonic_ns()))
        time.sleep(CROWD_PAUSE)
    connection.sendall(chunk(END) + chunk(b""))


def allow_connections() -> bool:
    """Allow this process the open files that a crowd needs, and return whether the system does."""
    try:
        resource = importlib.import_module("resource")  # there is none on Windows, which has no such limit
    except ImportError:
        return True
    needed = CROWD + 600  # also the idle connections of other rows
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard < needed:
        return False
    if soft not in (-1, resource.RLIM_INFINITY) and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return True


def send_memory(connection: socket.socket, kind: str) -> None:
    """Send ``MEMORY_BYTES`` of events: ``tokens``, each with a short text, or ``others``, which are large and have none."""
    block = chunk(WORDY) * 3_000 if kind == "tokens" else chunk(OTHER) * 400
    connection.sendall(head("chunked"))
    for _ in range(MEMORY_BYTES // len(block)):
        connection.sendall(block)
    connection.sendall(chunk(END) + chunk(b""))


def send_slowly(connection: socket.socket, phase: str) -> None:
    """Respond too late: with nothing, or with a head or a body byte by byte, each for ``DRIP_SECONDS``."""
    drips = int(DRIP_SECONDS / DRIP_PAUSE)
    if phase == "silence":
        time.sleep(DRIP_SECONDS)
        return
    whole = head("length", len(RESPONSE), "application/json") + RESPONSE
    if phase == "head":
        at_once, dripped, rest = whole[:20], whole[20 : 20 + drips], whole[20 + drips :]
    elif phase == "half":
        at_once, dripped, rest = whole[:-100], b"", whole[-100:]
    elif phase == "body":
        at_once, dripped, rest = whole[:-drips], whole[-drips:], b""
    elif phase == "chunked":
        at_once, dripped, rest = head("chunked", 0, "application/json") + chunk(RESPONSE)[:-drips], chunk(RESPONSE)[-drips:], chunk(b"")
    elif phase == "close":
        at_once, dripped, rest = head("close", 0, "application/json") + RESPONSE[:-drips], RESPONSE[-drips:], b""
    else:
        packed = chunk(gzip.compress(RESPONSE))
        at_once, dripped, rest = head("gzip", 0, "application/json") + packed[:-drips], packed[-drips:], chunk(b"")
    connection.sendall(at_once)
    if phase == "half":
        time.sleep(DRIP_SECONDS)
    for byte in dripped:
        time.sleep(DRIP_PAUSE)
        connection.sendall(bytes([byte]))
    connection.sendall(rest)


class Bucket:
    """A token bucket that counts its requests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tokens = BUCKET_SIZE
        self.filled_at = time.monotonic()
        self.accepted = 0
        self.rejected = 0

    def refill(self) -> None:
        """Add the tokens since the last call."""
        now = time.monotonic()
        self.tokens = min(BUCKET_SIZE, self.tokens + (now - self.filled_at) * BUCKET_RATE)
        self.filled_at = now

    def usage(self) -> Dict[str, Any]:
        """Return the response about the usage limits."""
        with self.lock:
            self.refill()
            full = time.time() + (BUCKET_SIZE - self.tokens) / BUCKET_RATE
            sync = {
                "limit": int(BUCKET_SIZE),
                "remaining": int(self.tokens),
                "resetAt": datetime.fromtimestamp(full, timezone.utc).isoformat(),
            }
            return {"success": True, "rateLimit": {"sync": sync}, "usage": {}}

    def take(self) -> bool:
        """Take a token if there is one."""
        with self.lock:
            self.refill()
            if self.tokens < 1:
                self.rejected += 1
                return False
            self.tokens -= 1
            self.accepted += 1
            return True


BUCKETS: Dict[str, Bucket] = {}
BUCKETS_LOCK = threading.Lock()


def from_bucket(workflow: str, counts: bool) -> bytes:
    """Respond to an execution, or return the counts; the bucket ``bucket-KIND-NUMBER`` is created, full, on first use."""
    with BUCKETS_LOCK:
        bucket = BUCKETS.setdefault(workflow, Bucket())
    if counts:
        return whole_response({"accepted": bucket.accepted, "rejected": bucket.rejected})
    if bucket.take():
        return CALLS["length"]
    extra = "Retry-After: 1\r\n" if "-ordered-" in workflow else ""
    return whole_response({"error": "Rate limit exceeded"}, "429 Too Many Requests", extra)


def whole_response(value: Any, status: str = "200 OK", extra: str = "") -> bytes:
    """Return a JSON response with a Content-Length."""
    body = json.dumps(value).encode()
    return head("length", len(body), "application/json", status, extra) + body


CALLS = {
    "length": head("length", len(RESPONSE), "application/json") + RESPONSE,
    "chunked": head("chunked", 0, "application/json") + chunk(RESPONSE) + chunk(b""),
}


def read_request(connection: socket.socket, buffer: bytearray) -> Tuple[str, str]:
    """Read a whole request and return its method and workflow id; ``("", "")`` if the client has closed."""
    while b"\r\n\r\n" not in buffer:
        received = connection.recv(65_536)
        if not received:
            return "", ""
        buffer += received
    request_head, _, _ = bytes(buffer).partition(b"\r\n\r\n")
    size = re.search(rb"(?i)\r\ncontent-length: *(\d+)", request_head)
    end = len(request_head) + 4 + (int(size.group(1)) if size else 0)
    while len(buffer) < end:
        received = connection.recv(65_536)
        if not received:
            return "", ""
        buffer += received
    del buffer[:end]
    method, path = request_head.split(b" ", 2)[:2]
    workflow = re.search(rb"/workflows/([^/]+)|/(usage)-limits", path)
    return method.decode(), workflow.group(workflow.lastindex or 0).decode() if workflow else "none"


def serve_connection(connection: socket.socket) -> None:
    """Respond to requests until either side closes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = bytearray()
    with connection:
        try:
            while True:
                method, workflow = read_request(connection, buffer)
                kind, _, what = workflow.partition("-")
                if kind == "call":
                    connection.sendall(CALLS[what])
                elif kind == "burst":
                    connection.sendall(burst(what))
                elif kind == "paced":
                    send_paced(connection, what)
                elif kind == "crowd":
                    send_in_crowd(connection, workflow)
                elif kind == "memory":
                    send_memory(connection, what)
                elif kind == "slow":
                    send_slowly(connection, what)
                elif kind == "bucket":
                    connection.sendall(from_bucket(workflow, method == "GET"))
                elif kind == "usage":  # of the newest batch
                    connection.sendall(whole_response(list(BUCKETS.values())[-1].usage()))
                else:
                    return
                if what in ("close", "http10", "silence"):
                    return
        except OSError:
            return  # the client left early: its right


def main() -> None:
    """Serve on a free loopback port."""
    allow_connections()
    listener = socket.create_server(("127.0.0.1", 0), backlog=CROWD)
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve_connection, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
