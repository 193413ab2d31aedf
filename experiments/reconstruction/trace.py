"""What the codes of a VAE do in every twentieth step: `python experiments/reconstruction/trace.py WORDS...`.

WORDS are those of a run: method=vae experiment=quick data=folder data.root=... budget.learning_rate=1e-3. A line has
loss, divergence, the logarithm of gamma, the largest mean of a code and the lowest and highest log variance.
"""

from itertools import count

import torch

from anomaly_lab.__main__ import main
from anomaly_lab.core.types import Batch
from anomaly_lab.methods.base.method import Scalar
from anomaly_lab.methods.vae import VAE

of_vae, steps = VAE.losses, count(1)


def traced(method: VAE, batch: Batch) -> dict[str, Scalar]:
    """Its losses; said aloud."""
    losses = of_vae(method, batch)
    if method.training and (step := next(steps)) % 20 == 0:
        with torch.no_grad():
            mean, log_variance = method.network.encode(batch.image)
        print(
            f"{step}: loss {losses['loss']:.4g}, divergence {losses['kl']:.4g}, log gamma {method.log_gamma:.2f}, "
            f"largest mean {mean.abs().max():.3g}, log variance {log_variance.min():.3g} to {log_variance.max():.3g}",
            flush=True,
        )
    return losses


VAE.losses = traced
main()
