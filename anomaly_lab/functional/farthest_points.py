"""Greedy selection of rows that cover all others: farthest points first (k-centre greedy), exact and lazy.

Gonzalez, Theoretical Computer Science 38, 1985: the largest distance of a row from the selection is at most twice that
of the best selection of the same size.
"""

from collections.abc import Callable, Iterable
from typing import no_type_check

import numpy as np
from jaxtyping import Float32, Int32, Int64
from numba import njit

from anomaly_lab.functional.principal_directions import principal_components

CHUNK = 64  # features after which a sum of squares may be given up
SHARED = 8  # rows of an owner for which its distances from other rows are computed once
FALL = np.float32(0.9)  # of the floor, squared
SAFE = np.float32(0.9999)  # for rounding in a lower bound

Rows = Float32[np.ndarray, "row feature"]
Short = Float32[np.ndarray, "row direction"]
Row = Float32[np.ndarray, " feature"]
Indices = Int32[np.ndarray, " row"]
Squares = Float32[np.ndarray, " row"]
Picks = Int64[np.ndarray, " pick"]
Count = Int64[np.ndarray, "1"]  # of active rows
Floor = Float32[np.ndarray, "1"]


def farthest_points(
    rows: Rows, count: int, first: int = 0, track: Callable[[list[int]], Iterable[int]] = iter
) -> tuple[Int64[np.ndarray, " pick"], float]:
    """Numbers of `count` rows, each the farthest from all before it, and the largest distance of a row from them.

    The first is `first`, the smallest number wins a tie, and fewer are selected where all others are copies of these.
    Every prefix of the selection is that of the naive greedy, which computes all distances at every pick. (Squares are
    added in float64 and rounded to float32, so that no order of the sum decides a near tie.) Four savings leave most of
    them out:

    - *Lazy floor.* Distances only fall, so an old one is an upper bound. Only rows above a floor are kept up to date;
      as long as there is one, the farthest is among them. Then the floor falls, and rows above it catch up.
    - *Triangle inequality.* A new row that is twice as far from the nearest selected row of a row (its owner) as that
      row itself is no nearer to it. One distance per owner replaces many.
    - *Principal components.* The distance in the first 32 of them is a lower bound, which lies together in memory. It
      serves the triangle inequality, too.
    - *Early exit.* A sum of squares is given up once it reaches the present distance.

    `track` wraps the about hundred parts of the work, to show how far it is. Memory: 148 bytes a row beside the rows.
    Raises ValueError for numbers that are not finite.
    """
    if not 1 <= count <= len(rows) or not 0 <= first < len(rows):
        raise ValueError(f"expected 1 to {len(rows)} rows, the first one of them, found {count} and {first}")
    rows = np.ascontiguousarray(rows)
    picks = np.empty(count, np.int64)
    picks[0] = first
    bound = np.empty(len(rows), np.float32)
    if not _begin(rows, first, bound):
        raise ValueError("expected finite numbers, found NaN or infinity among the rows")
    short = principal_components(rows)
    error = np.float32(2.0**-20 * np.sqrt(bound.max()))  # of a distance of two rows of it, by rounding
    owner = np.zeros(len(rows), np.int32)
    seen = np.ones(len(rows), np.int32)
    active = np.empty(len(rows), np.int32)
    state = np.zeros(1, np.int64), np.full(1, np.inf, np.float32)  # active rows, floor
    done = 1
    for upto in track([*range(2, count, max(1, count // 100)), count] if count > 1 else []):
        reached = _select(rows, short, error, picks, done, upto, bound, owner, seen, active, *state)
        if reached < upto:
            return picks[:reached], 0.0
        done = upto
    return picks, float(np.sqrt(_farthest(rows, short, error, picks, bound, owner, seen, active, *state)[1]))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
@no_type_check
def squared(one: Row, other: Row, limit: float) -> float:
    """The squared distance, rounded once; a number of at least `limit` where it is no smaller than that."""
    total = 0.0
    whole = len(one) // CHUNK * CHUNK
    for start in range(0, whole, CHUNK):
        part = 0.0
        for i in range(start, start + CHUNK):
            difference = np.float64(one[i] - other[i])
            part += difference * difference
        total += part
        if total >= limit:
            return np.float32(total)
    for i in range(whole, len(one)):
        difference = np.float64(one[i] - other[i])
        total += difference * difference
    return np.float32(total)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
@no_type_check
def _at_least(one: Row, other: Row, error: float) -> float:
    """A lower bound of the distance of two rows, from their first principal components."""
    total = np.float32(0)
    for i in range(len(one)):
        difference = one[i] - other[i]
        total += difference * difference
    return SAFE * np.sqrt(total) - error


@njit(nogil=True, cache=True)
@no_type_check
def _begin(rows: Rows, first: int, bound: Squares) -> bool:
    finite = True
    for i in range(len(rows)):
        bound[i] = squared(rows[i], rows[first], np.float32(np.inf))
        finite &= np.isfinite(bound[i])
    return finite


@njit(nogil=True, cache=True)
@no_type_check
def _select(
    rows: Rows,
    short: Short,
    error: float,
    picks: Picks,
    done: int,
    upto: int,
    bound: Squares,
    owner: Indices,
    seen: Indices,
    active: Indices,
    count: Count,
    floor: Floor,
) -> int:
    """Fill `picks` from `done` to `upto`; returns up to where, which is less where only copies are left."""
    near = np.empty(len(picks), np.float32)  # of a new row, by owner
    stamp = np.zeros(len(picks), np.int64)
    for pick in range(done, upto):
        number, distance = _farthest(rows, short, error, picks[:pick], bound, owner, seen, active, count, floor)
        if distance == 0:
            return pick
        picks[pick] = number
        new, kept = rows[number], 0
        for i in range(count[0]):
            row = active[i]
            own = owner[row]
            if stamp[own] != pick:
                stamp[own] = pick
                near[own] = _at_least(short[number], short[picks[own]], error)
            radius = np.sqrt(bound[row])
            if near[own] < 2 * radius and _at_least(short[row], short[number], error) < radius:
                found = squared(rows[row], new, bound[row])
                if found < bound[row]:
                    bound[row], owner[row] = found, pick
            seen[row] = pick + 1
            if bound[row] > floor[0]:
                active[kept] = row
                kept += 1
        count[0] = kept
    return upto


@njit(nogil=True, cache=True)
@no_type_check
def _farthest(
    rows: Rows,
    short: Short,
    error: float,
    picks: Picks,
    bound: Squares,
    owner: Indices,
    seen: Indices,
    active: Indices,
    count: Count,
    floor: Floor,
) -> tuple[int, float]:
    """The farthest row and its squared distance, after the floor has fallen far enough."""
    while count[0] == 0:
        largest = np.float32(0)
        for i in range(len(bound)):
            largest = max(largest, bound[i])
        if largest == 0:
            return 0, largest
        floor[0] = FALL * largest
        _catch_up(rows, short, error, picks, bound, owner, seen, floor[0])
        kept = 0
        for i in range(len(bound)):
            if bound[i] > floor[0]:
                active[kept] = i
                kept += 1
        count[0] = kept
    best = active[0]
    for i in range(1, count[0]):
        if bound[active[i]] > bound[best]:
            best = active[i]
    return best, bound[best]


@njit(nogil=True, cache=True)
@no_type_check
def _catch_up(
    rows: Rows,
    short: Short,
    error: float,
    picks: Picks,
    bound: Squares,
    owner: Indices,
    seen: Indices,
    floor: float,
) -> None:
    """Show rows above the floor the picks that they have missed, until they fall below it."""
    upto = len(picks)
    behind = np.zeros(upto + 1, np.int64)  # rows by owner: a counting sort
    for i in range(len(bound)):
        if bound[i] > floor and seen[i] < upto:
            behind[owner[i] + 1] += 1
    for i in range(upto):
        behind[i + 1] += behind[i]
    order = np.empty(behind[upto], np.int32)
    place = behind.copy()
    for i in range(len(bound)):
        if bound[i] > floor and seen[i] < upto:
            order[place[owner[i]]] = i
            place[owner[i]] += 1
    between = np.empty(upto, np.float32)  # the owner and the picks
    for own in range(upto):
        start, end = behind[own], behind[own + 1]
        if start == end:
            continue
        shared = end - start >= SHARED
        if shared:
            earliest = upto
            for k in range(start, end):
                earliest = min(earliest, seen[order[k]])
            for pick in range(earliest, upto):
                between[pick] = _at_least(short[picks[own]], short[picks[pick]], error)
        for k in range(start, end):
            row = order[k]
            first = now = np.sqrt(bound[row])  # distance from the owner at the beginning, and from that of now
            pick = seen[row]
            while pick < upto and bound[row] > floor:
                far = shared and between[pick] >= first + now
                if not far and _at_least(short[row], short[picks[pick]], error) < now:
                    found = squared(rows[row], rows[picks[pick]], bound[row])
                    if found < bound[row]:
                        bound[row], owner[row] = found, pick
                        now = np.sqrt(found)
                pick += 1
            seen[row] = pick
