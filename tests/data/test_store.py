"""Threads that read ahead."""

import pytest

from anomaly_lab.data.store import ahead


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_order_is_kept_and_exceptions_are_passed_on(workers):
    assert list(ahead(lambda x: x * x, range(50), workers)) == [x * x for x in range(50)]

    def fails(x):
        if x == 7:
            raise ValueError("seven")
        return x

    results = ahead(fails, range(50), workers)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ValueError, match="seven"):
        next(results)
