"""Methods that look through networks which others have trained."""

from anomaly_lab.methods.base.method import Method
from anomaly_lab.networks.backbone import Backbone


class Pretrained(Method):
    """Beside the base class that learns: reads the weights of all frozen `Backbone`s among the modules.

    Write it second, `class PaDiM(FittedMethod, Pretrained)`: class facts are those of the first base. A backbone that
    is fine-tuned is loaded by the method itself.
    """

    def prepare_data(self) -> None:
        """Read the weights, before hours are spent on anything else."""
        self._load()

    def setup(self, stage: str) -> None:
        """Read the weights in every process."""
        if stage == "fit":
            self._load()

    def _load(self) -> None:
        for backbone in self.modules():
            if isinstance(backbone, Backbone) and not backbone.trainable and (unused := backbone.load()):
                above = ", ".join(sorted({name.split(".")[0] for name in unused}))
                self.say(f"{backbone.name}: weights above {backbone.layers[-1]} not used ({above})")
