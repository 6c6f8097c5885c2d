"""The report of a soak, and what it requires."""

from typing import Any, Dict, List, Tuple

from .operations import GRACE, Book

OBJECTS = 3_000  # that may be added from the second round to the last
TRACED = 3.0  # megabytes that Python may allocate in addition
RESIDENT = 100.0  # megabytes that the process may grow by from the middle round to the last: allocators do not return every page

Stalls = List[Tuple[float, float]]


def show(book: Book, served: Dict[str, Any], quiet: List[Any], stalls: Stalls) -> int:
    """Print the report, and return 1 if anything was violated."""
    for what in late_ones(book, stalls):
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
    over = sorted(book.overshoots) or [0.0]
    p50, p99 = over[len(over) // 2], over[len(over) * 99 // 100]
    print(f"\nlater than the timeout: {len(book.overshoots):,} operations, p50 {p50:.3f} s, p99 {p99:.3f} s, at most {over[-1]:.3f} s")
    print(f"the machine stood still for {sum(end - start for start, end in stalls):.1f} s in {len(stalls)} pauses")
    for number, one in enumerate(quiet):
        resident = "" if one.resident is None else f", {one.resident:.1f} MB resident"
        counts = f"{one.threads} threads, {one.descriptors} descriptors, {one.objects:,} objects"
        print(f"after round {number}: {counts}, {one.traced:.1f} MB allocated{resident}")
    print(f"kinds: {', '.join(f'{name} {count:,}' for name, count in sorted(kinds.items()))}\n")
    for example in [*book.violations.examples, *served["examples"]]:
        print(f"VIOLATION: {example}")
    for what, count in violations.items():
        print(f"VIOLATIONS: {count:,} x {what}")
    return 1 if violations else 0


def late_ones(book: Book, stalls: Stalls) -> List[str]:
    """Return what took too long, unless the whole machine stood still meanwhile."""
    found = []
    for started, ended, over, what in book.late:
        stood_still = sum(min(ended, end) - max(started, start) for start, end in stalls if start < ended and end > started)
        if over - stood_still > GRACE:
            found.append(f"{what}: {over:.2f} s later than its timeout")
    return found


def leaks(quiet: List[Any]) -> List[str]:
    """Return what was left behind at the end of a round, and what grew from the second round to the last."""
    start, second, last = quiet[0], quiet[2], quiet[-1]
    found = [f"threads left: {one.threads - start.threads}" for one in quiet if one.threads > start.threads]
    found += [f"descriptors left: {one.descriptors - start.descriptors}" for one in quiet if one.descriptors != start.descriptors]
    if last.objects - second.objects > OBJECTS:
        found.append(f"objects: {second.objects:,} after the second round, {last.objects:,} at the end")
    if last.traced - second.traced > TRACED:
        found.append(f"memory: {second.traced:.1f} MB allocated after the second round, {last.traced:.1f} MB at the end")
    middle = quiet[len(quiet) // 2].resident
    if last.resident is not None and last.resident - middle > RESIDENT:
        found.append(f"memory: {middle:.1f} MB resident after the middle round, {last.resident:.1f} MB at the end")
    return found
