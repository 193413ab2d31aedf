"""The smallest method on `FittedMethod`: how far each pixel lies from all normal pixels."""

from anomaly_lab.core.types import Prediction
from anomaly_lab.methods.base.fitted import FittedMethod
from anomaly_lab.methods.base.statistics import MemoryBank, RunningGaussian
from anomaly_lab.methods.base.tiling import WholeImage


class Pixels(FittedMethod):
    """A Gaussian at every pixel, and a bank of all pixels."""

    def __init__(self, pixels=16, channels=3):
        super().__init__(WholeImage())
        self.gaussian = RunningGaussian(channels, pixels)
        self.bank = MemoryBank(channels, capacity=1000)

    def rows(self, image):
        rows = image[0].flatten(1).T
        return {"gaussian": rows, "bank": rows}

    def predict(self, images):
        queries = images.movedim(1, 3).reshape(-1, images.shape[1])
        distance, _ = self.bank.nearest(queries)
        return Prediction(distance.view(len(images), 1, *images.shape[2:]), None, None)
