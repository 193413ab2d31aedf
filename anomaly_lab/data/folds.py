"""All photos in parts, of which one is tested and the others are learnt from (`data.fold`): a run is supervised."""

import random

from anomaly_lab.core.errors import UserError
from anomaly_lab.data.samples import Sample, Splits, join_copies


def in_fold(splits: Splits, fold: int, folds: int, seed: int) -> Splits:
    """The splits with one of `folds` parts of all photos as the test; good and defective ones of the others are known.

    Training and test photos are one pool. Every type of defect, and the good photos of every category, are dealt to the
    parts in turns, in an order that `seed` shuffles. Shots of the same part, and copies, stay together. Raises
    UserError for a fold that is not there, for photos without labels, and where a kind is missing on either side.
    """
    if not fold < folds:
        raise UserError(f"data.fold: expected 0 to {folds - 1}, as data.folds={folds} says, found {fold}")
    pool = join_copies([*splits.train, *splits.test])
    if unknown := next((sample for sample in pool if sample.label not in (0, 1)), None):
        raise UserError(
            f"data.fold: expected photos that are labelled good or defective, found {unknown.path} unlabelled"
        )
    dealt = _dealt(pool, folds, seed)
    rest, test = ([sample for sample in pool if (dealt[sample.group] == fold) == tested] for tested in (False, True))
    good, defective = ([sample for sample in rest if sample.label == label] for label in (0, 1))
    tested = sum(sample.label for sample in test)
    if not defective or not 0 < tested < len(test):
        there = sum(sample.label for sample in pool)
        raise UserError(
            f"data.fold: expected good and defective photos to test, and defective ones to learn from, found {tested} "
            f"defective among the {len(test)} to test in fold {fold} of {folds}, and {there} in all; set a smaller "
            "data.folds, or choose a method that learns from good photos alone"
        )
    line = (
        f"fold {fold} of {folds}: {len(good)} good and {len(defective)} defective photos to learn from, {len(test)} to "
        "test: the run is supervised, and not compared with runs that know good photos only"
    )
    return splits._replace(train=good, test=test, labelled=tuple(defective), remarks=(*splits.remarks, line))


def _dealt(pool: list[Sample], folds: int, seed: int) -> dict[str, int]:
    """The fold of every group."""
    kinds: dict[str, dict[str, None]] = {}
    first: dict[str, str] = {}
    for sample in pool:
        kind = first.setdefault(sample.group, sample.defect)
        kinds.setdefault(kind, {})[sample.group] = None
    shuffle, dealt = random.Random(seed), {}
    for groups in kinds.values():
        for group in shuffle.sample(list(groups), len(groups)):
            dealt[group] = len(dealt) % folds
    return dealt
