"""The gate of a batch, against simulated servers: no clock runs here, and no socket is open."""

import heapq
import math
import random
from collections import deque
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall_sdk._batch import FIRST_ROUND, LOOK_AHEAD
from recall_sdk._gate import FIRST_HOLD, LONGEST_RESET, Gate

LONGEST = 30.0
"""Seconds: ``max_delay`` as it comes unless told otherwise."""


class Bucket:
    """A server's limit: ``burst`` tokens, refilled at ``rate`` a second."""

    def __init__(self, rate, burst):
        self.rate, self.burst, self.tokens, self.time = rate, burst, float(burst), 0.0

    def take(self, now):
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def ideal(self, calls):
        """Seconds that so many calls take at best."""
        return max(0, calls - self.burst) / self.rate

    def headers(self, now):
        return int(self.tokens), math.ceil(now + (self.burst - self.tokens) / self.rate) - now


class Window:
    """A server's limit: ``size`` calls in each window of ``length`` seconds."""

    def __init__(self, size, length):
        self.size, self.length, self.number, self.used = size, length, 0, 0

    def take(self, now):
        if now // self.length > self.number:
            self.number, self.used = now // self.length, 0
        if self.used == self.size:
            return False
        self.used += 1
        return True

    def headers(self, now):
        return self.size - self.used, math.ceil((self.number + 1) * self.length) - now

    def ideal(self, calls):
        return (calls - 1) // self.size * self.length


class Run:
    """What a simulated batch came to: seconds until the last was accepted, refusals, and items refused more often than they may be."""

    def __init__(self):
        self.seconds, self.refused, self.failed = 0.0, 0, 0


def simulate(server, *, calls=400, workers=16, latency=0.002, work=0.001, order=None, headers=False, retries=3, seed=1):
    """Run a batch against a server, event by event.

    Args:
        server: The server's limit.
        calls: Items of the batch.
        workers: Calls in flight at most.
        latency: Seconds that a request and its answer are under way, give or take 10 %.
        work: Seconds that an accepted call works.
        order: The Retry-After that each 429 carries, in seconds.
        headers: Whether accepted calls tell what is left.
        retries: How often an item may be refused and tried again.
        seed: Of the dice.
    """
    dice = random.Random(seed)
    gate, run = Gate(LONGEST), Run()
    source, new, waiting, events = iter(range(calls)), deque(), [], []
    drawn, ended, under_way, answered, number, now = 0, 0, 0, 0, 0, 0.0

    def at(time, *event):
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, *event))

    def way():
        return latency * dice.uniform(0.45, 0.55)

    def send():
        nonlocal under_way, drawn
        fresh = [(item, 0) for item in islice(source, LOOK_AHEAD * workers - (drawn - ended))]
        drawn += len(fresh)
        new.extend(fresh)
        while under_way < workers and (new or waiting):
            first_round = answered + under_way >= workers > answered
            wait = max(gate.wait(now), 0.0 if new else waiting[0][0] - now, FIRST_ROUND - now if first_round else 0.0)
            if wait > 0:
                at(now + wait, "look")
                return
            retry = waiting and waiting[0][0] <= now and (gate.rate or not new)
            item = heapq.heappop(waiting)[1:] if retry else new.popleft()
            under_way += 1
            at(now + way(), "arrive", item, gate.sent(now))

    at(0.0, "look")
    while events:
        now, _, kind, *event = heapq.heappop(events)
        if kind == "arrive":
            item, ticket = event
            accepted = server.take(now)
            run.seconds = now if accepted else run.seconds
            at(now + way() + (work if accepted else 0.0), "answer", item, ticket, accepted, server.headers(now) if headers else None)
            continue
        if kind == "answer":
            (item, refusals), ticket, accepted, told = event
            under_way -= 1
            answered += 1
            if accepted:
                ended += 1
                if told:
                    gate.told(ticket, now, *told)
            else:
                run.refused += 1
                gate.refused(ticket, now, order)
                backoff = 0.0 if gate.rate and not refusals else min(LONGEST, 2.0**refusals) * dice.uniform(0.75, 1.25)
                if refusals == retries:
                    run.failed += 1
                    ended += 1
                else:
                    heapq.heappush(waiting, (now + (backoff if order is None else order), item, refusals + 1))
        send()
    return run


# ---------------------------------------------------------------------------------------------------------------- the bars


