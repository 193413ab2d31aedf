"""How the learning rate falls over a run."""

import math
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "cosine", "exponential", "early_drop", "drop", "two_drops"]
CURVES: dict[Schedule, Callable[[float], float]] = {  # share of the run that is done -> factor of the learning rate
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "exponential": lambda done: 0.985 ** (200 * done),
    "early_drop": lambda done: 1.0 if done < 1 / 3 else 0.1,
    "drop": lambda done: 1.0 if done < 0.95 else 0.1,
    "two_drops": lambda done: 1.0 if done < 0.8 else 0.2 if done < 0.9 else 0.04,
}


def scheduled(optimizer: torch.optim.Optimizer, schedule: Schedule, trainer: pl.Trainer) -> dict[str, Any]:
    """A curve from the optimizer's learning rate at the first step on, as Lightning takes schedules.

    `cosine`: half a cosine down to zero at the last step; `exponential`: by the same factor in every step, to a
    twentieth (FCDD: 200 epochs of 0.985); `early_drop`: a tenth after a third of the steps; `drop`: a tenth for the
    last twentieth of them; `two_drops`: a fifth for the last fifth, and a fifth of that for the last tenth.

    The number of steps is asked for when a step is made. Lightning would tell it before (`estimated_stepping_batches`),
    and would have to build the loader for that: a run that resumes inside its first epoch then saw that epoch's data
    from the beginning.
    """

    def factor(step: int) -> float:
        if step == 0:
            return 1.0
        batches = math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)
        return CURVES[schedule](step / (batches * (trainer.max_epochs or 1)))

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}
