"""A histogram of float32 scores that needs not know their range, merges exactly, and counts a pixel in a nanosecond.

A float32 becomes a 32-bit code of the same order. Codes fall into pages of 2^20 neighbours, an eighth of an octave, and
only pages in which a score occurs have bins, all of one width of 2^shift codes: the least for which the occupied pages
fit. Bins are aligned blocks, so that widening merges them in pairs and the result depends on the scores alone: not on
their order, on batches or on the number of processes. Zero, infinities and outliers lie in pages of their own and
cost the others no resolution.

Up to `LEVELS` distinct scores are counted one by one, in a hash table; then nothing is approximate. The same holds
where bins are no wider than the zero bits that all scores end with (float16, bfloat16), and for the largest score where
its block begins with it. The ceiling at which many maps end (1, 4, 255) does so, because few of its bits are set.
"""

from typing import NamedTuple, no_type_check

import numba
import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt32

from anomaly_lab.metrics.ranking import share

LEVELS = 2**14  # distinct scores that are told apart, whatever they are
SLOTS = 2 * LEVELS
PAGE_BITS = 20
PAGES = 2 ** (32 - PAGE_BITS)
IN_PAGE = np.uint32(2**PAGE_BITS - 1)
CHUNK = 1024  # pixels between two looks for an unknown page; their bin numbers stay in the first cache
SIGN = np.uint32(2**31)
ZERO_PAGE = 2**11
ONE_SCORE_PAGES = (2**3 - 1, ZERO_PAGE, PAGES - 7)  # -infinity, zero, infinity
# Columns of counts: pixels, defect pixels, then three shares: of the regions, of the defects of an image, of a good
# image. A share has two columns: in units of 2^-31, and the rest of it in units of 2^-62.
COLUMNS = 8
NO_SHARES = np.zeros((0, 2), dtype=np.int64)
DEFECT = 5  # columns that defect pixels fill, from the second on


class Blocks(NamedTuple):
    """Counts of neighbouring scores, from the lowest block up; empty blocks are left out."""

    code: UInt32[np.ndarray, " block"]  # the lowest code that belongs to the block
    counts: Int64[np.ndarray, "block 8"]
    single: Bool[np.ndarray, " block"]  # all scores of the block are known to be equal