@pytest.mark.parametrize("latency", [0.001, 0.002, 0.005, 0.01])
@pytest.mark.parametrize("seed", range(5))
def test_plain_429s_cost_next_to_nothing(latency, seed):
    """400 calls by 16 workers take at most 1.10 of the bucket's own time where a 429 says nothing more, and 3 % are refused at most."""
    server = Bucket(50, 10)
    run = simulate(server, latency=latency, seed=seed)
    assert run.seconds <= 1.10 * server.ideal(400)
    assert run.refused <= 12
    assert run.failed == 0


@pytest.mark.parametrize("latency", [0.001, 0.002, 0.005, 0.01])
@pytest.mark.parametrize("seed", range(5))
def test_ordered_pauses_are_few(latency, seed):
    """They take at most 1.30 of it where each 429 orders a pause of a second: two such pauses are all that it takes to know the rate."""
    server = Bucket(50, 10)
    run = simulate(server, latency=latency, order=1.0, seed=seed)
    assert run.seconds <= 1.30 * server.ideal(400)
    assert run.refused <= 12
    assert run.failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_headers_spare_the_second_pause(seed):
    """Where the headers tell what is left, the rate is known after the first ordered pause."""
    server = Bucket(50, 10)
    run = simulate(server, order=1.0, headers=True, seed=seed)
    assert run.seconds <= 1.22 * server.ideal(400)
    assert run.refused == 6  # the unavoidable ones: 16 workers meet a burst of 10


# ---------------------------------------------------------------------------------------------------------- all other limits


@pytest.mark.parametrize("workers", [1, 4, 16, 64])
@pytest.mark.parametrize("latency", [0.001, 0.02, 0.2])
@pytest.mark.parametrize("burst", [1, 10, 100])
@pytest.mark.parametrize("rate", [2, 10, 50, 200, 500])
@pytest.mark.parametrize("order", [None, 1.0])
def test_every_bucket_is_used_well(rate, burst, latency, workers, order):
    """Whatever the limit, the latency and the workers: the time stays near what the bucket or the workers allow, and few are refused."""
    server = Bucket(rate, burst)
    run = simulate(server, latency=latency, workers=workers, order=order)
    at_best = max(server.ideal(400), 400 / workers * (latency + 0.001))
    assert run.seconds <= 1.8 * at_best + 2 + 8 * (order or 0.15)  # a constant for learning; each ordered pause counts
    assert run.refused <= workers + 40
    assert run.failed == 0


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize(("size", "length"), [(5, 60), (50, 60), (100, 10), (20, 1), (200, 60)])
def test_windows_do_no_harm(size, length, headers):
    """A limit that is counted by the window, and knows no bucket, neither starves the batch nor uses up its retries."""
    server = Window(size, length)
    run = simulate(server, calls=4 * size, headers=headers)
    assert run.seconds <= 3.5 * server.ideal(4 * size)
    assert run.refused <= 40
    assert run.failed == 0


@pytest.mark.parametrize(("size", "length"), [(50, 60), (100, 10), (1000, 60)])
def test_headers_keep_windows_from_refusing(size, length):
    """Where the headers tell that a window is used up and when the next begins, next to nothing is refused."""
    run = simulate(Window(size, length), calls=4 * size, headers=True)
    assert run.refused <= 5


@pytest.mark.parametrize("work", [0.1, 10.0])
def test_no_limit_no_gate(work):
    """A server without a limit has all workers busy all the time."""
    run = simulate(Bucket(1e9, 1e9), work=work, latency=0.0)
    assert run.seconds == pytest.approx(24 * work)


@pytest.mark.parametrize("order", [None, 1.0])
def test_long_runs_are_not_paced(order):
    """Where the runs are so long that the workers are the limit, the gate takes nothing away, though the first burst was refused."""
    run = simulate(Bucket(50, 10), calls=160, work=10.0, order=order)
    assert run.seconds <= 1.05 * 9 * 10.0 + 2


def test_a_raised_limit_is_found():
    """When the server allows five times as much, the pace follows."""
    server = Bucket(20, 10)
    simulate_until = simulate(server, calls=400)
    raised = Bucket(20, 10)
    raised.take = lambda now: (setattr(raised, "rate", 100 if now > 10 else 20), Bucket.take(raised, now))[1]
    assert simulate(raised, calls=4000).seconds < simulate_until.seconds * 10 * 0.6


