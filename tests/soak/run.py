"""One soak: rounds of all threads, with a measurement at the end of each, when nothing runs."""

import ctypes
import faulthandler
import gc
import json
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Iterator, List

from recall_sdk import RecallClient, RecallError, __version__

from .operations import CLIENT_TIMEOUT, HUNG, Book, LogCheck, Thread
from .report import Quiet, show

METRONOME = """
import json, sys, threading, time
pauses = []
def tick():
    while True:
        before = time.monotonic()
        time.sleep(0.02)
        if time.monotonic() - before > 0.07:
            pauses.append([before, time.monotonic()])
threading.Thread(target=tick, daemon=True).start()
sys.stdin.read()
print(json.dumps(pauses))
"""
"""It sleeps in a process of its own: where it wakes up late, the whole machine stood still, and the client may be late by as much."""


def measure() -> Quiet:
    """Measure what is there now."""
    for _ in range(3):
        gc.collect()
    descriptors, resident = None, None
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else freed memory counts
    with suppress(OSError):
        descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Quiet(threading.active_count(), descriptors, len(gc.get_objects()), sys.getallocatedblocks(), resident)


def settle(start: Quiet) -> Quiet:
    """Wait for the threads that a batch left behind, and for their connections, which end with their time-outs."""
    deadline = time.monotonic() + 10
    while True:
        now = measure()
        if (now.threads <= start.threads and now.descriptors == start.descriptors) or time.monotonic() > deadline:
            return now
        time.sleep(0.1)


@contextmanager
def child(*arguments: str) -> Iterator[Any]:
    """Run a Python process that ends with its standard input."""
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.communicate()


def soak(seconds: float, seed: str, threads: int, skip: List[str]) -> int:
    """Run it, print the report, and return 1 if anything was violated."""
    faulthandler.enable()
    with child("-m", "tests.soak.server", seed) as server, child("-c", METRONOME) as metronome:
        book = Book(int(server.stdout.readline()))
        logging.getLogger("recall_sdk").addHandler(LogCheck(book))
        logging.getLogger("recall_sdk").setLevel(logging.DEBUG)
        client = RecallClient("key-0-secret", f"http://127.0.0.1:{book.port}", timeout=CLIENT_TIMEOUT)
        workers = [Thread(client, book, str(number), Random(f"{seed} {number}"), skip) for number in range(threads)]
        main = Thread(client, book, "main", Random(f"{seed} main"))
        quiet = [measure()]
        rounds = max(4, min(12, round(seconds / 20)))
        started = time.monotonic()
        for _ in range(rounds):
            run_round(workers, main, time.monotonic() + seconds / rounds)
            client.close()
            quiet.append(settle(quiet[0]))
            if "a thread hangs" in book.violations.counts:
                break
        took = time.monotonic() - started
        book.send_denied()
        served = book.control("GET", "/soak/report")
        pauses, _ = metronome.communicate()
    print(f"recall-sdk {__version__}, {platform.python_implementation()} {platform.python_version()}, {platform.system()}")
    print(f"{took:.0f} s, {threads} threads, seed {seed}")
    return show(book, served, quiet, json.loads(pauses))


def run_round(workers: List[Thread], main: Thread, end: float) -> None:
    """Let all threads work until a moment; meanwhile this thread closes the client, changes its key, and forks."""
    running = [threading.Thread(target=worker.run_until, args=(end,), daemon=True) for worker in workers]
    for thread in running:
        thread.start()
    while time.monotonic() < end:
        time.sleep(main.random.uniform(0.1, 0.5))
        main.random.choice([close, change_key, fork])(main)
    for thread in running:
        thread.join(max(0.0, end + HUNG - time.monotonic()))
        if thread.is_alive():
            faulthandler.dump_traceback()
            main.book.violations.add("a thread hangs")
            return


def close(main: Thread) -> None:
    main.client.close()
    main.book.outcome("client closed", "done")


def change_key(main: Thread) -> None:
    key = f"key-{main.count}-secret"
    main.client.set_api_key(key)
    kind, token = "ok-key", main.token()
    result = main.check("key changed", kind, token, lambda: main.client.execute_workflow(kind, {"token": token}, timeout=5.0), 5.0)
    if result is not None and result.output["key"] != main.count - 1:
        main.book.violations.add("another key than the one set was sent", f"{key}: {result}")


def fork(main: Thread) -> None:
    """Use the client in a child of a fork, while all other threads are in the middle of something."""
    if not sys.platform.startswith("linux"):
        return
    token = main.token()
    child = os.fork()
    if not child:
        os._exit(in_child(main.client, token))
    deadline = time.monotonic() + HUNG
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            main.book.outcome("child of a fork", "done")
            if status:
                main.book.violations.add("a child of a fork failed", f"status {status}")
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            main.book.violations.add("a child of a fork hangs")
            return
        time.sleep(0.005)


def in_child(client: RecallClient, token: str) -> int:
    """Return 0 if a call and a stream in a child get their own responses."""
    faulthandler.dump_traceback_later(30.0, exit=True)
    try:
        result = client.execute_workflow("ok-length", {"token": token + "c1"}, timeout=10.0)
        text = client.execute_workflow("stream-ok", {"token": token + "c2"}, timeout=10.0, stream=True).text
    except RecallError:
        return 2
    except BaseException:  # noqa: BLE001 -- only its number leaves this process
        return 3
    return 0 if result.output == {"token": token + "c1"} and set(text.split()) == {token + "c2"} else 1
