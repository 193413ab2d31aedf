"""`python -m anomaly_lab data check KEY=VALUE ...`: what a run would find in the data, without training."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError
from anomaly_lab.core.types import Placement
from anomaly_lab.data.images import Decoding

EXAMPLES = 3  # names shown of each kind of image
MOST = 5  # sizes and suffixes listed


@dataclass(frozen=True)
class Measuring(Decoding):
    """Notes height and width of every photo that it decodes."""

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # by path

    def _place(self, name: str, photo: np.ndarray) -> Placement:
        placement = super()._place(name, photo)
        self.sizes[name] = placement.photo
        return placement


def check_data(words: list[str]) -> None:
    """Compose the configuration as a run does, and print what its data are; every photo is decoded once.

    Raises UserError where there are no data, and, in the end, where photos cannot be read.
    """
    resolved = configuration(words)
    from hydra.utils import instantiate

    from anomaly_lab.data.samples import describe

    datamodule = instantiate(resolved["data"]["datamodule"])
    datamodule.decoding = Measuring(*astuple(datamodule.decoding))
    datamodule.cache = "none"  # a cached photo has no size
    splits = instantiate(resolved["data"]["layout"])
    samples = [*splits.train, *splits.test]
    about = resolved["data"]["name"], resolved["data"]["category"], len(datamodule.held_out_samples)
    print("\n".join(describe(splits).lines(*about)), flush=True)
    datamodule.setup("fit")  # prints the remarks
    decoding = datamodule.decoding
    sizes = Counter(decoding.sizes.values())
    print(f"sizes: {most_common((f'{width} x {height} px', n) for (height, width), n in sizes.items())}")
    suffixes = Counter(sample.path.suffix.lower() for sample in samples)
    print(f"files: {most_common(suffixes.items())}")
    for defect, paths in by_defect(samples).items():
        print(f"names of {defect}: {', '.join(printable(path.name) for path in paths[:EXAMPLES])}")
    used = [datamodule.train_samples, datamodule.held_out_samples, datamodule.test_samples]
    print(
        f"a run learns from {len(used[0])} photos, sets its threshold on {len(used[1])} and tests {len(used[2])}; it "
        f"sees them at {decoding.image_size} x {decoding.image_size} px, "
        f"{'gray' if decoding.channels == 1 else 'in colour'}, as {resolved['data']['datamodule']['kind']}s"
    )
    if missing := len(samples) - sum(map(len, used)):
        raise UserError(f"{missing} of {len(samples)} photos cannot be read; their lines above say which and why")


def configuration(words: list[str]) -> dict[str, Any]:
    """The checked configuration of these overrides; files that cannot be read are named instead of ending the check."""
    import hydra

    from anomaly_lab.cli.train import compose
    from anomaly_lab.config.check import check
    from anomaly_lab.config.files import CONF, config_folder
    from anomaly_lab.config.overrides import as_people_write
    from anomaly_lab.config.resolvers import register

    register()
    words, folder = config_folder(words)
    if not any(word.startswith("data.on_error=") for word in words):
        words = [*words, "data.on_error=skip"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose(as_people_write(words), folder)[0])


def by_defect(samples: Iterable[Any]) -> dict[str, list[Path]]:
    """The paths of the samples of each defect type."""
    paths: dict[str, list[Path]] = {}
    for sample in samples:
        paths.setdefault(sample.defect, []).append(sample.path)
    return paths


def most_common(counts: Iterable[tuple[str, int]]) -> str:
    """The most frequent names with their numbers, and how many others there are."""
    ranked = Counter(dict(counts)).most_common()
    rest = len(ranked) - MOST
    return ", ".join(f"{name} ({number})" for name, number in ranked[:MOST]) + (f", {rest} others" if rest > 0 else "")
