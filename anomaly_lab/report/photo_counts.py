"""How many photos the data sets of a `select` have, which of them its ranking leaves out, and what they support."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Photos(NamedTuple):
    """How many photos there are, in a data set or in all of them."""

    good: int  # for the training, without the held-out ones
    held_out: int
    test_good: int
    defective: int

    @property
    def seen(self) -> int:
        """Photos that every method looks at; each held-out one is also shown seven times with a change."""
        return self.good + 8 * self.held_out + self.test_good + self.defective

    @property
    def labelled(self) -> bool:
        """Whether the test has photos of both kinds."""
        return bool(self.test_good and self.defective)

    def more(self, good: int) -> "Photos":
        """With so many more good photos, of which as large a share is held out."""
        held_out = round(good * self.held_out / (self.good + self.held_out))
        return self._replace(good=self.good + good - held_out, held_out=self.held_out + held_out)


def total(sets: Mapping[str, Photos]) -> Photos:
    """The photos of all data sets."""
    good, held_out, test_good, defective = (sum(counts) for counts in zip(*sets.values(), strict=True))
    return Photos(good, held_out, test_good, defective)


def unused(sets: Mapping[str, Photos], labels: bool) -> str:
    """A line about test photos that the ranking does not use; empty if there are none."""
    photos = total(sets)
    without = [name for name, each in sets.items() if not each.labelled]
    if photos.labelled and (without or not labels):
        both = f"{photos.defective} defective and {photos.test_good} good test photos"
        why = f"without both kinds in {', '.join(without)}, all sets are ranked by painted defects"
        return f"{both} are not used: {why}" if labels else f"labels=false: {both} are not used for the ranking"
    if photos.labelled:
        return ""
    if photos.defective:
        return f"{photos.defective} defective test photos are not used: put good ones beside them, such as test/good"
    return f"{photos.test_good} good test photos are not used: there are no defective ones" * bool(photos.test_good)


def supported(sets: Iterable[Photos]) -> str:
    """In how many good photos the held-out ones support one false alarm; each data set has a threshold of its own."""
    photos = sorted({each.held_out + 1 for each in sets})
    return " to ".join(str(number) for number in dict.fromkeys((photos[0], photos[-1])))
