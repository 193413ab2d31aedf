"""A Gaussian of rows, as what makes its variances one."""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from anomaly_lab.core.errors import UserError

FEWEST = 3  # rows of a Gaussian


def whitening(
    rows: Float[Tensor, "image feature"],
) -> tuple[Float[Tensor, " feature"], Float[Tensor, "feature feature"]]:
    """Mean and whitener of rows, one an image, in float64: |(x - mean) @ whitener.T| is the Mahalanobis distance of x.

    The covariance is shrunk by Ledoit and Wolf, by nothing for two rows, whose products are the same: it has no inverse
    then. Raises UserError for fewer than three rows, and where all are the same.
    """
    if len(rows) < FEWEST:
        raise UserError(f"data: expected three training images at least, for a Gaussian, found {len(rows)}")
    if (rows == rows[0]).all():
        raise UserError(
            f"data: expected training images whose features differ, for a Gaussian, found {len(rows)} with the same; "
            "add images that differ, or train with a lower learning rate"
        )
    values = rows.double().cpu().numpy()
    variances, vectors = np.linalg.eigh(ledoit_wolf(values)[0])
    # The symmetric one of all roots: it is unique, whatever the order and signs of the vectors.
    return torch.from_numpy(values.mean(axis=0)), torch.from_numpy(vectors / np.sqrt(variances) @ vectors.T)