def test_a_lowered_limit_is_respected():
    """When the server allows a fifth of it, the pace follows at once, with few more refused."""
    lowered = Bucket(100, 10)
    lowered.take = lambda now: (setattr(lowered, "rate", 20 if now > 5 else 100), Bucket.take(lowered, now))[1]
    run = simulate(lowered, calls=1000)
    assert run.refused <= 30
    assert run.failed == 0


# ---------------------------------------------------------------------------------------------------------- single promises


def test_an_order_holds_all_off():
    """A retry-after is kept to the second, and one that comes later extends it."""
    gate = Gate(LONGEST)
    first, second = gate.sent(0.0), gate.sent(0.0)
    gate.refused(first, 0.1, 2.0)
    assert gate.wait(0.1) == 2.0
    gate.refused(second, 0.5, 2.0)
    assert gate.wait(0.5) == 2.0


def test_a_refusal_of_before_the_hold_starts_none():
    """A 429 that was on its way when the hold began, and orders nothing, changes nothing."""
    gate = Gate(LONGEST)
    first, second = gate.sent(0.0), gate.sent(0.0)
    gate.refused(first, 0.01, None)
    gate.refused(second, 0.02, None)
    assert gate.wait(0.01) == pytest.approx(FIRST_HOLD)


def test_holds_grow_while_all_is_refused():
    """Each request that is refused right after a hold doubles the next, up to the longest."""
    gate, now, holds = Gate(1.0), 0.0, []
    for _ in range(8):
        ticket = gate.sent(now)
        gate.refused(ticket, now, None)
        holds.append(gate.wait(now))
        now += holds[-1]
    assert holds[1:4] == pytest.approx([2 * hold for hold in holds[:3]])
    assert holds[-1] == 1.0


def test_a_reset_far_ahead_is_waited_for():
    """When those under way take the rest of a window, the next waits for the reset, a minute at most."""
    gate = Gate(LONGEST)
    first, _ = gate.sent(0.0), gate.sent(0.0)
    gate.told(first, 0.1, 1, 10.0)
    assert gate.wait(0.1) == 10.0
    gate = Gate(LONGEST)
    gate.told(gate.sent(0.0), 0.1, 0, 4000.0)
    assert gate.wait(0.1) == LONGEST_RESET


def test_what_is_left_is_used():
    """Nothing waits while the headers tell that there is more than those under way take, or that the reset is near."""
    gate = Gate(LONGEST)
    first, _ = gate.sent(0.0), gate.sent(0.0)
    gate.told(first, 0.1, 2, 10.0)
    assert gate.wait(0.1) == 0.0
    gate.told(first, 0.1, 0, 1.0)
    assert gate.wait(0.1) == 0.0


def test_late_refusals_of_the_first_burst_are_counted_with_it():
    """A 429 that arrives after the hold corrects what was taken for the burst, not what came after."""
    gate = Gate(LONGEST)
    tickets = [gate.sent(0.0) for _ in range(16)]
    gate.refused(tickets[0], 0.01, None)
    probe = gate.sent(1.0)
    for ticket in tickets[1:6]:
        gate.refused(ticket, 1.01, None)
    gate.refused(probe, 1.02, None)
    assert gate.wait(1.02) > FIRST_HOLD  # nothing was accepted since, so the hold doubles


_SECONDS = st.floats(0, 1e4)


@given(
    st.floats(0, 1e4),
    st.lists(st.tuples(st.sampled_from(["sent", "refused", "told"]), _SECONDS, st.none() | _SECONDS, st.integers(0, 100)), max_size=200),
)
def test_no_answer_upsets_the_gate(longest_hold, steps):
    """Whatever the answers, the wait is a number of seconds that no server or hold asked to be exceeded."""
    gate, now, tickets = Gate(longest_hold), 0.0, []
    most = max(longest_hold, FIRST_HOLD, LONGEST_RESET)
    for kind, seconds, order, number in steps:
        if kind == "sent":
            now += gate.wait(now)
            tickets.append(gate.sent(now))
        elif tickets:
            ticket = tickets[number % len(tickets)]
            now += seconds
            if kind == "refused":
                gate.refused(ticket, now, order)
                most = max(most, order or 0.0)
            else:
                gate.told(ticket, now, number, seconds)
        assert 0 <= gate.wait(now) <= most + 1e-6 + 2 * abs(most)
        assert gate.rate is None or gate.rate > 0
