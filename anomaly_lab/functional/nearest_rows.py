"""Nearest rows by Euclidean distance: several of them by products of matrices, a single one by lower bounds."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from numba import njit
from torch import Tensor

from anomaly_lab.functional.farthest_points import squared
from anomaly_lab.functional.principal_directions import principal_directions

BLOCK = 2**24  # numbers that a search holds at once: 64 MiB
SMALL = 512  # entries of a block whose products with some thousand queries stay in the cache of a processor
NEAR = 0.05  # of the length of a query: nearer than that, rounding decides between entries
SPARE = 4  # candidates more than neighbours, because a fast distance can confuse near ties
CACHED = 2**18  # bounds that are computed at once: 1 MiB, which stays in the cache of a processor
LANES = 16  # entries that are compared at once
MARGIN = 2.0**-14  # for rounding in a lower bound, of the square of the largest distance that is possible


def nearest_rows(
    queries: Float[Tensor, "query feature"], entries: Float[Tensor, "entry feature"], neighbours: int = 1
) -> tuple[Float[Tensor, "query neighbour"], Int[Tensor, "query neighbour"]]:
    """Euclidean distances to the nearest entries, ascending, and the numbers of these entries.

    Blocks of products find a few candidates, whose distances are then computed again from their differences: the
    memory does not grow with queries times entries, and an entry is at a distance of exactly 0 from itself. In a graph
    that is exported all queries are one block. Raises ValueError for more neighbours than entries.
    """
    if neighbours > len(entries):
        raise ValueError(f"expected at most {len(entries)} neighbours, the size of the bank, found {neighbours}")
    count = min(neighbours + SPARE, len(entries))
    centre = entries.mean(dim=0)  # products of rows that lie far from zero are large, and their differences rounded
    if torch.compiler.is_exporting():
        return _nearest(queries, entries, neighbours, count, centre)
    if neighbours == 1:
        answers = [_nearest_one(chunk, entries, centre) for chunk in queries.split(BLOCK // 2**12)]
    else:
        size = max(1, BLOCK // max(2**14, count * entries.shape[1]))
        answers = [_nearest(chunk, entries, neighbours, count, centre) for chunk in queries.split(size)]
    distances, numbers = zip(*answers, strict=True)
    return torch.cat(distances), torch.cat(numbers)


def _nearest_one(queries: Tensor, entries: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The same for a single neighbour, at the speed of the products: in blocks that stay in the cache.

    One candidate is enough where the products tell it from the others; near a query they cannot.
    """
    least = queries.new_full((len(queries),), torch.inf)
    number = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    centred = queries - centre
    for start, block in zip(range(0, len(entries), SMALL), entries.split(SMALL), strict=True):
        squares, places = _squares(centred, block - centre).min(dim=1)
        nearer = squares < least
        least, number = torch.where(nearer, squares, least), torch.where(nearer, places + start, number)
    distance = (queries - entries[number]).norm(dim=1)
    (near,) = (distance < NEAR * centred.norm(dim=1)).nonzero(as_tuple=True)
    for part in near.split(max(1, BLOCK // 2**14)):
        again, numbers = _nearest(queries[part], entries, 1, min(1 + SPARE, len(entries)), centre)
        distance[part], number[part] = again[:, 0], numbers[:, 0]
    return distance[:, None], number[:, None]


def _squares(queries: Tensor, block: Tensor) -> Tensor:
    """Squared distances, less the square of the query, which is the same for all entries."""
    return torch.addmm(block.square().sum(dim=1), queries, block.T, alpha=-2)


def _nearest(queries: Tensor, entries: Tensor, neighbours: int, count: int, centre: Tensor) -> tuple[Tensor, Tensor]:
    values: list[Tensor] = []
    places: list[Tensor] = []
    for start, block in zip(range(0, len(entries), 2**14), entries.split(2**14), strict=True):
        least = _squares(queries - centre, block - centre).topk(min(count, len(block)), largest=False)
        values.append(least.values)
        places.append(least.indices + start)
        if len(values) > 1:
            joined, numbers = torch.cat(values, dim=1), torch.cat(places, dim=1)
            kept = joined.topk(min(count, joined.shape[1]), largest=False)
            values, places = [kept.values], [numbers.gather(1, kept.indices)]
    numbers = places[0].sort(dim=1).values
    exact = torch.stack([(queries - entries[column]).norm(dim=1) for column in numbers.unbind(1)], dim=1)
    exporting = torch.compiler.is_exporting()  # ONNX has no stable sort: of equally near entries any may come first
    order = exact.topk(neighbours, largest=False) if exporting else exact.sort(dim=1, stable=True)
    # Contiguous: the export of a view of a cut tensor would fix the size of the batch.
    return order.values[:, :neighbours].contiguous(), numbers.gather(1, order.indices[:, :neighbours])


class PreparedRows:
    """Entries prepared for many exact searches of the single nearest one, on the host.

    Rows in their first principal components, beside the length of what is left, have distances that are lower bounds of
    the true ones: |q - b|^2 >= |q1 - b1|^2 + (|q2| - |b2|)^2. A small product of matrices gives these bounds of all
    entries. The entry of the smallest one gives an upper bound, and only entries whose bound is no larger are visited.
    Their sums of squares, in float64 and rounded to float32, decide; the smallest number wins a tie.
    """

    def __init__(self, entries: Float32[Tensor, "entry feature"]) -> None:
        self.entries = entries
        self._rows = np.ascontiguousarray(entries.detach().numpy())
        centre, directions = principal_directions(self._rows)
        self._centre, self._directions = torch.from_numpy(centre).float(), torch.from_numpy(directions).float()
        short = torch.cat([self._short(part) for part in entries.detach().split(2**14)])
        squares = short.square().sum(dim=1)
        self._longest = squares.max().sqrt()
        # A product with (query, 1) gives the bounds less the square of the query; what fills up is infinitely far.
        self._factor = torch.zeros(short.shape[1] + 1, -(-len(short) // LANES) * LANES)
        self._factor[:-1, : len(short)] = -2 * short.T
        self._factor[-1] = torch.inf
        self._factor[-1, : len(short)] = squares

    def _short(self, rows: Tensor) -> Tensor:
        """First principal components, and the length of what is left: by difference, so that its error stays small."""
        centred = rows - self._centre
        short = centred @ self._directions
        left = torch.addmm(centred, short, self._directions.T, alpha=-1).norm(dim=1, keepdim=True)
        return torch.cat([short, left], dim=1)

    def nearest(
        self, queries: Float32[Tensor, "query feature"]
    ) -> tuple[Float32[Tensor, " query"], Int64[Tensor, " query"]]:
        """Euclidean distance to the nearest entry, computed from differences, and the number of this entry.

        The memory does not grow with queries times entries.
        """
        numbers = torch.empty(len(queries), dtype=torch.int64)
        size = max(LANES, CACHED // self._factor.shape[1])
        bounds = torch.empty(size, self._factor.shape[1])
        distances = []
        for chunk, places in zip(queries.split(2**10), numbers.split(2**10), strict=True):
            rows = chunk.detach().contiguous()
            short = self._short(rows)
            squares = short.square().sum(dim=1)
            slack = MARGIN * (squares.sqrt() + self._longest).square() - squares
            short = torch.cat([short, torch.ones(len(short), 1)], dim=1)
            for parts in zip(*(each.split(size) for each in (short, rows, slack, places)), strict=True):
                here = torch.mm(parts[0], self._factor, out=bounds[: len(parts[0])])
                _visit(self._rows, here.numpy(), here.amin(dim=1).numpy(), *(part.numpy() for part in parts[1:]))
            distances.append((chunk - self.entries[places]).norm(dim=1))
        return torch.cat(distances), numbers


@njit(nogil=True, cache=True)
@no_type_check
def _visit(
    rows: Float32[np.ndarray, "entry feature"],
    bounds: Float32[np.ndarray, "query place"],
    least: Float32[np.ndarray, " query"],
    queries: Float32[np.ndarray, "query feature"],
    slack: Float32[np.ndarray, " query"],
    found: Int64[np.ndarray, " query"],
) -> None:
    """Fill `found` with the nearest rows; `bounds` are too small by less than `slack` is larger than 0."""
    for query in range(len(queries)):
        own, best = bounds[query], 0
        while best < len(rows) - 1 and own[best] != least[query]:
            best += 1
        distance = squared(rows[best], queries[query], np.float32(np.inf))
        limit = distance + slack[query]
        for start in range(0, len(own), LANES):
            near = np.int32(0)
            for i in range(start, start + LANES):  # one comparison of vectors
                near |= np.int32(own[i] <= limit)
            if near:
                for i in range(start, min(start + LANES, len(rows))):
                    if own[i] <= limit and i != best:
                        beyond = np.nextafter(distance, np.float32(np.inf))
                        other = squared(rows[i], queries[query], beyond)
                        if other < distance or (other == distance and i < best):
                            distance, best = other, i
                            limit = distance + slack[query]
        found[query] = best
