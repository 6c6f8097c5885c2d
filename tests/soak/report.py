"""The report of a soak, and what it requires."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .operations import GRACE, Book

OBJECTS = 3_000  # that may be added from the second round to the last
BLOCKS = 20_000  # of memory that Python may allocate in addition
RESIDENT = 64.0  # megabytes that the process may grow by from the middle round to the last: allocators do not return every page

Pauses = List[Tuple[float, float]]
"""Times in which the whole machine stood still."""


class Quiet(NamedTuple):
    """What is there when nothing runs."""

    threads: int
    descriptors: Optional[int]
    objects: int
    blocks: int  # of memory that Python has allocated
    resident: Optional[float]  # megabytes of the process, with what its allocators keep


def show(book: Book, served: Dict[str, Any], quiet: List[Quiet], pauses: Pauses) -> int:
    """Print the report, and return 1 if anything was violated."""
    for what in late_ones(book, pauses):
        book.violations.add("late", what)
    for what in leaks(quiet):
        book.violations.add("left behind", what)
    violations = {**book.violations.counts, **served["violations"]}
    kinds = served["kinds"]
    print(f"{served['requests']:,} requests of {len(kinds)} kinds, {served['executed']:,} executions\n")
    outcomes: Dict[str, List[str]] = {}
    for (operation, word), count in sorted(book.outcomes.items(), key=lambda one: (one[0][0], -one[1])):
        outcomes.setdefault(operation, []).append(f"{word} {count:,}")
    for operation, words in outcomes.items():
        print(f"{operation:>24}: {', '.join(words)}")
    over = sorted(book.overshoots.elements()) or [0]
    p50, p99 = over[len(over) // 2], over[len(over) * 99 // 100]
    print(f"\nlater than the timeout: {len(over):,} operations, p50 {p50} ms, p99 {p99} ms, at most {over[-1]} ms")
    print(f"the machine stood still for {sum(end - start for start, end in pauses):.1f} s")
    for number, one in enumerate(quiet):
        resident = "" if one.resident is None else f", {one.resident:.1f} MB resident"
        counts = f"{one.threads} threads, {one.descriptors} descriptors, {one.objects:,} objects, {one.blocks:,} blocks"
        print(f"after round {number}: {counts}{resident}")
    print(f"kinds: {', '.join(f'{name} {count:,}' for name, count in sorted(kinds.items()))}\n")
    for example in [*book.violations.examples, *served["examples"]]:
        print(f"VIOLATION: {example}")
    for what, count in violations.items():
        print(f"VIOLATIONS: {count:,} x {what}")
    return 1 if violations else 0


def late_ones(book: Book, pauses: Pauses) -> List[str]:
    """Return what took too long, even if one takes the load and the pauses of the machine into account."""
    found = []
    for started, ended, over, load, what in book.late:
        stood_still = sum(min(ended, end) - max(started, start) for start, end in pauses if start < ended and end > started)
        if over - stood_still > GRACE * load:
            found.append(f"{what}: {over:.2f} s later than its timeout, at {load:.1f} times the usual load")
    return found


def leaks(quiet: List[Quiet]) -> List[str]:
    """Return what was left behind at the end of a round, and what grew from the second round to the last."""
    start, second, last = quiet[0], quiet[min(2, len(quiet) - 1)], quiet[-1]
    found = [f"threads left: {one.threads - start.threads}" for one in quiet if one.threads > start.threads]
    found += [f"descriptors left: {one.descriptors - start.descriptors}" for one in quiet if one.descriptors != start.descriptors]
    for what, before, after, limit in (("objects", second.objects, last.objects, OBJECTS), ("blocks", second.blocks, last.blocks, BLOCKS)):
        if after - before > limit:
            found.append(f"{what}: {before:,} after the second round, {after:,} at the end")
    middle = quiet[len(quiet) // 2].resident
    if last.resident is not None and last.resident - middle > RESIDENT:
        found.append(f"memory: {middle:.1f} MB resident after the middle round, {last.resident:.1f} MB at the end")
    return found
