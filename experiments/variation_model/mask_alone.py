"""Pixel metrics of the region alone, no defect being looked for: `python experiments/variation_model/mask_alone.py RUN`

RUN is the folder of a finished run with `method.region=foreground`. The map is 1 in the foreground of the mean image,
brought to each test image, and 0 elsewhere.
"""

import sys
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from anomaly_lab.config.resolvers import resolve
from anomaly_lab.data.datamodule import ImageLoader
from anomaly_lab.evaluation.maps import PixelEvaluation
from anomaly_lab.inference.detector import load

run = Path(sys.argv[1])
detector = load(run)
method = detector.method
method._compared = lambda images: method.counted.float().expand(images.shape)
config = resolve(OmegaConf.load(run / ".hydra" / "config.yaml"))
samples = instantiate(config["data"]["layout"]).test
found = PixelEvaluation()
for batch in ImageLoader(samples, detector.decoding, 8, 2):
    batch = batch._replace(image=batch.image.float() / 255)
    with torch.inference_mode():
        found.update(method(batch.image, batch.placement), batch, samples)
print({name: round(value, 4) for name, value in found.compute(samples).items()})
