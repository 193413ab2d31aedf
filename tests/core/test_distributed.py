"""What several processes tell each other, with real processes."""

from functools import partial

import torch

from anomaly_lab.core.distributed import of_all_processes
from anomaly_lab.methods.base.reservoir import Reservoir
from tests.warm import in_processes


def _process(store, rank):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    items = of_all_processes([f"of {rank}"] * (rank + 1))
    reservoir = Reservoir(6, seed=0)
    for image in range(rank, 5, 2):
        reservoir.add(image, torch.full((3, 2), image))
    answer = items, reservoir.rows()
    torch.distributed.destroy_process_group()
    return answer


def test_alone_it_is_what_was_given():
    items = [1, 2]
    assert of_all_processes(items) is items


def test_every_process_has_the_items_of_all_in_their_order(tmp_path):
    alone = Reservoir(6, seed=0)
    for image in range(5):
        alone.add(image, torch.full((3, 2), image))
    expected = alone.rows()
    for items, rows in in_processes(2, partial(_process, tmp_path / "store"), tmp_path):
        assert items == ["of 0", "of 1", "of 1"]
        assert torch.equal(rows, expected)
