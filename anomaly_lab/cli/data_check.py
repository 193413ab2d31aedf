"""`python -m anomaly_lab data check KEY=VALUE ...`: what a run would find in the data, without training."""

import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from anomaly_lab.core.console import printable
from anomaly_lab.core.errors import UserError

EXAMPLES = 3  # names shown of each kind of image
MOST = 5  # sizes and suffixes listed


def check_data(words: list[str]) -> None:
    """Compose the configuration as a run does, and print what its data are.

    Raises UserError where there are no data; ends with exit code 1 where photos cannot be read.
    """
    resolved = configuration(words)
    from hydra.utils import instantiate

    from anomaly_lab.core.parallel import prefetch
    from anomaly_lab.data.samples import Sample, describe

    datamodule = instantiate(resolved["data"]["datamodule"])
    splits = instantiate(resolved["data"]["layout"])
    samples = [*splits.train, *splits.test]
    print("\n".join(lines(describe(splits), resolved)), flush=True)

    def size(sample: Sample) -> tuple[int, int] | None:
        try:
            return datamodule.decoding.size(sample.path)
        except UserError:
            return None  # `setup` says why

    with closing(prefetch(size, samples, datamodule.workers)) as read:
        sizes = Counter(found for found in read if found)
    print(f"sizes: {most_common((f'{width} x {height} px', n) for (height, width), n in sizes.items())}")
    suffixes = Counter(sample.path.suffix.lower() for sample in samples)
    print(f"files: {most_common(suffixes.items())}")
    for defect, paths in by_defect(samples).items():
        print(f"names of {defect}: {', '.join(printable(path.name) for path in paths[:EXAMPLES])}")
    before = len(datamodule.train_samples) + len(datamodule.held_out_samples) + len(datamodule.test_samples)
    datamodule.setup("fit")  # prints the remarks
    after = len(datamodule.train_samples) + len(datamodule.held_out_samples) + len(datamodule.test_samples)
    decoding = datamodule.decoding
    print(
        f"a run learns from {len(datamodule.train_samples)} photos, sets its threshold on "
        f"{len(datamodule.held_out_samples)} and tests {len(datamodule.test_samples)}; it sees them at "
        f"{decoding.image_size} x {decoding.image_size} px, {'gray' if decoding.channels == 1 else 'in colour'}, "
        f"as {resolved['data']['datamodule']['kind']}s"
    )
    if after < before:
        sys.exit(1)


def configuration(words: list[str]) -> dict[str, Any]:
    """The checked configuration of these overrides; files that cannot be read are named instead of ending the check."""
    import hydra

    from anomaly_lab.cli.train import compose
    from anomaly_lab.config.check import check
    from anomaly_lab.config.files import CONF
    from anomaly_lab.config.resolvers import register

    register()
    if not any(word.startswith("data.on_error=") for word in words):
        words = [*words, "data.on_error=skip"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose(words))


def lines(found: Any, resolved: dict[str, Any]) -> list[str]:
    """Layout, folders, and counts by split and defect."""
    answer = [f"data: {resolved['data']['name']}, {resolved['data']['category']}, layout: {found.layout or 'a table'}"]
    answer += [f"  {printable(folder)}: {role}" for folder, role in found.folders.items()]
    for split, counts in found.counts.items():
        parts = ", ".join(f"{printable(defect)} {number}" for defect, number in counts.items())
        answer.append(f"{split}: {sum(counts.values())} photos{f' ({parts})' if parts else ''}")
    abnormal = sum(number for defect, number in found.counts["test"].items() if defect.rpartition("/")[2] != "good")
    if abnormal:
        answer.append(f"masks: {found.masks} of {abnormal} defective photos")
    return answer


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