class ScoreHistogram:
    """Counts of scores, some of which carry weight, in memory of fixed size on the host.

    A pixel of a good image of n pixels has the weight 1/n. As long as good images have one size, they are counted apart
    from the others and weighted in the end; another size moves these counts into `shares`.

    `bins`, a power of two, is how many bins the occupied pages may have. There is room for twice as many: then pages
    nearly always lie in places of their own, and bins are found without a table.
    """

    def __init__(self, bins: int = 2**18) -> None:
        self.bins = bins
        self.low_bits = 0  # all bits that occur in any score, or-ed
        self.largest = 0  # the code of the largest score; 0: not known
        self.rounded = False  # whether scores were rounded to float32: equal ones may have differed
        self.shift = 0
        self.occupied = np.zeros(PAGES, dtype=bool)
        self.keys: UInt32[np.ndarray, " slot"] | None = np.zeros(SLOTS, dtype=np.uint32)  # None: too many, bins now
        self.total = np.zeros(SLOTS, dtype=np.int64)  # a number a slot of the hash table, or a bin
        self.good = np.zeros(SLOTS, dtype=np.int64)  # the same of good images that have `size` pixels
        self.size = 0
        self.weighted = np.zeros((SLOTS, DEFECT), dtype=np.int64)
        self.shares: Int64[np.ndarray, "slot 2"] | None = None  # of good images of other sizes
        self._first_bin = np.zeros(PAGES, dtype=np.uint32)

    def add(self, scores: Float32[np.ndarray, " pixel"], size: int = 0) -> None:
        """Count scores; none may be NaN (`look` tells), which would be counted as a score of its own.

        `size`: the pixels of each image if they are those of good images, else 0.
        """
        if size and size != self.size:
            if self.size:
                self._spread()
            self.size = size
        bits = scores.view(np.uint32)
        if self.keys is not None:
            done, full = _count_levels(bits, self.keys, self.good if size else self.total)
            bits = bits[done:]
            if full:
                self._lay_out(self._collect(), _mark_pages(bits, self.occupied.copy()))
        while len(bits):
            first, span = self._in_own_places()
            counts = self.good if size else self.total
            done = _count_bins(bits, np.uint32(self.shift), self._first_bin, first, span, counts)
            bits = bits[done:]
            if len(bits):
                self._open(_mark_pages(bits, self.occupied.copy()))

    def add_regions(
        self,
        scores: Float32[np.ndarray, "height width"],
        region: Int32[np.ndarray, "box_height box_width"],
        top: int,
        left: int,
        regions: int,
        defect_pixels: int = 0,
    ) -> None:
        """Give pixels that are counted already their share of the region (numbered from 1) in which they lie.

        And their share of the `defect_pixels` of the image; 0: those of these regions.
        """
        area = _areas(region, regions + 1)
        marked = int(area[1:].sum())
        codes, row = _codes_of_regions(scores, region, top, left, marked)
        _add_shares(self._slots(codes), row, area, defect_pixels or marked, self.weighted)

    def merge(self, code: UInt32[np.ndarray, " block"], counts: Int64[np.ndarray, "block 8"], levels: bool) -> None:
        """Add the blocks of other histograms; `levels` says that all of these told every score apart."""
        self._spread()  # the sizes of the others' images are not known
        mine = self._collect()
        codes, inverse = np.unique(np.concatenate([mine.code, code]), return_inverse=True)
        sums = np.zeros((len(codes), COLUMNS), dtype=np.int64)
        np.add.at(sums, inverse, np.concatenate([mine.counts, counts]))
        if levels and self.keys is not None and len(codes) <= LEVELS:
            self.keys = np.zeros(SLOTS, dtype=np.uint32)
            self._restore(SLOTS, Blocks(codes, sums, np.zeros(len(codes), dtype=bool)))
        elif len(codes):
            self._lay_out(Blocks(codes, sums, np.zeros(len(codes), dtype=bool)), self.occupied)

    def blocks(self) -> Blocks:
        """What was counted."""
        if self.keys is None:
            self._mark_gaps()
            if int(self.occupied.sum()) << (PAGE_BITS - self.shift) > self.bins:
                self._lay_out(self._collect(), self.occupied)
        return self._collect()

    def _collect(self) -> Blocks:
        if self.keys is not None:
            total = self.total + self.good
            used = np.flatnonzero(total)
            used = used[np.argsort(self.keys[used])]
            of_good = self.good[used, None] * self._share() + (0 if self.shares is None else self.shares[used])
            counts = np.column_stack([total[used], self.weighted[used], of_good])
            return Blocks(self.keys[used], counts, np.full(len(used), not self.rounded))
        self._mark_gaps()
        pages = np.flatnonzero(self.occupied).astype(np.uint32)
        shares = NO_SHARES if self.shares is None else self.shares
        counted = self.total, self.good, self.weighted, shares, self._share()
        code, counts = _collect(pages, self._first_bin, np.uint32(self.shift), *counted)
        single = np.isin(code >> np.uint32(PAGE_BITS), ONE_SCORE_PAGES)
        if self.low_bits & (2**self.shift - 1) == 0:
            single[:] = True
        single[-1:] |= code[-1:] == self.largest  # no score above it shares its block
        return Blocks(code, counts, single & (not self.rounded))

    def _mark_gaps(self) -> None:
        """Pages between those in places of their own were counted without a look; the ones with scores are occupied."""
        first, span = self._in_own_places()
        size = 1 << (PAGE_BITS - self.shift)
        for page in range(first, first + span):
            if not self.occupied[page]:
                start = page * size & (len(self.total) - 1)
                if self.total[start : start + size].any() or self.good[start : start + size].any():
                    self.occupied[page] = True
                    self._first_bin[page] = start

    def _open(self, occupied: Bool[np.ndarray, " page"]) -> None:
        """Give new pages free places; only where there are too many of them, everything moves."""
        self._mark_gaps()
        occupied = occupied | self.occupied
        size = 1 << (PAGE_BITS - self.shift)
        if int(occupied.sum()) * size > self.bins:
            self._lay_out(self._collect(), occupied)
            return
        taken = np.zeros(len(self.total) // size, dtype=bool)
        taken[self._first_bin[self.occupied] // size] = True
        for page in np.flatnonzero(occupied & ~self.occupied):
            own = int(page) % len(taken)
            place = int(taken.argmin()) if taken[own] else own
            taken[place] = True
            self._first_bin[page] = place * size
        self.occupied = occupied

    def _lay_out(self, blocks: Blocks, occupied: Bool[np.ndarray, " page"]) -> None:
        """Make bins as narrow as fits the occupied pages and put into them what was counted."""
        pages = occupied.copy()
        pages[blocks.code >> np.uint32(PAGE_BITS)] = True
        self.keys, self.shift = None, 0
        while int(pages.sum()) << (PAGE_BITS - self.shift) > self.bins:
            self.shift += 1
        self.occupied = np.zeros(PAGES, dtype=bool)
        self._first_bin = np.full(PAGES, 2 * self.bins, dtype=np.uint32)  # of an unknown page: beyond all
        self._restore(2 * self.bins, blocks, pages)

    def _restore(self, slots: int, blocks: Blocks, pages: Bool[np.ndarray, " page"] | None = None) -> None:
        """Empty places, then what was counted in them."""
        del self.total, self.good, self.weighted  # free before, or zeros need more than fresh memory
        self.total, self.good = np.zeros(slots, dtype=np.int64), np.zeros(slots, dtype=np.int64)
        self.weighted = np.zeros((slots, DEFECT), dtype=np.int64)
        self.shares = None if self.shares is None else np.zeros((slots, 2), dtype=np.int64)
        if pages is not None:
            self._open(pages)
        shares = NO_SHARES if self.shares is None else self.shares
        counted = self.total, self.good, self.weighted, shares, self._share()
        _add_rows(self._slots(blocks.code), np.ascontiguousarray(blocks.counts), *counted)

    def _share(self) -> Int64[np.ndarray, " 2"]:
        """What a pixel of a good image weighs."""
        return share(np.array(self.size)) if self.size else np.zeros(2, dtype=np.int64)

    def _spread(self) -> None:
        """Move the counts of good images into shares, for images of another size to come."""
        if self.shares is None:
            self.shares = np.zeros((len(self.total), 2), dtype=np.int64)
        some = np.flatnonzero(self.good)
        self.shares[some] += self.good[some, None] * self._share()
        self.total[some] += self.good[some]
        self.good[some] = 0

    def _slots(self, code: UInt32[np.ndarray, " score"]) -> UInt32[np.ndarray, " score"]:
        if self.keys is not None:
            return _insert(code, self.keys)
        _, span = self._in_own_places()
        if span:
            return (code >> np.uint32(self.shift)) & np.uint32(len(self.total) - 1)
        return self._first_bin[code >> np.uint32(PAGE_BITS)] + ((code & IN_PAGE) >> np.uint32(self.shift))

    def _in_own_places(self) -> tuple[np.uint32, np.uint32]:
        """First page, and number of pages up to the last, where each lies in its own place; else 0 pages.

        Then the bin of a score is the number of its block modulo the number of bins, for pages in between too.
        """
        pages = np.flatnonzero(self.occupied)
        places = len(self.total) >> (PAGE_BITS - self.shift)
        own = (pages % max(places, 1)) << (PAGE_BITS - self.shift)
        if len(pages) and pages[-1] - pages[0] < places and (self._first_bin[pages] == own).all():
            return np.uint32(pages[0]), np.uint32(pages[-1] - pages[0] + 1)
        return np.uint32(0), np.uint32(0)


def encode(scores: Float32[np.ndarray, " score"]) -> UInt32[np.ndarray, " score"]:
    """Codes in the order of the scores; 0 and -0 share one, a page of which they have for themselves."""
    bits = scores.view(np.uint32)
    negative = bits >= SIGN
    code = np.where(negative, ~bits, bits + SIGN + IN_PAGE + np.uint32(1))
    return np.where(scores == 0, SIGN, code)


def decode(code: UInt32[np.ndarray, " score"]) -> Float32[np.ndarray, " score"]:
    """The scores of codes; for the lowest code of a block the least score that can lie in it."""
    bits = np.where(code > SIGN, code - SIGN - IN_PAGE - np.uint32(1), ~code)
    bits = np.where((code > SIGN) & (bits == 0), np.uint32(1), bits)  # a block starts below the least number
    bits = np.where(code >> np.uint32(PAGE_BITS) == ONE_SCORE_PAGES[0], np.uint32(0xFF800000), bits)
    return np.where(code == SIGN, np.float32(0), bits.view(np.float32))


@numba.njit(nogil=True, cache=True)
@no_type_check
def look(scores: Float32[np.ndarray, " pixel"]) -> tuple[bool, int]:
    """Whether a score is NaN, and all bits that occur."""
    bits = scores.view(np.uint32)
    beyond, low_bits = np.uint32(0), np.uint32(0)
    for i in range(bits.size):
        magnitude = bits[i] & np.uint32(2**31 - 1)
        beyond |= np.uint32(0x7F800000) - magnitude  # wraps round where NaN
        low_bits |= magnitude
    return beyond >= SIGN, int(low_bits)


@numba.njit(nogil=True, cache=True)
@no_type_check
def _code(bits: int) -> int:
    code = np.uint32(~bits) if bits >= SIGN else np.uint32(bits + (SIGN + IN_PAGE + np.uint32(1)))
    return SIGN if bits & np.uint32(2**31 - 1) == 0 else code


@numba.njit(nogil=True, cache=True)
@no_type_check
def _find(code: int, keys: UInt32[np.ndarray, " slot"]) -> int:
    """The slot of a code, or the empty one where it belongs; no score has the code 0."""
    slot = (np.uint64(code) * np.uint64(2654435769) >> np.uint64(15)) & np.uint64(SLOTS - 1)
    while keys[slot] != code and keys[slot] != 0:
        slot = (slot + np.uint64(1)) & np.uint64(SLOTS - 1)
    return slot


@numba.njit(nogil=True, cache=True)
@no_type_check
def _count_levels(
    bits: UInt32[np.ndarray, " pixel"], keys: UInt32[np.ndarray, " slot"], total: Int64[np.ndarray, " slot"]
) -> tuple[int, bool]:
    """Count in the hash table until a score more than `LEVELS` comes; how far it got, and whether it was stopped."""
    levels = np.count_nonzero(keys)
    last, slot = np.uint32(0), np.uint64(0)
    for i in range(bits.size):
        code = _code(bits[i])
        if code != last:  # neighbours are often equal
            slot = _find(code, keys)
            if keys[slot] == 0:
                if levels == LEVELS:
                    return i, True
                keys[slot] = code
                levels += 1
            last = code
        total[slot] += 1
    return bits.size, False


@numba.njit(nogil=True, cache=True)
@no_type_check
def _insert(codes: UInt32[np.ndarray, " score"], keys: UInt32[np.ndarray, " slot"]) -> UInt32[np.ndarray, " score"]:
    slots = np.empty(codes.size, dtype=np.uint32)
    for i in range(codes.size):
        slot = _find(codes[i], keys)
        keys[slot] = codes[i]
        slots[i] = slot
    return slots


@numba.njit(nogil=True, cache=True)
@no_type_check
def _count_bins(
    bits: UInt32[np.ndarray, " pixel"],
    shift: int,
    first_bin: UInt32[np.ndarray, " page"],
    first_page: int,
    span: int,
    total: Int64[np.ndarray, " bin"],
) -> int:
    """Count a chunk at a time until one holds a score of an unknown page; how many pixels were counted.

    Bin numbers first, in a loop that compiles to vector instructions where pages lie in their own places, then the
    counting.
    """
    numbers = np.empty(CHUNK, dtype=np.uint32)
    first_block = np.uint32(first_page << np.uint32(PAGE_BITS)) >> shift
    blocks = np.uint32(span << np.uint32(PAGE_BITS)) >> shift
    wrap = np.uint32(total.size - 1)
    for start in range(0, bits.size, CHUNK):
        chunk = bits[start : start + CHUNK]
        number = numbers[: chunk.size]
        last = np.uint32(0)
        if span > 0:
            for i in range(chunk.size):
                block = np.uint32(_code(chunk[i]) >> shift)
                last = max(last, np.uint32(block - first_block))
                number[i] = block & wrap
            unknown = last >= blocks
        else:
            for i in range(chunk.size):
                code = _code(chunk[i])
                number[i] = first_bin[code >> np.uint32(PAGE_BITS)] + ((code & IN_PAGE) >> shift)
                last = max(last, number[i])
            unknown = last > wrap
        if unknown:
            return start
        for i in range(chunk.size):
            total[number[i]] += 1
    return bits.size


@numba.njit(nogil=True, cache=True)
@no_type_check
def _collect(
    pages: UInt32[np.ndarray, " page"],
    first_bin: UInt32[np.ndarray, " every_page"],
    shift: int,
    total: Int64[np.ndarray, " bin"],
    good: Int64[np.ndarray, " bin"],
    weighted: Int64[np.ndarray, "bin 5"],
    shares: Int64[np.ndarray, "bin_or_none 2"],
    share: Int64[np.ndarray, " 2"],
) -> tuple[UInt32[np.ndarray, " block"], Int64[np.ndarray, "block 8"]]:
    """Codes and counts of the bins that are not empty, in the order of the codes."""
    used = 0
    for number in range(total.size):
        used += (total[number] | good[number]) != 0
    codes, counts = np.empty(used, dtype=np.uint32), np.zeros((COLUMNS, used), dtype=np.int64)
    row = 0
    for page in pages:
        for inside in range(1 << (np.uint32(PAGE_BITS) - shift)):
            number = first_bin[page] + np.uint32(inside)
            pixels = total[number] + good[number]
            if pixels:
                codes[row] = np.uint32(page << np.uint32(PAGE_BITS)) | np.uint32(np.uint32(inside) << shift)
                counts[0, row] = pixels
                if weighted[number, 0]:
                    for column in range(DEFECT):
                        counts[1 + column, row] = weighted[number, column]
                for column in range(2):
                    more = shares[number, column] if len(shares) else 0
                    counts[1 + DEFECT + column, row] = good[number] * share[column] + more
                row += 1
    return codes, counts.T


@numba.njit(nogil=True, cache=True)
@no_type_check
def _mark_pages(bits: UInt32[np.ndarray, " pixel"], occupied: Bool[np.ndarray, " page"]) -> Bool[np.ndarray, " page"]:
    for i in range(bits.size):
        occupied[_code(bits[i]) >> np.uint32(PAGE_BITS)] = True
    return occupied


@numba.njit(nogil=True, cache=True)
@no_type_check
def _add_rows(
    slots: UInt32[np.ndarray, " row"],
    counts: Int64[np.ndarray, "row 8"],
    total: Int64[np.ndarray, " slot"],
    good: Int64[np.ndarray, " slot"],
    weighted: Int64[np.ndarray, "slot 5"],
    shares: Int64[np.ndarray, "slot_or_none 2"],
    share: Int64[np.ndarray, " 2"],
) -> None:
    """What is zero is not added, so that it touches no memory."""
    for i in range(slots.size):
        slot, of_good = slots[i], 0
        if len(shares):
            for column in range(2):
                shares[slot, column] += counts[i, 1 + DEFECT + column]
        elif counts[i, 1 + DEFECT]:
            of_good = counts[i, 1 + DEFECT] // share[0]
            good[slot] += of_good
        if counts[i, 0] > of_good:
            total[slot] += counts[i, 0] - of_good
        if counts[i, 1]:
            for column in range(DEFECT):
                weighted[slot, column] += counts[i, 1 + column]


@numba.njit(nogil=True, cache=True)
@no_type_check
def _areas(region: Int32[np.ndarray, "box_height box_width"], count: int) -> Int64[np.ndarray, " region"]:
    area = np.zeros(count, dtype=np.int64)
    for row in range(region.shape[0]):
        for column in range(region.shape[1]):
            area[region[row, column]] += 1
    return area


@numba.njit(nogil=True, cache=True)
@no_type_check
def _codes_of_regions(
    scores: Float32[np.ndarray, "height width"],
    region: Int32[np.ndarray, "box_height box_width"],
    top: int,
    left: int,
    count: int,
) -> tuple[UInt32[np.ndarray, " pixel"], Int32[np.ndarray, " pixel"]]:
    """The codes of the pixels that lie in a region, and which one it is."""
    bits = scores.view(np.uint32)
    codes, numbers = np.empty(count, dtype=np.uint32), np.empty(count, dtype=np.int32)
    pixel = 0
    for row in range(region.shape[0]):
        for column in range(region.shape[1]):
            if region[row, column] > 0:
                codes[pixel] = _code(bits[top + row, left + column])
                numbers[pixel] = region[row, column]
                pixel += 1
    return codes, numbers


@numba.njit(nogil=True, cache=True)
@no_type_check
def _add_shares(
    slots: UInt32[np.ndarray, " pixel"],
    region: Int32[np.ndarray, " pixel"],
    area: Int64[np.ndarray, " region"],
    defect_pixels: int,
    weighted: Int64[np.ndarray, "slot 5"],
) -> None:
    """1 / area in units of 2^-62, as two integers that add up exactly, and the same of the whole image (`share`)."""
    part = np.empty(area.size, dtype=np.int64)
    for i in range(area.size):
        part[i] = 2**62 // max(area[i], 1)
    of_image = 2**62 // defect_pixels
    for i in range(slots.size):
        slot, of_region = slots[i], part[region[i]]
        weighted[slot, 0] += 1
        weighted[slot, 1] += of_region >> 31
        weighted[slot, 2] += of_region & (2**31 - 1)
        weighted[slot, 3] += of_image >> 31
        weighted[slot, 4] += of_image & (2**31 - 1)
