"""Random numbers determined by their position in the run."""

import numpy as np
import torch

VALIDATION, TEST, PREDICTION = range(3)


def seed(*where: int) -> None:
    """Seed torch's global generators by numbers that identify a position in the run."""
    number = int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0])
    if torch.accelerator.is_available():
        torch.manual_seed(number)
    else:  # that would note, for each kind of device that could still come, where it was called: a millisecond a step
        torch.default_generator.manual_seed(number)
