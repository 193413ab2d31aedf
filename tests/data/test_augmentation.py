"""The ranges of the variation; their use is tested with the patches."""

import math

import pytest

from anomaly_lab.data.augmentation import Augmentation


@pytest.mark.parametrize(("rotation", "reach"), [(0, 1), (45, math.sqrt(2)), (90, math.sqrt(2)), (180, math.sqrt(2))])
def test_reach_never_exceeds_the_diagonal(rotation, reach):
    assert Augmentation(rotation=rotation).reach() == pytest.approx(reach)
