"""What libraries say in vain."""

import logging
import warnings

import pytest

from anomaly_lab.training.messages import quiet


@pytest.mark.parametrize(
    ("text", "silent"),
    [("`isinstance(treespec, LeafSpec)` is deprecated", True), ("a loss of another kind", False)],
)
def test_only_known_warnings_are_silenced(text, silent):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quiet()
        warnings.warn(text, stacklevel=1)
    assert bool(heard) != silent
    assert logging.getLogger("pytorch_lightning").level == logging.WARNING
