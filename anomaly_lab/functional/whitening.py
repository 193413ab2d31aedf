"""A Gaussian of rows, as what makes its variances one."""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly_lab.core.errors import UserError


def whitening(
    rows: Float[Tensor, "image feature"],
) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature feature"]]:
    """Mean and whitener of rows, one an image, in float64: |(x - mean) @ whitener.T| is the Mahalanobis distance of x.

    The covariance is shrunk by Ledoit and Wolf. Raises UserError for fewer than two rows, and where all are the same.
    """
    if len(rows) < 2:
        raise UserError(f"data: expected two training images at least, for a Gaussian, found {len(rows)}")
    if (rows == rows[0]).all():
        raise UserError(
            f"data: expected training images whose features differ, for a Gaussian, found {len(rows)} with the same; "
            "add images that differ, or train with a lower learning rate"
        )
    values = rows.double().cpu().numpy()
    variances, vectors = np.linalg.eigh(ledoit_wolf(values)[0])
    # The symmetric one of all roots: it is unique, whatever the order and signs of the vectors.
    return torch.from_numpy(values.mean(axis=0)), torch.from_numpy(vectors / np.sqrt(variances) @ vectors.T)
