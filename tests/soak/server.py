"""The server of the soak, in a process of its own: it sends what ``faults`` has, and keeps a ledger of what it executed.

Run as a module, it prints the ports of its two origins, and serves until its standard input ends.
"""

import json
import re
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from random import Random
from typing import Any, Counter, Dict, Iterator, List, NamedTuple, Set

from .faults import CLOSE, HANG, JOBS, KINDS, RECOVERING, RESET, Asked, Step, http, status_steps, usage_steps

TOKEN = re.compile(r"tok-[0-9a-z]+-[0-9]+[pr](?:c[12])?")
"""Names one run by its thread and a number; p: a plain call; r: one that may be sent again after a refusal; c: in a child of a fork."""

PATIENCE = 20.0  # seconds until the server gives up on a client
EXAMPLES = 3  # of each violation


class Request(NamedTuple):
    method: str
    path: str
    headers: Dict[str, str]
    body: bytes


class Violations:
    """What should never have happened: how often, by its first words, and some examples of each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.examples: List[str] = []

    def add(self, what: str, example: str = "") -> None:
        with self.lock:
            self.counts[what] += 1
            if self.counts[what] <= EXAMPLES:
                self.examples.append(f"{what}: {example}"[:3_000])


class Ledger:
    """What was executed, how often, and what should never have happened."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.requests = 0
        self.kinds: Counter[str] = Counter()
        self.violations = Violations()
        self.closed: Set[str] = set()  # tokens of runs that may not be sent again
        self.refused: Set[str] = set()  # tokens of runs that may be sent again
        self.executed: Dict[str, str] = {}  # the kind of each run that executed, by its token
        self.denied: Set[str] = set()  # tokens of runs of which the client said that they did not execute
        self.polls: Counter[str] = Counter()

    def resolve(self, name: str, token: str) -> str:
        """Return the kind of response to the next request of a run."""
        if name not in RECOVERING:
            return name
        first, later = RECOVERING[name]
        with self.lock:
            return later if token in self.refused else first

    def receive(self, name: str, token: str, *, redirected: bool) -> None:
        """Note an execution that was received."""
        kind = KINDS[name]
        with self.lock:
            self.requests += 1
            self.kinds[name] += 1
            if token in self.closed:
                self.violations.add("sent twice", f"{token} ({name})")
            if kind.executed:
                self.executed[token] = name
                if token in self.denied:
                    self.violations.add("executed although may_have_executed=False", f"{token} ({name})")
            allowed = kind.repeatable and (redirected or "r" in token[4:])
            (self.refused if allowed else self.closed).add(token)

    def deny(self, tokens: List[str]) -> None:
        """Note runs of which the client says that they did not execute."""
        with self.lock:
            self.denied.update(tokens)
            for token in tokens:
                if token in self.executed:
                    self.violations.add("executed although may_have_executed=False", f"{token} ({self.executed[token]})")

    def poll(self, task: str) -> int:
        with self.lock:
            self.requests += 1
            self.kinds[f"job {task.partition('~')[0]}"] += 1
            self.polls[task] += 1
            return self.polls[task] - 1

    def count(self, name: str) -> None:
        with self.lock:
            self.requests += 1
            self.kinds[name] += 1

    def report(self) -> Dict[str, Any]:
        with self.lock:
            counts = {"requests": self.requests, "executed": len(self.executed), "kinds": dict(self.kinds)}
            return {**counts, "violations": dict(self.violations.counts), "examples": self.violations.examples}


class Server:
    """Serves one origin. What arrives at another one must hold no key, since redirects there are not followed."""

    def __init__(self, ledger: Ledger, seed: str, other: str) -> None:
        self.ledger = ledger
        self.seed = seed
        self.other = other
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(PATIENCE)
        buffer = bytearray()
        with connection, suppress(OSError, EOFError):  # the client may leave when it likes
            while True:
                request = read_request(connection, buffer)
                for step in self.respond(request):
                    if step == CLOSE:
                        return
                    if step == RESET:
                        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        return
                    if step == HANG:
                        while connection.recv(65_536):
                            pass
                        return
                    if isinstance(step, float):
                        time.sleep(step)
                    else:
                        connection.sendall(step)

    def respond(self, request: Request) -> Iterator[Step]:
        if request.path.startswith("/soak/"):
            return self.control(request)
        if not self.other:
            self.ledger.violations.add("a request reached another origin", f"{request.method} {request.path}")
        if "cookie" in request.headers:
            self.ledger.violations.add("a cookie was sent", request.path)
        match = re.fullmatch(r"/api/(workflows|jobs|users)/([^/]+)(/[a-z-]+)?", request.path)
        if match is None:
            self.ledger.violations.add("an unknown path", f"{request.method} {request.path}")
            return iter([http({"error": "no such path"}, status="404 Not Found")])
        area, name = match.group(1), match.group(2).replace("%7E", "~")
        found = TOKEN.search(name if area == "jobs" or request.method == "GET" else request.body.decode("utf-8", "replace"))
        token = found.group() if found else "tok-none-0p"
        asked = Asked(token, request.headers.get("x-api-key", ""), self.other, Random(f"{self.seed} {token} {self.ledger.requests}"))
        if area == "users":
            self.ledger.count("usage")
            return usage_steps(asked)
        if area == "jobs":
            script = name.partition("~")[0]
            return JOBS[script](asked, self.ledger.poll(name)) if script in JOBS else iter([http({"error": "no job"}, status="404 No")])
        kind = self.ledger.resolve(name.partition("~")[0], token)
        if request.method == "GET" and kind == "status":
            self.ledger.count("status")
            return status_steps(asked)
        if request.method == "GET":
            self.ledger.count(f"GET {kind}")
        else:
            self.ledger.receive(kind, token, redirected=kind.startswith("redirect-"))
        steps = KINDS[kind].send(asked)
        return then_close(steps) if kind.startswith(("late-", "endless-")) else steps

    def control(self, request: Request) -> Iterator[Step]:
        if request.method == "POST":
            self.ledger.deny(json.loads(request.body))
        yield http(self.ledger.report() if request.path.endswith("report") else {})


def then_close(steps: Iterator[Step]) -> Iterator[Step]:
    yield from steps
    yield CLOSE


def read_request(connection: socket.socket, buffer: bytearray) -> Request:
    """Read a whole request; raise at the end of the connection."""

    def receive() -> None:
        data = connection.recv(65_536)
        if not data:
            raise EOFError
        buffer.extend(data)

    while b"\r\n\r\n" not in buffer:
        receive()
    head, _, _ = bytes(buffer).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    end = len(head) + 4 + int(headers.get("content-length", 0))
    while len(buffer) < end:
        receive()
    body = bytes(buffer[len(head) + 4 : end])
    del buffer[:end]
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)


def main() -> None:
    ledger = Ledger()
    stranger = Server(ledger, "", "")
    server = Server(ledger, sys.argv[1], f"http://127.0.0.1:{stranger.port}")
    print(server.port, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
