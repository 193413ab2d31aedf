"""Random numbers determined by their position in the run."""

import numpy as np
import torch

VALIDATION, TEST, PREDICTION = range(3)


def seed(*where: int) -> None:
    """Seed torch's global generators by numbers that identify a position in the run."""
    torch.manual_seed(int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0]))
