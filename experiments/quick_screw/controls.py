"""What detectors that learn nothing score: `python experiments/quick_screw/controls.py ROOT [CATEGORY]`, CSV out."""

import sys

import cv2
import numpy as np
import torch

from anomaly_lab.data.images import read_mask, read_working_image, to_photo
from anomaly_lab.data.layouts import mvtec_ad
from anomaly_lab.functional.ssim import ssim_map
from anomaly_lab.methods.method import default_score, smooth
from anomaly_lab.metrics.pixel_metrics import PixelMetrics
from anomaly_lab.metrics.ranking import rank


def constant_gray(image: np.ndarray) -> torch.Tensor:
    """1 - SSIM against an image of gray 0.5."""
    pixels = torch.from_numpy(image)[None].float() / 255
    return 1 - ssim_map(pixels, torch.full_like(pixels, 0.5))


def foreground(image: np.ndarray) -> torch.Tensor:
    """Otsu's foreground, dilated by 9 x 9: where the dark part is, whatever it looks like."""
    mask = cv2.threshold(image[0], 0, 1, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)[1]
    return torch.from_numpy(cv2.dilate(mask, np.ones((9, 9), np.uint8))).float()[None, None]


def brightness(image: np.ndarray) -> torch.Tensor:
    """Mean brightness, as a map of one pixel: says nothing of where."""
    return torch.tensor(image.mean()).float().view(1, 1, 1, 1)


samples = mvtec_ad(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "screw").test
labels = np.array([sample.label for sample in samples])
print("control,image_auroc,pixel_auroc,pixel_auroc_smoothed,pixel_aupro,pixel_aupro_smoothed")
for control in (constant_gray, foreground, brightness):
    raw, smoothed, scores = PixelMetrics(), PixelMetrics(), []
    for sample in samples:
        image, place = read_working_image(sample.path, 256, 1, "pad")
        anomaly_map = control(image)
        scores.append(default_score(anomaly_map).item())
        if anomaly_map.numel() > 1:
            mask = read_mask(sample.mask_path, place.photo)
            raw.update([to_photo(anomaly_map[0, 0].numpy(), place)], [mask])
            smoothed.update([to_photo(smooth(anomaly_map)[0, 0].numpy(), place)], [mask])
    scores = np.array(scores)
    row = [rank(scores[labels == 0], scores[labels == 1]).auroc()]
    if raw.regions:
        values = raw.compute(), smoothed.compute()
        row += [value[name] for name in ("auroc", "aupro") for value in values]
    print(",".join([control.__name__, *(f"{value:.4f}" for value in row)]))
