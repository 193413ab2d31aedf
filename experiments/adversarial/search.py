"""How far does AnoGAN's search come on normal images? `python experiments/adversarial/search.py RUN`, RUN a folder.

The loss at the end of the search as a share of that at its start, quartiles over the normal images of the test.
"""

import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lab.config.resolvers import resolve
from anomaly_lab.methods.base.build import build_method
from anomaly_lab.runs.checkpoint import load_checkpoint

run = Path(sys.argv[1])
config = resolve(OmegaConf.load(run / ".hydra" / "config.yaml"))
data, method = instantiate(config["data"]["datamodule"], _convert_="all"), build_method(config).eval()
method.load_state_dict(load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"])
data.setup("fit")
steps, shares = method.search_steps, []
for batch in data.test_dataloader():
    images = data.moved(batch, torch.device("cpu")).image[batch.label == 0]
    if len(images):
        losses = []
        for method.search_steps in (steps, 0):
            _, loss = method.search(method.signed(images))
            losses.append(loss)
        shares.append(losses[0] / losses[1])
quartiles = torch.cat(shares).quantile(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])).tolist()
print(f"{len(torch.cat(shares))} normal images, share of the loss left after {steps} steps,")
print("least, quartiles, most:", ", ".join(f"{share:.3f}" for share in quartiles))
