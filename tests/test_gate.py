"""The gate of a batch against simulated servers, on a simulated clock."""

import heapq
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall_sdk._gate import Gate


class Bucket:
    """A token bucket, as servers have it."""

    def __init__(self, rate, burst):
        self.rate, self.burst = rate, burst
        self.tokens, self.time = burst, 0.0
        self.seconds = 1.0  # until the reset that its headers tell, at most

    @property
    def left(self):
        return int(self.tokens)

    def take(self, now):
        self.tokens = min(self.burst, self.tokens + (now - self.time) * self.rate)
        self.time = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Window:
    """A limit of so many requests in each fixed stretch of time."""

    def __init__(self, limit, seconds):
        self.limit, self.seconds = limit, seconds
        self.number, self.left = -1, limit

    def take(self, now):
        if int(now / self.seconds) != self.number:
            self.number, self.left = int(now / self.seconds), self.limit
        if not self.left:
            return False
        self.left -= 1
        return True


def simulate(server, *, calls, workers, latency, run=0.0, order=None, headers=False):
    """Run a batch through a gate; give the seconds that it took, and the requests that were refused.

    A request is answered after the latency, and the seconds of the run where it was accepted.
    """
    gate = Gate(30.0)
    now, left, refused = 0.0, calls, 0
    under_way = []  # when each ends, its number, its ticket, whether it was accepted, and what its headers tell
    while left:
        may_send = len(under_way) < min(workers, left)
        ends = under_way[0][0] if under_way else math.inf
        if may_send and ends > now and gate.wait(now) <= 0:
            ticket = gate.sent(now)
            accepted = server.take(now + latency / 2)
            told = server.left, now + server.seconds - now % server.seconds
            heapq.heappush(under_way, (now + latency + (run if accepted else 0.0), ticket.number, ticket, accepted, told))
        elif may_send and now + gate.wait(now) < ends:
            now += gate.wait(now)
        else:
            now, _, ticket, accepted, (remaining, reset) = heapq.heappop(under_way)
            if not accepted:
                refused += 1
                gate.refused(ticket, now, order)
            else:
                left -= 1
                if headers:
                    gate.told(ticket, now, remaining, reset - now)
        assert refused < 10 * calls, "no end in sight"
    return now, refused


@pytest.mark.parametrize("latency", [0.001, 0.005, 0.02])
def test_a_bucket_is_used_fully(latency):
    """Under 50 calls/s with a burst of 10, 400 calls of 16 workers take at most 1.10 of the bucket's own time, and 3 % are refused."""
    seconds, refused = simulate(Bucket(50, 10), calls=400, workers=16, latency=latency)
    assert seconds <= 1.10 * (400 - 10) / 50
    assert refused <= 0.03 * 400


@pytest.mark.parametrize("latency", [0.001, 0.005, 0.02])
def test_an_ordered_second_is_kept(latency):
    """Where each 429 orders a pause of a second, which is kept, they take at most 1.30 of it."""
    seconds, refused = simulate(Bucket(50, 10), calls=400, workers=16, latency=latency, order=1.0)
    assert seconds <= 1.30 * (400 - 10) / 50
    assert refused <= 0.03 * 400


@pytest.mark.parametrize("latency", [0.001, 0.005, 0.02])
def test_headers_spare_a_pause(latency):
    """Where headers tell what is left, the rate is known after the first ordered pause, and not after the second."""
    seconds, refused = simulate(Bucket(50, 10), calls=400, workers=16, latency=latency, order=1.0, headers=True)
    assert seconds <= 1.22 * (400 - 10) / 50
    assert refused <= 0.03 * 400


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize(("order", "bar"), [(None, 1.10), (1.0, 1.30)])
@pytest.mark.parametrize("run", [0.05, 0.3, 2.0])
def test_slow_workflows(run, order, bar, headers):
    """The bars hold where runs take their time, and what their headers tell is old when it comes."""
    seconds, refused = simulate(Bucket(50, 10), calls=400, workers=16, latency=0.002, run=run, order=order, headers=headers)
    assert seconds <= bar * max((400 - 10) / 50, 400 / 16 * run)
    assert refused <= 0.03 * 400


