"""`python -m anomaly_lab data check KEY=VALUE ...`: what a run would find in the data, without training."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_lab.config.tables import is_table
from anomaly_lab.core.console import printable, say_first
from anomaly_lab.core.errors import UserError

if TYPE_CHECKING:
    from anomaly_lab.data.datamodule import DataModule
    from anomaly_lab.data.samples import Splits

EXAMPLES = 3  # names shown of each kind of image
MOST = 5  # sizes and suffixes listed
TELLING = 0.9  # of the good photos, or of the defective ones, have what the others do not


def check_data(words: list[str]) -> None:
    """Compose the configuration as a run does, and print what its data are; every photo is decoded once.

    Raises UserError where there are no data, and, in the end, where a run would stop at photos that cannot be read.
    """
    resolved = configuration(words)
    from anomaly_lab.data.formats import Header, header_of  # and torch with it, after mistakes in the words
    from anomaly_lab.data.table_module import TableModule

    datamodule, splits = examined(resolved)
    samples = [*splits.train, *splits.labelled, *splits.test]
    if isinstance(datamodule, TableModule):
        names = datamodule.columns
        print(f"columns: {', '.join(map(printable, names[:MOST]))}{', ...' * (len(names) > MOST)} ({len(names)})")
        learnt, held, tested = datamodule.train_samples, datamodule.held_out_samples, datamodule.test_samples
        print(f"a run learns from {len(learnt)} rows, sets its threshold on {len(held)} and tests {len(tested)}")
        return
    sizes = Counter(datamodule.sizes.values())
    print(f"sizes: {most_common((f'{width} x {height} px', n) for (height, width), n in sizes.items())}")
    suffixes = Counter(sample.path.suffix.lower() for sample in samples)
    print(f"files: {most_common(suffixes.items())}")
    headers = {path: header_of(path) for path in datamodule.sizes}
    pixels = Counter(f"{header.colour} of {header.depth}" for header in headers.values())
    print(f"pixels: {most_common(pixels.items())}")
    traits = {"size": {path: f"{width} x {height} px" for path, (height, width) in datamodule.sizes.items()}}
    traits |= {name: {path: getattr(header, name) for path, header in headers.items()} for name in Header._fields}
    for line in (*telling(traits, splits), *brightness(datamodule)):
        print(f"data: {line}")
    for defect, paths in by_defect(samples).items():
        print(f"names of {printable(defect)}: {', '.join(printable(path.name) for path in paths[:EXAMPLES])}")
    used = datamodule.train_samples, datamodule.held_out_samples, datamodule.test_samples
    decoding = datamodule.decoding
    print(
        f"a run uses {sum(map(len, used))} of {len(samples)} photos: it learns from {len(used[0])}, sets its threshold "
        f"on {len(used[1])} and tests {len(used[2])}, at {decoding.image_size} x {decoding.image_size} px, "
        f"{'gray' if decoding.channels == 1 else 'in colour'}, as {resolved['data']['datamodule']['kind']}s"
    )
    refuse_unreadable(datamodule, resolved)


def examined(resolved: dict[str, Any]) -> tuple["DataModule", "Splits"]:
    """The data of a run, every photo decoded once, and its samples; prints what they are and what is odd about them.

    Decoded training photos go to the cache, from which a run then takes them. Raises UserError where there are none.
    """
    from hydra.utils import instantiate

    from anomaly_lab.data.samples import describe

    datamodule: DataModule = instantiate(resolved["data"]["datamodule"], _convert_="all")
    labelled = tuple(datamodule.train_samples[len(datamodule.good) :])
    splits = instantiate(resolved["data"]["layout"])._replace(test=datamodule.test_samples, labelled=labelled)
    if datamodule.protocol == "supervised":
        splits = splits._replace(train=[*datamodule.good, *datamodule.held_out_samples])
    about = resolved["data"]["name"], resolved["data"]["category"], len(datamodule.held_out_samples)
    noun = "rows" if is_table(resolved) else "photos"
    print("\n".join(describe(splits).lines(*about, noun)), flush=True)
    datamodule.on_error = "skip"  # all that cannot be read are named, not only the first
    datamodule.cache = "none" if datamodule.cache == "memory" else datamodule.cache
    datamodule.setup("fit")  # prints the remarks
    return datamodule, splits


def refuse_unreadable(datamodule: "DataModule", resolved: dict[str, Any]) -> None:
    """Raise UserError if a run would stop at photos that cannot be read."""
    if (found := datamodule.unreadable) and resolved["data"]["on_error"] == "stop":
        total = len(found) + len(datamodule.sizes)
        raise UserError(
            f"a run would stop at photos that cannot be read, {len(found)} of {total}, such as {found[0]}; replace or "
            "remove them, or type data.on_error=skip to leave them out"
        )


def configuration(words: list[str]) -> dict[str, Any]:
    """The checked configuration of these overrides."""
    import hydra

    from anomaly_lab.config.check import check
    from anomaly_lab.config.compose import compose
    from anomaly_lab.config.default_method import with_method
    from anomaly_lab.config.files import CONF, config_folder
    from anomaly_lab.config.overrides import as_people_write
    from anomaly_lab.config.resolvers import register

    register()
    words, folder = config_folder(words)
    words, choice = with_method(words, folder)  # whose sizes the data get
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        checked = check(compose(as_people_write(words), folder)[0])
    say_first(choice)
    return checked


def by_defect(samples: Iterable[Any]) -> dict[str, list[Path]]:
    """The paths of the samples of each defect type."""
    paths: dict[str, list[Path]] = {}
    for sample in samples:
        paths.setdefault(sample.defect, []).append(sample.path)
    return paths


def telling(traits: Mapping[str, Mapping[Path, str]], splits: "Splits") -> list[str]:
    """A line on each trait of the files that tells good photos from defective ones.

    That is looked for in all defective ones, else in the labelled ones, beside the good ones of the training, and in
    the tested ones.
    """
    good = [sample for sample in (*splits.train, *splits.test) if sample.label == 0]
    tested = [sample for sample in splits.test if sample.label == 1]
    groups = [("defective", good, [*splits.labelled, *tested])]
    if splits.labelled:
        groups += [("labelled", splits.train, splits.labelled), ("tested defective", good, tested)]
    lines = []
    for name, values in traits.items():
        for kind, *pair in groups:
            first, second = (Counter(values[s.path] for s in samples if s.path in values) for samples in pair)
            if tells(first, second):
                lines.append(
                    f"the {name} of the files tells good photos, {most_common(first.items())}, from {kind} ones, "
                    f"{most_common(second.items())}; a method may learn to tell this apart instead of the defect"
                )
                break
    return lines


def tells(good: Counter[str], bad: Counter[str]) -> bool:
    """Whether the values of a trait are others in good photos than in defective ones.

    That is the difference of their shares, counted where good ones have more, or where defective ones have. A value
    that one photo has alone says nothing.
    """
    shares = [{value: n / counts.total() for value, n in counts.items()} for counts in (good, bad)]
    often = [value for value, n in (good + bad).items() if n > 1]
    more = [shares[0].get(value, 0) - shares[1].get(value, 0) for value in often]
    return all(shares) and max(sum(max(sign * share, 0) for share in more) for sign in (1, -1)) >= TELLING


def brightness(datamodule: "DataModule") -> list[str]:
    """A line if labelled photos are darker, or brighter, than all good ones of the training; one photo says nothing."""
    from anomaly_lab.data.seen import looks

    good, labelled = datamodule.good, datamodule.train_samples[len(datamodule.good) :]
    if not good or len(labelled) < 2:
        return []
    of = [[look.level for look in looks(some, datamodule.decoding, datamodule.workers)] for some in (good, labelled)]
    (low, high), levels = (min(of[0]) - 1, max(of[0]) + 1), of[1]
    if max(sum(level < low for level in levels), sum(level > high for level in levels)) < TELLING * len(levels):
        return []
    ranges = [f"a mean gray of {min(levels):.0f} to {max(levels):.0f} of 255" for levels in of]
    return [
        f"the brightness tells good photos, {ranges[0]}, from labelled ones, {ranges[1]}; a method may learn to tell "
        "this apart instead of the defect"
    ]


def most_common(counts: Iterable[tuple[str, int]]) -> str:
    """The most frequent names with their numbers, and how many others there are."""
    ranked = Counter(dict(counts)).most_common()
    rest = len(ranked) - MOST
    return ", ".join(f"{name} ({number})" for name, number in ranked[:MOST]) + (f", {rest} others" if rest > 0 else "")
