"""Times and their statistics: medians with quartiles, ratios per round, and requirements."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence

__all__ = ["Bar", "Measured", "Row", "Spread", "Times", "interleaved", "ratio", "spread"]


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    def scaled(self, factor: float) -> "Spread":
        """Return the same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True)
class Measured:
    """The measurement of one contender in one case. Without numbers, ``note`` says why."""

    case: str
    who: str
    unit: str
    cpu: Optional[Spread] = None
    wall: Optional[Spread] = None
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """One requirement and its measured value, which is ``None`` if it could not be measured; then it is not met."""

    what: str
    value: Optional[Spread]
    limit: float
    at_least: bool = False
    unit: str = ""
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the median meets the limit."""
        if self.value is None:
            return False
        return self.value.median >= self.limit if self.at_least else self.value.median <= self.limit


@dataclass
class Row:
    """One row of the bars."""

    name: str
    title: str
    bars: List[Bar] = field(default_factory=list)
    measured: List[Measured] = field(default_factory=list)


@dataclass
class Times:
    """Seconds per unit of work, for each round."""

    cpu: List[float] = field(default_factory=list)
    wall: List[float] = field(default_factory=list)


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of some values."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Return the spread of ours / theirs, with each pair from one round."""
    return spread([our / their for our, their in zip(ours, theirs)])


def interleaved(work: Mapping[str, Callable[[], int]], rounds: int) -> Dict[str, Times]:
    """Time each piece of work once per round, so that a busy moment of the machine affects all equally.

    Each function returns how many units it did. A first round is not counted; who begins changes from round to round.
    """
    times = {who: Times() for who in work}
    order = list(work)
    for number in range(rounds + 1):
        for who in order:
            wall, cpu = time.perf_counter(), time.process_time()
            units = work[who]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                times[who].cpu.append(cpu / units)
                times[who].wall.append(wall / units)
        order.append(order.pop(0))
    return times