@pytest.mark.parametrize("order", [None, 1.0])
@pytest.mark.parametrize("rate", [2, 10, 200])
@pytest.mark.parametrize("burst", [1, 20])
def test_other_buckets(rate, burst, order):
    """Slow and fast buckets, small and large, are used reasonably, and nobody starves."""
    seconds, refused = simulate(Bucket(rate, burst), calls=300, workers=8, latency=0.01, order=order)
    ideal = max((300 - burst) / rate, 0.01)
    assert seconds <= 3 * ideal + 5
    assert refused <= 100


def test_without_a_limit():
    """Without a limit the gate never makes anybody wait."""
    gate = Gate(30.0)
    for number in range(1000):
        assert gate.wait(float(number)) == 0
        gate.sent(float(number))
    assert gate.rate is None


@pytest.mark.parametrize("headers", [False, True])
def test_a_window(headers):
    """A limit of 20 in each 5 seconds is met without starving; headers that tell what is left keep refusals away."""
    seconds, refused = simulate(Window(20, 5.0), calls=100, workers=8, latency=0.01, headers=headers)
    assert seconds <= 60
    assert not headers or refused <= 10


def test_refusals_that_arrive_late():
    """A 429 of a request that was on its way when the hold began tells nothing new, but its order is kept."""
    gate = Gate(30.0)
    first, second = gate.sent(0.0), gate.sent(0.0)
    gate.refused(first, 0.1, None)
    assert 0 < gate.wait(0.1) < 1
    gate.refused(second, 0.2, 5.0)
    assert gate.wait(0.2) == pytest.approx(5.0)


def test_refusals_that_arrive_later_still():
    """A 429 that arrives when its hold is over, and the rate measured, extends nothing and changes no measurement."""
    gate = Gate(30.0)
    gate.refused(gate.sent(0.0), 0.1, 1.0)
    gate.sent(1.1)
    first, late = gate.sent(2.0), gate.sent(2.0)
    gate.refused(first, 2.1, 1.0)
    gate.sent(3.1)
    rate, wait = gate.rate, gate.wait(3.2)
    gate.refused(late, 3.2, None)
    assert (gate.rate, gate.wait(3.2)) == (rate, wait)


def test_a_server_that_refuses_all():
    """While nothing is accepted the holds grow, up to the longest."""
    gate = Gate(4.0)
    now, holds = 0.0, []
    for _ in range(12):
        ticket = gate.sent(now)
        gate.refused(ticket, now, None)
        holds.append(gate.wait(now))
        now += holds[-1]
    assert holds == sorted(holds)
    assert holds[-1] == pytest.approx(4.0)


def test_more_late_refusals_than_the_burst():
    """Refusals of the first burst that arrive after the hold, all of it even, leave the pace a pace."""
    gate = Gate(30.0)
    first, second = gate.sent(0.0), gate.sent(0.0)
    gate.refused(first, 1.0, None)
    gate.sent(2.0)
    for _ in range(3):
        gate.refused(second, 2.0, None)
    gate.refused(gate.sent(3.0), 3.0, None)
    gate.sent(4.0)
    gate.sent(5.0)
    assert 0 < gate.wait(5.0) < math.inf


EVENTS = st.tuples(st.floats(0, 5), st.sampled_from(["ok", "429", "order", "told"]), st.floats(0, 10), st.integers(0, 5))


@given(st.lists(EVENTS, max_size=60))
def test_whatever_happens_the_wait_ends(events):
    """Whatever the order of answers, the wait is a finite number of seconds."""
    gate = Gate(30.0)
    now, tickets = 0.0, []
    for pause, kind, seconds, count in events:
        now += pause
        if gate.wait(now) == 0:
            tickets.append(gate.sent(now))
        if tickets and kind != "ok":
            ticket = tickets.pop(0)
            if kind == "told":
                gate.told(ticket, now, count, seconds)
            else:
                gate.refused(ticket, now, seconds if kind == "order" else None)
        assert 0 <= gate.wait(now) < math.inf
