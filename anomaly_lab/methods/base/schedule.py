"""How the learning rate falls over a run."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch.optim.lr_scheduler import LambdaLR


def cosine(optimizer: torch.optim.Optimizer, trainer: pl.Trainer) -> dict[str, Any]:
    """Half a cosine, from the optimizer's learning rate down to zero at the last step, as Lightning takes schedules.

    The number of steps is asked for when a step is made. Lightning would tell it before (`estimated_stepping_batches`),
    and would have to build the loader for that: a run that resumes inside its first epoch then saw that epoch's data
    from the beginning.
    """

    def share(step: int) -> float:
        if step == 0:
            return 1.0
        batches = math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)
        return (1 + math.cos(math.pi * step / (batches * (trainer.max_epochs or 1)))) / 2

    return {"scheduler": LambdaLR(optimizer, share), "interval": "step"}
